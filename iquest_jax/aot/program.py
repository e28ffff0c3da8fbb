"""Compiles the train step of a stage for a slice that is not there, and takes the compiled program's measure.

Run as a module it reads {"config": ..., "topology": ...} from stdin and writes the measure to stdout: every compile has a
process of its own, for its memory and because libtpu keeps state.
"""

import dataclasses
import json
import math
import os
import re
import sys
import time

from ml_collections import ConfigDict

from iquest_jax.aot import hlo, topology
from iquest_jax.aot.topology import Slice
from iquest_jax.errors import UserError

# The slice is described, not opened: no accelerator is looked for, here or on a metadata server, and two processes may
# describe one at once. The last three only have to be there.
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
}


def lower(config: ConfigDict, slice_: Slice):
  """The stage's train step on its mesh, traced for the chips of a slice.

  Raises:
    UserError: mesh, batch, row or heads do not fit the slice or each other; nothing has been compiled then.
  """
  import jax
  import jax.numpy as jnp
  from jax.experimental import topologies

  from iquest_jax import sharding
  from iquest_jax.batch import Batch
  from iquest_jax.data.rows import mixture
  from iquest_jax.kernels import gated_attention
  from iquest_jax.train import loop, step

  devices = topologies.get_topology_desc(platform='tpu', topology_name=slice_.name).devices
  mesh = sharding.make_mesh(config.mesh, devices)
  loop.check(config, mesh)
  shape = (config.train.batch_rows, config.data.context)
  row = lambda dtype, where: jax.ShapeDtypeStruct(shape[: len(where.spec)], dtype, sharding=where)
  dtypes = Batch(jnp.int32, jnp.int32, jnp.float32, jnp.int32, jnp.int32, jnp.int32)
  batch = jax.tree.map(row, dtypes, sharding.batch_shardings(mesh))
  # The abstract mesh, because constants of the trace must have a device that is there.
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), gated_attention.kernels_for('tpu'):
    stage = step.of_stage(config, mesh, len(mixture.source_names(config.data.mixture)))
    return stage.train_step.lower(stage.abstract, batch)


def measure(config: ConfigDict, slice_: Slice) -> dict:
  """What the compiler says about the train step of a stage on a slice, as plain data (bytes, cycles, seconds).

  `refused` holds the compiler's words where it refuses the program for want of memory, and only `needed_bytes` is known.
  """
  import jax

  versions = {'jax': jax.__version__, 'libtpu': libtpu_version()}
  lowered = lower(config, slice_)
  began = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return versions | {'refused': str(error).splitlines()[0], 'needed_bytes': _needed(str(error))}
  memory, module = compiled.memory_analysis(), hlo.Module(compiled.as_text())
  return versions | {
      'compile_seconds': round(time.monotonic() - began, 1),
      'peak_bytes': memory.peak_memory_in_bytes,
      'argument_bytes': memory.argument_size_in_bytes,
      'host_bytes': memory.host_temp_size_in_bytes,
      'allocations': module.allocations()[:5],
      'collectives': _together(module.collectives()),
      'kernels': [dataclasses.asdict(found) for found in module.kernels()],
      'cycles': module.cycles(),
  }


def _together(collectives: list[hlo.Collective]) -> list[dict]:
  """Equal transfers as one, `times` and `moved` added up; the largest movers first."""
  total = {}
  for found in collectives:
    alike = dataclasses.replace(found, times=0, source='')
    line = total.setdefault(alike, dataclasses.asdict(found) | {'times': 0, 'moved': 0})
    line['times'] += found.times
    line['moved'] += found.moved
  return sorted(total.values(), key=lambda line: -line['moved'])


def _needed(words: str) -> int | None:
  """Bytes in 'Used 120.5G of 95.7G hbm' or 'memory required for HLO temporaries (131.50G) exceeds'."""
  found = re.search(r'(?:Used |\()([\d.]+)([KMG])', words)
  return math.ceil(float(found[1]) * 2 ** {'K': 10, 'M': 20, 'G': 30}[found[2]]) if found else None


def libtpu_version() -> str:
  """Version of the installed libtpu; UserError with the way to install it where there is none."""
  import importlib.metadata

  try:
    return importlib.metadata.version('libtpu')
  except importlib.metadata.PackageNotFoundError:
    raise UserError('aot: libtpu is not installed; it is the extra "tpu": pip install -e .[tpu]') from None


def main() -> None:
  asked = json.load(sys.stdin)
  try:
    print(json.dumps(measure(ConfigDict(asked['config']), topology.find(asked['topology']))))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  os.environ.update(ENVIRONMENT)
  main()
