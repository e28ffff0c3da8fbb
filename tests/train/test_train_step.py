"""One training step: accumulation, meshes, skipped updates, schedules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.batch import Batch, zigzag
from iquest_jax.checkpoint.restore import abstract_params
from iquest_jax.errors import UserError
from iquest_jax.model import cost, sizes, transformer
from iquest_jax.train import optim, state, step

LOOP = dataclasses.replace(
    sizes.get('tiny_loop'), vocab=64, d_model=32, d_ff=64, layers=2, heads=4, kv_heads=2, head_dim=8, loop_window=5
)
OPTIM = ConfigDict(
    dict(schedule='constant', peak_lr=1e-2, warmup=0.0, decay=0.0, floor=1.0, b1=0.9, b2=0.95, eps=1e-8,
         weight_decay=0.1, clip_norm=1.0, moment_dtype='float32')
)  # fmt: skip
MESHES = {
    'data 8': (8, 1, 1, 1),
    'fsdp 8': (1, 8, 1, 1),
    'fsdp 4 tensor 2': (1, 4, 1, 2),
    'data 2 fsdp 2 tensor 2': (2, 2, 1, 2),
    'fsdp 2 context 4': (1, 2, 4, 1),
    'fsdp 2 context 2 tensor 2': (1, 2, 2, 2),
}
ONE = dict(zip(sharding.AXES, (1, 1, 1, 1)))


def make_batch(rows=8, length=32, vocab=64, seed=0) -> Batch:
  """Packed rows: documents of different lengths, padding at the end, two sources, uneven weights."""
  rng = np.random.default_rng(seed)
  segment_ids, positions = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.int32)
  for row in range(rows):
    start, segment = 0, 1
    while start < length - 2:
      size = min(int(rng.integers(3, 15)), length - 2 - start)
      segment_ids[row, start : start + size], positions[row, start : start + size] = segment, np.arange(size)
      start, segment = start + size, segment + 1
  return Batch(
      tokens=rng.integers(0, vocab, (rows, length), dtype=np.int32),
      targets=rng.integers(0, vocab, (rows, length), dtype=np.int32),
      loss_weights=(segment_ids > 0) * rng.choice([0.0, 1.0, 0.5], (rows, length)).astype(np.float32),
      segment_ids=segment_ids,
      positions=positions,
      source_ids=rng.integers(0, 2, rows, dtype=np.int32),
  )


def gradients_on(mesh_shape, batch, accumulation=1, chunk=8, devices=None):
  order = zigzag(batch.tokens.shape[1], mesh_shape['context'])
  batch = jax.tree.map(lambda x: x[:, order] if x.ndim == 2 else x, batch)
  mesh = sharding.make_mesh(mesh_shape, devices or jax.devices()[: int(np.prod(list(mesh_shape.values())))])
  model = transformer.Transformer(LOOP, 'float32', 'attention')
  with jax.set_mesh(mesh):
    params = state.random_params(model, mesh, seed=3)
    placed = jax.tree.map(jax.device_put, batch, sharding.batch_shardings(mesh))
    run = jax.jit(
        lambda params, batch: step.gradients(
            model, params, batch, num_sources=2, accumulation=accumulation, chunk=chunk, z_loss=1e-3
        )
    )
    grads, sums, diagnostics = jax.device_get(run(params, placed))
  return grads, sums, diagnostics


def assert_same(left, right, tolerance=2e-5):
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
    scale = np.max(np.abs(a)) + 1e-12
    assert np.max(np.abs(a - b)) <= tolerance * scale, jax.tree_util.keystr(path)


@pytest.fixture(scope='module')
def alone():
  return gradients_on(ONE, make_batch())


@pytest.mark.parametrize('name', MESHES)
def test_loss_and_gradients_are_the_same_on_every_mesh(alone, name):
  grads, sums, _ = gradients_on(dict(zip(sharding.AXES, MESHES[name])), make_batch())
  assert_same(alone[0], grads)
  assert_same(alone[1], sums)


def test_weights_gathered_in_two_legs_are_the_same_weights(alone, monkeypatch):
  monkeypatch.setattr(sharding, 'MOST_WAYS_A_LEG', 4)
  monkeypatch.setattr(sharding, 'LEG', 2)
  grads, sums, _ = gradients_on(ONE | {'fsdp': 8}, make_batch())
  assert_same(alone[0], grads)
  assert_same(alone[1], sums)


@pytest.mark.parametrize('mesh', ['one', 'fsdp 2'])
def test_accumulation_of_four_equals_one(alone, mesh):
  shape = ONE if mesh == 'one' else ONE | {'fsdp': 2}
  grads, sums, diagnostics = gradients_on(shape, make_batch(), accumulation=4)
  assert_same(alone[0], grads)
  assert_same(alone[1], sums)
  assert diagnostics['loop_gate'].shape == (1,)


def test_chunked_loss_equals_whole_loss(alone):
  grads, sums, _ = gradients_on(ONE, make_batch(), chunk=32)
  assert_same(alone[0], grads)
  assert_same(alone[1], sums)


def test_moments_are_sharded_like_their_parameters():
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, (1, 2, 2, 2))))
  model = transformer.Transformer(LOOP, 'float32')
  abstract = state.abstract_state(model, optim.optimizer(OPTIM, 10), mesh)
  query = abstract.params['layers']['attention']['query'].sharding.spec
  assert query == jax.sharding.PartitionSpec(None, ('fsdp', 'context'), 'tensor', None)
  specs = lambda tree: [leaf.sharding.spec for leaf in jax.tree.leaves(tree)]
  adam = abstract.opt_state[1][0]
  assert specs(adam.mu) == specs(abstract.params) == specs(adam.nu)


def test_a_mesh_axis_used_twice_is_refused():
  with pytest.raises(UserError, match='mesh axis "tensor" for both "heads" and "ffn"'):
    sharding.spec('heads', 'ffn')
  with pytest.raises(UserError, match='"head" does not exist; did you mean "heads"'):
    sharding.spec('head')


def test_dimensions_that_do_not_divide_are_refused():
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, (1, 1, 1, 8))))
  with pytest.raises(UserError, match='kv_heads of .* must be a multiple of mesh axes tensor = 8, got 2'):
    abstract_params(dataclasses.replace(LOOP, heads=8), mesh)


def test_a_mesh_of_the_wrong_size_is_refused():
  with pytest.raises(UserError, match='must multiply to 8 devices .* = 4;'):
    sharding.make_mesh(ONE | {'fsdp': 4})


def train(batches):
  mesh = sharding.make_mesh(ONE, jax.devices()[:1])
  section = {'batch_rows': 8, 'accumulation': 1, 'loss_chunk': 32, 'z_loss': 0.0, 'steps': 10, 'dtype': 'float32',
           'remat': 'none', 'context_transport': 'all_gather'}  # fmt: skip
  config = ConfigDict({'model': dataclasses.asdict(LOOP), 'optim': OPTIM, 'train': section, 'init': {'carry': ()}})
  with jax.set_mesh(mesh):
    stage = step.of_stage(config, mesh, 2)
    current = state.fresh_optimizer(state.random_params(stage.model, mesh, 0), stage.tx, stage.abstract)
    seen = [jax.device_get(current)]
    all_metrics = []
    for batch in batches:
      current, metrics = stage.train_step(current, batch)
      seen.append(jax.device_get(current))
      all_metrics.append(jax.device_get(metrics))
  return seen, all_metrics


def test_an_update_with_a_gradient_that_is_not_finite_is_skipped_and_counted():
  good, bad = make_batch(), make_batch()
  bad = bad.replace(loss_weights=np.where(bad.loss_weights > 0, np.inf, 0).astype(np.float32))
  seen, all_metrics = train([good, bad, bad, good])
  assert [int(n['skipped_in_a_row']) for n in all_metrics] == [0, 1, 2, 0]
  assert [int(n['skipped']) for n in all_metrics] == [0, 1, 2, 2]
  assert [int(s.step) for s in seen] == [0, 1, 2, 3, 4]
  for before, after in ((seen[1], seen[2]), (seen[2], seen[3])):
    for a, b in zip(jax.tree.leaves((before.params, before.opt_state)), jax.tree.leaves((after.params, after.opt_state))):
      np.testing.assert_array_equal(a, b)
  assert not np.array_equal(seen[3].params['head'], seen[4].params['head'])


def test_tokens_and_visible_pairs_are_counted_per_document():
  batch = make_batch()
  _, (counts,) = train([batch])
  lengths = [
      int(np.sum(row == segment)) for row in np.asarray(batch.segment_ids) for segment in np.unique(row) if segment
  ]
  assert counts['tokens'] == sum(lengths)
  assert counts['pairs'] == sum(cost.visible_pairs(length) for length in lengths)
  assert counts['local_pairs'] == sum(cost.visible_pairs(length, LOOP.loop_window) for length in lengths)


def test_weight_decay_leaves_norms_and_gate_biases_alone():
  params = state.random_params(transformer.Transformer(LOOP, 'float32'), sharding.make_mesh(ONE, jax.devices()[:1]), 0)
  tx = optim.optimizer(OPTIM, 10)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  moved = {jax.tree_util.keystr(path): bool(np.any(u)) for path, u in jax.tree_util.tree_leaves_with_path(updates)}
  assert {name for name, moves in moved.items() if not moves} == {
      "['final_norm']['scale']",
      "['layers']['attention']['gate_bias']",
      "['layers']['attention_norm']['scale']",
      "['layers']['mlp_norm']['scale']",
  }


def test_the_first_moment_has_the_configured_dtype():
  tx = optim.optimizer(ConfigDict(OPTIM.to_dict() | {'moment_dtype': 'bfloat16'}), 10)
  adam = tx.init({'head': jnp.zeros((2, 2))})[1][0]
  assert adam.mu['head'].dtype == jnp.bfloat16 and adam.nu['head'].dtype == jnp.float32


def curve(kind, warmup, decay, floor, steps=100):
  section = ConfigDict(dict(schedule=kind, peak_lr=2.0, warmup=warmup, decay=decay, floor=floor))
  return np.array([float(optim.schedule(section, steps)(i)) for i in range(steps + 1)])


def test_constant_warms_up_and_holds():
  rates = curve('constant', 0.1, 0.0, 1.0)
  assert rates[0] > 0 and np.all(np.diff(rates[:11]) > 0) and np.allclose(rates[10:], 2.0)


def test_wsd_holds_then_falls_linearly_to_its_floor():
  rates = curve('wsd', 0.1, 0.3, 0.1)
  assert np.allclose(rates[10:71], 2.0) and np.isclose(rates[100], 0.2)
  assert np.allclose(np.diff(rates[70:101]), -1.8 / 30)


def test_cosine_ends_in_an_extended_low_rate_phase():
  rates = curve('cosine', 0.1, 0.6, 0.1)
  assert np.isclose(rates[40], 1.1) and np.allclose(rates[70:], 0.2) and np.all(np.diff(rates[10:70]) < 0)


def test_an_unknown_schedule_is_refused_with_the_nearest_name():
  with pytest.raises(UserError, match='did you mean "cosine"'):
    curve('cosin', 0.1, 0.5, 0.1)


@pytest.mark.parametrize(
    ('warmup', 'decay', 'floor', 'says'),
    [
        (0.5, 0.6, 0.1, r'optim.warmup \+ optim.decay must be at most 1, got 0.5 \+ 0.6'),
        (-0.1, 0.5, 0.1, r'optim.warmup must be in \[0, 1\], got -0.1'),
        (0.1, 1.5, 0.1, r'optim.decay must be in \[0, 1\], got 1.5'),
        (0.1, 0.5, -3.0, r'optim.floor must be in \[0, 1\], got -3.0'),
    ],
)
def test_a_schedule_outside_its_stage_is_refused(warmup, decay, floor, says):
  with pytest.raises(UserError, match=says):
    curve('cosine', warmup, decay, floor)
