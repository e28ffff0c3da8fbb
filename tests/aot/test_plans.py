"""Where a stage is placed on a slice, and what the attention kernels declare there. Needs no libtpu."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import meshes
from iquest_jax import batch
from iquest_jax.aot import topology
from iquest_jax.errors import UserError
from iquest_jax.kernels.gated_attention import Ids, Keys, block_pairs, join, tpu_common
from launch import command


def placed(context, rows, topology):
  config = command.experiment('midtrain_128k:size=40b_loop').copy_and_resolve_references()
  config.unlock()
  config.data.context, config.train.batch_rows = context, rows
  meshes.place(config, '40b_loop', topology)
  return config


@pytest.mark.parametrize('topology', meshes.CHIPS)
@pytest.mark.parametrize('context', [8192, 12288, 32768, 98304, 131072, 262144])
def test_a_plan_uses_every_chip_and_at_most_8192_tokens_on_each(context, topology):
  config = placed(context, 1024, topology)
  mesh, train = config.mesh, config.train
  assert mesh.data * mesh.fsdp * mesh.context * mesh.tensor == meshes.CHIPS[topology]
  assert train.accumulation * mesh.data * mesh.fsdp == train.batch_rows
  assert context // mesh.context <= 8192 < 2 * context // mesh.context


def test_rows_of_96k_are_split_over_16_chips():
  mesh = placed(98304, 32, 'v5p-512').mesh
  assert (mesh.data, mesh.fsdp, mesh.context) == (1, 16, 16)


@pytest.mark.parametrize('context', [8192, 98304, 131072])
def test_slices_repeat_the_mesh_of_one_along_the_data_axis(context):
  one, two = placed(context, 1024, 'v5p-512').mesh, placed(context, 1024, 'v5p-512x2').mesh
  assert two.to_dict() == one.to_dict() | {'data': 2 * one.data}
  assert placed(context, 1024, 'v6e-256x4').mesh.data == 4


def test_every_slice_gets_rows_of_an_update_whatever_its_roll_outs_fill():
  config = command.experiment('rl_thinking:size=40b_loop,topology=v5p-512x2')
  assert config.train.batch_rows == 32 and config.train.accumulation == 1 and config.mesh.data == 2


@pytest.mark.parametrize('name', ['v5p-512x0', 'v5p-512x', 'v5p-512x-2', 'v5p-512x2x2'])
def test_a_number_of_slices_that_does_not_exist_is_refused(name):
  with pytest.raises(UserError, match=f'"{name}"'):
    placed(8192, 1024, name)
  with pytest.raises(UserError, match=f'topology "{name}" does not exist; .* or several, as in v5p-512x2'):
    topology.find(name)


@pytest.mark.parametrize(
    ('context', 'rows', 'says'),
    [
        (2**21, 2, 'data.context must be at most 1048576 on v5p-256, .* got 2097152; choose a larger slice'),
        (98304, 42, 'train.batch_rows must be a multiple of data x fsdp = 1 x 8, .* got 42; change it'),
    ],
)
def test_a_plan_that_would_leave_chips_idle_is_refused(context, rows, says):
  with pytest.raises(UserError, match=says) as error:
    placed(context, rows, 'v5p-256')
  assert '\n' not in str(error.value)


def ids_of(positions):
  positions = jnp.asarray(positions, jnp.int32)[None]
  return Ids(jnp.ones_like(positions), positions)


def zigzag(length, ways, device):
  """Positions of one device's part of a row that is one document; all of them, device after device, for None."""
  order = batch.zigzag(length, ways).reshape(ways, -1)
  return order.reshape(-1) if device is None else order[device]


def walked(q, k, window=None):
  """Scores of the block pairs that the kernel's own list makes it compute."""
  pairs, _ = block_pairs.forward(ids_of(q), ids_of(k), 512, 1024, window)
  return int(np.sum(np.asarray(pairs.kind) % 4 != block_pairs.NOTHING)) * 512 * 1024


@pytest.mark.parametrize(('length', 'ways', 'pairs'), [(8192, 1, 72), (32768, 4, 264), (131072, 16, 1032)])
def test_kernels_declare_the_block_pairs_that_a_row_of_one_document_makes_them_compute(length, ways, pairs):
  """By hand: 72 is 1 + 1 + 2 + 2 + ... + 8 + 8. A chunk of 4096 sees 8 x 4 pairs of each chunk before and 20 of its own."""
  declared = tpu_common.scores_of_a_document(8192, length, 1, None, tpu_common.DEFAULT)
  assert declared == pairs * 512 * 1024
  for device in {0, ways - 1}:
    assert declared == walked(zigzag(length, ways, device), zigzag(length, ways, None))


def test_the_local_stream_of_a_ring_declares_its_window_and_not_half_of_all_pairs():
  q = zigzag(131072, 16, 3)
  near = Keys(jnp.zeros((1, 8192, 1, 1)), jnp.zeros((1, 8192, 1, 1)), ids_of(q))
  before = ids_of(np.concatenate([q[0] - 128 + np.arange(128), q[4096] - 128 + np.arange(128)]))
  k = join(Keys(near.k[:, :256], near.v[:, :256], before), near).ids.positions[0]
  declared = tpu_common.scores_of_a_document(8192, 8192 + 256, 1, 64, tpu_common.DEFAULT)
  padded = np.pad(k, (0, -len(k) % 1024), 'edge')
  assert declared == walked(q, padded, 64) < 8192 * 8448 // 4


def test_a_part_of_a_ring_that_queries_see_in_full_declares_all_pairs():
  options = tpu_common.DEFAULT._replace(part=True)
  assert tpu_common.scores_of_a_document(4096, 8192, 1, None, options) == 4096 * 8192
