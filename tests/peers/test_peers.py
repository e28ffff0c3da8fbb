"""An exported checkpoint gives the same logits in other implementations.

They run as programs in an environment of their own, whose interpreter PEERS_PYTHON names (by default this one), and
exchange files with `python -m launch.export logits`.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from iquest_jax.convert.hf import to_hf
from iquest_jax.model import sizes

from tests.model.small_models import leaves, random_params

HERE = pathlib.Path(__file__).parent
PEER = os.environ.get('PEERS_PYTHON', sys.executable)


def run(*command):
  done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=HERE.parents[1], check=False)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ('size', 'peer'), [('tiny', 'mlx_logits.py'), ('tiny_loop', 'mlx_logits.py'), ('tiny', 'torch_logits.py')]
)
def test_an_export_gives_the_same_logits(size, peer, tmp_path):
  model = sizes.get(size)
  # Several windows long, so that the local attention of the loop differs from the global one.
  tokens = np.random.default_rng(0).integers(0, model.vocab, (2, 70), dtype=np.int32)
  np.save(tmp_path / 'tokens.npy', tokens)
  to_hf(model, leaves(random_params(model)), tmp_path / 'model')
  files = tmp_path / 'model', tmp_path / 'tokens.npy'
  flags = f'--tokens={files[1]}', f'--out={tmp_path / "ours.npy"}'
  run(sys.executable, '-m', 'launch.export', 'logits', files[0], *flags)
  run(PEER, HERE / peer, *files, tmp_path / 'theirs.npy')
  ours, theirs = np.load(tmp_path / 'ours.npy'), np.load(tmp_path / 'theirs.npy')
  assert ours.std() > 0.1
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
