"""Every stage at every size is complete, and every train step traces. tests/run/test_chain.py trains each stage at tiny."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from experiments import chain, common, meshes, mixtures
from iquest_jax import config as config_lib
from iquest_jax import sharding
from iquest_jax.aot import sweep, topology
from iquest_jax.batch import Batch
from iquest_jax.data.rows import mixture
from iquest_jax.errors import UserError
from iquest_jax.model import cost, fold, sizes, transformer
from iquest_jax.train import loop, optim, step
from launch import command

from tests.experiments import expected

FULL = ('7b', '14b', '40b', '40b_loop')
STAGES = [(stage, size) for size in sizes.SIZES for stage in chain.stages_on_rows(size)]
ON_ROWS = [stage for stage in chain.PARENTS if not chain.is_rl(stage)]
# One (stage, size) for each train step that differs in more than its sources, schedule and rates.
PROGRAMS = {
    sweep.key(command.experiment(f'{stage}:size={size}'), topology.find('v5p-512')): (stage, size)
    for stage, size in reversed(STAGES)
}


def traced(config):
  """eval_shape of the real train step on an abstract mesh of the slice's shape."""
  shape = {axis: max(1, config.mesh[axis]) for axis in sharding.AXES}
  mesh = jax.sharding.AbstractMesh(
      tuple(shape.values()), tuple(shape), axis_types=(jax.sharding.AxisType.Auto,) * len(shape)
  )
  loop.check(config, mesh)
  num_sources = len(mixture.source_names(config.data.mixture))
  rows = (config.train.batch_rows, config.data.context)
  ints, weights = jax.ShapeDtypeStruct(rows, np.int32), jax.ShapeDtypeStruct(rows, np.float32)
  batch = Batch(ints, ints, weights, ints, ints, jax.ShapeDtypeStruct(rows[:1], np.int32))
  with jax.sharding.use_abstract_mesh(mesh):
    stage = step.of_stage(config, mesh, num_sources)
    return stage.abstract, *jax.eval_shape(stage.train_step, stage.abstract, batch)


@pytest.mark.parametrize(('stage', 'size'), STAGES)
def test_every_stage_at_every_size_resolves_and_its_optimizer_traces(stage, size):
  config = command.experiment(f'{stage}:size={size}')
  assert (config.stage, config.size) == (stage, size)
  mixture.validate(config.data.mixture)
  config_lib.check_start(config.init)
  config_lib.check_closed_loop(config, mixture.source_names(config.data.mixture))
  tx, params = optim.optimizer(config.optim, config.train.steps), {'kernel': jax.ShapeDtypeStruct((8, 8), np.float32)}
  updates, _ = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)
  assert updates == params


@pytest.mark.parametrize(('stage', 'size'), sorted(PROGRAMS.values()))
def test_every_distinct_train_step_traces(stage, size):
  config = command.experiment(f'{stage}:size={size}')
  before, after, metrics = traced(config)
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), before) == jax.tree.map(
      lambda leaf: (leaf.shape, leaf.dtype), after
  )
  assert metrics['loss'].shape == ()
  assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(before.params)) == cost.num_params(
      transformer.model_config(config.model)
  )


@pytest.mark.parametrize('topology', meshes.CHIPS)
@pytest.mark.parametrize(('stage', 'size'), [pair for pair in STAGES if pair[1] in FULL])
def test_every_full_size_uses_all_chips_of_every_slice(stage, size, topology):
  config = command.experiment(f'{stage}:size={size},topology={topology}')
  mesh = config.mesh
  assert mesh.data * mesh.fsdp * mesh.context * mesh.tensor == meshes.CHIPS[topology]
  assert config.train.batch_rows % (mesh.data * mesh.fsdp * config.train.accumulation) == 0
  assert config.data.context % mesh.context == 0
  assert config.model.kv_heads % mesh.tensor == 0 and config.model.vocab % mesh.tensor == 0
  assert config.train.batch_rows * config.data.context == 4 * 2**20


def test_the_mixture_tables_are_the_published_ones():
  assert sum(mixtures.MIDTRAIN_32K.values()) == 300 == sum(mixtures.MIDTRAIN_128K.values())
  assert list(mixtures.MIDTRAIN_32K.values()) == [175, 10, 5, 35, 5, 70]
  assert list(mixtures.MIDTRAIN_128K.values()) == [65, 110, 35, 5, 35, 50]
  assert mixtures.tokens(mixtures.PRETRAIN_GENERAL, mixtures.PRETRAIN_CODE) >= 12e12


def test_a_staged_mixture_splits_the_steps_by_tokens():
  schedule = mixtures.staged(100, {'a': 1}, {'a': 1, 'b': 2})
  assert schedule == ((0, (('a', 1),)), (25, (('a', 1), ('b', 2))))
  mixture.validate(schedule)


def tokens_of(config):
  return config.train.steps * config.train.batch_rows * config.data.context


def test_mid_training_sees_three_hundred_billion_tokens():
  for stage in ('midtrain_32k', 'midtrain_128k'):
    assert abs(tokens_of(command.experiment(stage)) - 300e9) < 4 * 2**20


@pytest.mark.parametrize('stage', ON_ROWS)
def test_a_changed_batch_keeps_the_token_budget(stage, monkeypatch):
  """As if batch_rows were edited in the experiment's file; no other number equals it there."""
  config, pick = command.experiment(f'{stage}:size=40b_loop'), common.Arguments.pick
  batch_rows = config.train.batch_rows
  other = lambda *args, **kwargs: 3 * batch_rows if pick(*args, **kwargs) == batch_rows else pick(*args, **kwargs)
  monkeypatch.setattr(common.Arguments, 'pick', other)
  changed = command.experiment(f'{stage}:size=40b_loop')
  assert changed.train.batch_rows == 3 * batch_rows
  assert abs(tokens_of(changed) - tokens_of(config)) <= 2 * batch_rows * config.data.context
  assert changed.data.mixture[-1][0] == pytest.approx(config.data.mixture[-1][0] / 3, abs=1)


@pytest.mark.parametrize('stage', chain.PARENTS)
def test_a_docstring_states_the_recorded_speed_and_demo(stage):
  assert expected.stated(stage) == expected.recorded(stage), 'run python -m tests.experiments.expected'


def test_the_recorded_demo_has_every_stage_and_every_loss_falls_and_every_rate_rises():
  for size, figures in json.loads(expected.DEMO.read_text()).items():
    assert tuple(figures) == chain.stages(size)
    assert all((last < first) == (name == 'loss') and last != first for name, first, last in figures.values())


def test_the_chain_folds_the_dense_model_of_a_looped_size():
  on_rows = ('pretrain', 'anneal', 'midtrain_32k', 'midtrain_128k', 'sft_instruct', 'sft_thinking')
  assert chain.stages_on_rows('40b') == on_rows and chain.stages('40b') == (*on_rows, 'rl_instruct', 'rl_thinking')
  assert chain.parent('anneal', '40b') == 'pretrain' and chain.parent('anneal', '40b_loop') == 'loop_adapt'
  dense = command.experiment('pretrain:size=40b_loop')
  assert dense.model.to_dict() == command.experiment('pretrain:size=40b').model.to_dict()
  assert command.experiment('loop_adapt:size=40b_loop').init.transform == 'dense_to_loop'
  for size, (stage, _) in itertools.product(('tiny', 'tiny_loop'), STAGES):
    if stage in chain.stages(size):
      assert chain.parent(stage, size) in ('', *chain.stages(size))


def test_an_experiment_takes_arguments_after_a_colon():
  assert common.arguments('') == common.Arguments('40b', 'v5p-512')
  assert common.arguments('size=14b,topology=v6e-256') == common.Arguments('14b', 'v6e-256')
  assert common.arguments('tiny').size == 'tiny' and common.arguments('size=40b_loop,tiny').size == 'tiny_loop'


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('midtran_128k', 'experiment "midtran_128k" does not exist; did you mean "midtrain_128k"'),
        ('anneal:size=41b', 'size "41b" does not exist; did you mean "40b"'),
        ('anneal:sise=7b', 'argument "sise=7b" of --exp does not exist; did you mean "size="'),
        ('anneal:topology=v5p-521', 'topology "v5p-521" does not exist; did you mean "v5p-512"'),
        ('loop_adapt:size=7b', 'experiment "loop_adapt": the size must be one of 40b_loop, tiny_loop, got "7b"'),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(name, says):
  with pytest.raises(UserError) as error:
    command.experiment(name)
  assert says in str(error.value) and '\n' not in str(error.value)


def test_the_config_hash_changes_with_a_number():
  config, same = command.experiment('anneal'), command.experiment('anneal')
  assert config_lib.config_hash(config) == config_lib.config_hash(same)
  same.optim.peak_lr *= 1.0001
  assert config_lib.config_hash(config) != config_lib.config_hash(same)
  assert [key for key, _, _ in config_lib.diff(config, same)] == ['optim.peak_lr']


@pytest.mark.parametrize(
    ('stage', 'changes', 'says'),
    [
        ('anneal', {'carry': ('paramz',)}, 'init.carry must be'),
        ('anneal', {'transform': 'foo'}, 'init.transform must be "" or "dense_to_loop"'),
        ('anneal', {'transform': 'dense_to_loop'}, 'moments of the dense model do not fit'),
        ('midtrain_32k', {'transform': 'dense_to_loop'}, 'init.transform must be "" except in loop_adapt'),
        ('loop_adapt', {'fold': 'strid'}, 'init.fold "strid" does not exist; did you mean "stride"?'),
    ],
)
def test_an_impossible_start_is_refused(stage, changes, says):
  init = command.experiment(f'{stage}:size=tiny_loop').init
  config_lib.check_start(init)
  init.update(changes)
  with pytest.raises(UserError) as error:
    config_lib.check_start(init)
  assert says in str(error.value)


def test_the_config_knows_every_fold_rule():
  assert set(config_lib.FOLD_RULES) == set(fold.FOLDS)


def test_every_field_can_be_overridden():
  for stage, size in STAGES:
    leaves = config_lib.flatten(command.experiment(f'{stage}:size={size}'))
    assert all(leaf is not None for leaf in leaves.values())
    assert dataclasses.fields(sizes.ModelConfig)[0].name in {key.removeprefix('model.') for key in leaves}
