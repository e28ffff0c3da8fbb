"""The TPU kernels compile at full shape for every generation, and cost no more bundles than they did (v5p: the target)."""

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed (pip install "iquest_jax[tpu]")'
)

# Bundles of 512 queries x 1024 keys that are all visible: the most, forward and backward.
MOST = {'v5p:2x2x1': (2250, 4400), 'v6e:2x2': (1900, 3100), 'v5e:2x2': (2250, 4400)}


@pytest.mark.parametrize(
    'topology', [name if name.startswith('v5p') else pytest.param(name, marks=pytest.mark.long) for name in MOST]
)
def test_kernels_compile_at_full_shape_within_their_bundles(topology):
  # A process of its own: libtpu reads the flag that dumps its schedule only when it is loaded.
  done = subprocess.run(
      [sys.executable, '-m', 'iquest_jax.kernels.bundles', topology], capture_output=True, text=True, timeout=900
  )
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads(done.stdout)
  for kernel, most in zip(('forward', 'backward'), MOST[topology]):
    assert len(report[kernel]) == 3, report
    assert report[kernel][0] <= most, report
