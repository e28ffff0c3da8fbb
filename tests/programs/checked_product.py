"""Compiles two products for a topology (the argument), as they are and with libtpu's checker, without a TPU.

Prints {'plain' or 'checked': bytes of scratch memory of each operation that libtpu gives some}.
"""

import json
import os
import re
import sys

from iquest_jax.aot import program, topology
from iquest_jax.train.health import checker

os.environ.update(program.ENVIRONMENT)

import jax
import jax.numpy as jnp
import numpy as np

devices = topology.find(sys.argv[1]).devices()
mesh = jax.sharding.Mesh(np.array(devices).reshape(-1), ('rows',))
on = lambda *spec: jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=jax.NamedSharding(mesh, jax.P(*spec)))
scratch = {}
for name, options in (('plain', {}), ('checked', checker.options(devices[0].device_kind))):
  products = jax.jit(lambda x, weight: jax.nn.gelu(x @ weight) @ weight, compiler_options=options)
  text = products.lower(on('rows'), on()).compile().as_text()
  scratch[name] = [int(size) for size in re.findall(r'"used_scoped_memory_configs":\[\{[^}]*"size":"(\d+)"', text)]
print(json.dumps(scratch))
