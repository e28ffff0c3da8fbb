"""The TPU kernels compile at full shape for each generation within their limits of instruction bundles."""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.tpu

# The most bundles for 512 queries x 1024 keys, all visible and masked. The target on v5p is 2250 forward and 4400 backward;
# the masked backward takes 4471. Other versions of libtpu schedule the same kernel differently (0.0.50 on v5p: 4715 and
# 4616 backward); for them the limit is what the backward kernel of jax's splash attention takes.
MOST = {
    'v5p:2x2x1': {'forward': (2250, 2250), 'backward': (4400, 4480)},
    'v6e:2x2': {'forward': (1900, 1900), 'backward': (3100, 3100)},
    'v5e:2x2': {'forward': (2250, 2250), 'backward': (4400, 4600)},
}
TUNED_FOR, SPLASH_BACKWARD = '0.0.42', 4823
ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    'topology', [name if name.startswith('v5p') else pytest.param(name, marks=pytest.mark.long) for name in MOST]
)
def test_kernels_compile_at_full_shape_within_their_bundles(topology):
  # In a process of its own, because libtpu reads the flag that dumps its schedule only when it is loaded.
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


def test_saving_the_named_values_avoids_compiling_the_kernel_twice():
  variables = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1', 'TPU_SKIP_MDS_QUERY': '1'}
  done = subprocess.run(
      [sys.executable, '-m', 'tests.programs.compile_checkpointed_attention'],
      capture_output=True, text=True, timeout=600, env=variables, cwd=ROOT,
  )  # fmt: skip
  assert done.stdout.split() == ['2', '3'], done.stderr[-2000:]
