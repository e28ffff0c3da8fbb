"""The whole model on rows split over the context axis: the loss and all gradients equal those on one device."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from iquest_jax import sharding
from iquest_jax.batch import Batch, zigzag
from iquest_jax.checkpoint.restore import abstract_params
from iquest_jax.errors import UserError
from iquest_jax.model import transformer
from iquest_jax.parallel import context
from iquest_jax.train import loop, step
from launch import command

from tests.model.small_models import DENSE, LOOP, LOOP3, random_params
from tests.parallel.split_rows import mesh_of

MODELS = {name: dataclasses.replace(model, vocab=64, layers=2) for name, model in
          {'dense': DENSE, 'loop': LOOP, 'three loops': LOOP3}.items()}  # fmt: skip
MESHES = {
    'one device': {},
    'context 2': {'context': 2},
    'context 4': {'context': 4},
    'data 2, context 2, tensor 2': {'data': 2, 'context': 2, 'tensor': 2},
}
# The rest of the matrix is marked long; tests/train/test_train_step.py covers the all-gather on meshes with fsdp.
SHORT = {
    ('dense', 'context 2', 'ring'),
    ('loop', 'context 4', 'ring'),
    ('three loops', 'context 4', 'all_gather'),
    ('three loops', 'data 2, context 2, tensor 2', 'ring'),
}
CASES = [
    pytest.param(model, mesh, transport, marks=() if (model, mesh, transport) in SHORT else pytest.mark.long)
    for model in MODELS
    for mesh in list(MESHES)[1:]
    for transport in context.TRANSPORTS
]
B, T = 2, 64


def packed() -> Batch:
  """One row with a single document, and one with several and padding."""
  rng = np.random.default_rng(0)
  lengths = [1, 15, 19, 7, 16]
  segment_ids, positions = np.ones((B, T), np.int32), np.tile(np.arange(T, dtype=np.int32), (B, 1))
  segment_ids[1] = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, T - sum(lengths)])
  positions[1] = np.concatenate([*map(np.arange, lengths), np.zeros(T - sum(lengths))])
  draw = lambda: rng.integers(0, 64, (B, T), dtype=np.int32)
  weights = (segment_ids > 0) * rng.choice(np.float32([0, 0.5, 1]), (B, T))
  return Batch(draw(), draw(), weights, segment_ids, positions, np.arange(B, dtype=np.int32))


@functools.cache
def loss_and_gradients(model, mesh, transport):
  mesh = mesh_of(**MESHES[mesh])
  order = zigzag(T, mesh.shape['context'])
  batch = jax.tree.map(lambda x: x[:, order] if x.ndim == 2 else x, packed())
  model = transformer.Transformer(MODELS[model], 'float32', 'attention', transport)
  run = functools.partial(step.gradients, model, num_sources=B, accumulation=1, chunk=T, z_loss=1e-3)
  with jax.set_mesh(mesh):
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(model.config, mesh))
    params = jax.device_put(random_params(model.config), where)
    batch = jax.device_put(batch, sharding.batch_shardings(mesh))
    return jax.device_get(jax.jit(run)(params, batch))


@pytest.mark.parametrize(('model', 'mesh', 'transport'), CASES)
def test_split_rows_give_the_loss_and_all_gradients_of_whole_rows(model, mesh, transport):
  left, right = loss_and_gradients(model, 'one device', 'all_gather'), loss_and_gradients(model, mesh, transport)
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
    assert np.max(np.abs(a)) > 1e-4, jax.tree_util.keystr(path)
    difference = np.max(np.abs(a - b)) / np.max(np.abs(a))
    assert difference < 1e-5, f'{jax.tree_util.keystr(path)}: {difference:.1e}'


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'mesh.context': 3}, r'data.context must be a multiple of 2 x mesh.context = 6 .*got 512'),
        ({'mesh.context': 32}, r'loop_window must be at most 9 .*got 16: a chunk has 8 tokens'),
        ({'model.loop_window': 130}, r'loop_window must be at most 129 .*got 130: .* takes at most 128'),
        ({'train.context_transport': 'rings'}, 'context_transport "rings" does not exist; did you mean "ring"'),
        ({'train.loss_chunk': 200}, '512 / 2 = 256 must be a multiple of train.loss_chunk, got 200'),
    ],
)
def test_a_stage_that_cannot_be_split_is_refused_before_compiling(changes, says):
  config = command.experiment('midtrain_128k:size=tiny_loop')
  config.update_from_flattened_dict({'mesh.fsdp': 1, 'mesh.context': 2} | changes)
  shape = tuple(config.mesh[axis] for axis in sharding.AXES)
  with pytest.raises(UserError, match=says):
    loop.check(config, jax.sharding.AbstractMesh(shape, sharding.AXES))


def test_every_stage_names_an_existing_transport():
  for stage, size in (('midtrain_32k', '40b'), ('midtrain_128k', '40b_loop'), ('pretrain', 'tiny')):
    assert command.experiment(f'{stage}:size={size}').train.context_transport in context.TRANSPORTS
