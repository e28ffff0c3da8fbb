"""Import and export need little memory, however large the model: a loop of 4 GB, each way in a process of its own."""

import filecmp
import json
import math
import os

import numpy as np
import pytest

from iquest_jax.checkpoint import stream
from iquest_jax.convert import files, hf_config, names
from iquest_jax.model import sizes

MODEL = sizes.ModelConfig(vocab=32000, d_model=2048, d_ff=5632, layers=20, heads=16, kv_heads=4, head_dim=128, loops=2)
MOST = 1.5e9


@pytest.fixture
def source(tmp_path):
  """A folder with random parameters, written tensor by tensor."""
  folder = tmp_path / 'in'
  folder.mkdir()
  shapes = {name: tensor.published_shape for name, tensor in names.tensors(MODEL).items()}
  shards, rng = files.Shards(folder, shapes, np.dtype(np.float32)), np.random.default_rng(0)
  for name, shape in shapes.items():
    shards.append(name, rng.random(shape, np.float32))
  shards.finish()
  (folder / 'config.json').write_text(json.dumps(hf_config.of(MODEL, 'float32')))
  return folder


def test_no_piece_of_the_largest_model_exceeds_600_mb():
  shapes = names.leaf_shapes(sizes.get('40b_loop'))
  least = {path: 4 * math.prod(shape) // shape[names.AXES[path]] for path, shape in shapes.items()}
  assert max(*least.values(), stream.PIECE_BYTES) < 6e8


@pytest.mark.long
def test_a_loop_of_4_gb_goes_both_ways_in_less_than_1500_mb(source, commands, tmp_path):
  def peak(*arguments):
    """Most resident memory of a command, in bytes."""
    process = commands.start(['-m', 'launch.export', *map(str, arguments)], fresh=True)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.stderr.read()
    return usage.ru_maxrss * 1024

  stage = (f'--workdir={tmp_path / "work"}', '--stage=midtrain_32k')
  assert (source / files.SINGLE).stat().st_size > 4e9
  assert peak('from_hf', source, *stage) < MOST
  assert peak('to_hf', *stage, f'--out={tmp_path / "out"}') < MOST
  assert filecmp.cmp(tmp_path / 'out' / files.SINGLE, source / files.SINGLE, shallow=False)
