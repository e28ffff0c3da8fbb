"""The TPU kernels compile at full shape for every generation, and cost no more bundles than they did (v5p: the target)."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed (pip install "iquest_jax[tpu]")'
)

# The most bundles of 512 queries x 1024 keys, all visible and masked. The target on v5p is 2250 forward and 4400 backward;
# masked, the backward takes 4471. Other versions of libtpu schedule the same kernel otherwise (0.0.50, v5p: 4715 and 4616
# backward); there the bound is what jax's splash attention takes backward.
MOST = {
    'v5p:2x2x1': {'forward': (2250, 2250), 'backward': (4400, 4480)},
    'v6e:2x2': {'forward': (1900, 1900), 'backward': (3100, 3100)},
    'v5e:2x2': {'forward': (2250, 2250), 'backward': (4400, 4600)},
}
TUNED_FOR, SPLASH_BACKWARD = '0.0.42', 4823


@pytest.mark.parametrize(
    'topology', [name if name.startswith('v5p') else pytest.param(name, marks=pytest.mark.long) for name in MOST]
)
def test_kernels_compile_at_full_shape_within_their_bundles(topology):
  # A process of its own: libtpu reads the flag that dumps its schedule only when it is loaded.
  done = subprocess.run(
      [sys.executable, '-m', 'iquest_jax.aot.bundles', topology], capture_output=True, text=True, timeout=900
  )
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads(done.stdout)
  most = dict(MOST[topology])
  if not importlib.metadata.version('libtpu').startswith(TUNED_FOR):
    most['backward'] = (SPLASH_BACKWARD, SPLASH_BACKWARD)
  for kernel, (visible, masked) in most.items():
    assert len(report[kernel]) == 2 and report[kernel][0] <= visible and report[kernel][1] <= masked, report


def test_with_its_names_saved_the_kernel_is_not_compiled_into_the_backward_pass():
  program = """
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from iquest_jax.kernels.gated_attention import Ids, gated_attention, kernels_for

chip = topologies.get_topology_desc(platform='tpu', topology_name='v5p:2x2x1').devices[0]
sharding = jax.sharding.SingleDeviceSharding(chip)
array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct((1, 512, *shape), dtype, sharding=sharding)
q, k, ids = array(2, 128), array(1, 128), Ids(array(dtype=jnp.int32), array(dtype=jnp.int32))
for names in (('attention_output', 'attention_lse'), ()):
  policy = jax.checkpoint_policies.save_only_these_names(*names)

  def loss(ids, *args):
    layer = lambda *args: jnp.sin(gated_attention(*args, ids, ids, 64)).sum()
    return jax.checkpoint(layer, policy=policy)(*args)

  with kernels_for('tpu'):
    step = jax.jit(jax.value_and_grad(loss, argnums=range(1, 7)))
    compiled = step.lower(ids, q, k, k, k, k, array(2, dtype=jnp.float32)).compile()
  print(compiled.as_text().count('custom_call_target="tpu_custom_call"'))
"""
  variables = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_SKIP_MDS_QUERY': '1'}
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=600, env=variables)
  assert done.stdout.split() == ['2', '3'], done.stderr[-2000:]
