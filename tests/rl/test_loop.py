"""The loop as users run it: killed and resumed, replayed, on two devices and in two processes, and what it refuses."""

import json
import shutil
import signal

import numpy as np
import pytest

from iquest_jax.errors import Preempted, UserError
from iquest_jax.rl import loop
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer

from tests import processes
from tests.rl import small_stage
from tests.rl.small_stage import STAGE, records, stored, train, write_pairs
from tests.run import helpers as run_helpers
from tests.run.helpers import killed_at

# Where a run is killed, one after the other: the call of a function, counted from the start of that run.
FEW = (
    ('iquest_jax.rl.store:Store.append', 2),  # in the first roll-out, when one group is finished
    ('iquest_jax.rl.batches:policy_rows', 2),  # before the second update
    ('iquest_jax.rl.store:Store.append', 2),  # in the third roll-out, after the first two steps were repeated
    ('iquest_jax.rl.rollout:Rollouts.answers', 1),  # all is done but the evaluation
)
MANY = (
    ('iquest_jax.rl.rollout:Rollouts.answers', 1),  # before anything
    ('iquest_jax.rl.rollout:Rollouts.sample', 1),
    ('iquest_jax.rl.measured:Measured.add', 1),  # after the roll-out
    ('iquest_jax.train.session:Session.save', 1),  # after the second update
    ('iquest_jax.rl.sync:Sync.__call__', 1),  # with a checkpoint of step 2 or none
    ('iquest_jax.rl.store:Store.append', 1),  # in the last roll-out
    ('iquest_jax.train.session:Session.finish', 1),
)


def params(workdir, step):
  state = run_helpers.state(workdir / STAGE, step)
  return {path: leaf for path, leaf in state.items() if path.startswith('params')}


def lines(workdir):
  return {path.name: path.read_text() for path in sorted((workdir / STAGE / 'rollouts').glob('*'))}


@pytest.mark.parametrize('phases', [FEW, pytest.param(MANY, marks=pytest.mark.long)], ids=['few', 'many'])
def test_killed_in_every_phase_it_ends_bit_equal_and_samples_no_finished_group_again(phases, straight, workdir, commands):
  kept = {}
  for place, count in phases:
    commands.run(killed_at(place, count, train(workdir)), status=-signal.SIGKILL)
    now = lines(workdir)
    assert all(now[name].startswith(text) for name, text in kept.items())
    kept = now
  commands.run(train(workdir))
  assert sorted(stored(workdir)) == sorted(set(stored(workdir))) == sorted(stored(straight))
  run_helpers.assert_same_state(workdir / STAGE, straight / STAGE, 3)
  assert records(workdir) == records(straight)
  measured = [(folder / STAGE / 'measured.jsonl').read_text() for folder in (workdir, straight)]
  assert measured[0] == measured[1] and measured[0].count('\n') == 3


@pytest.mark.parametrize(
    ('place', 'count', 'step'),
    [
        ('iquest_jax.rl.rollout:Rollouts.sample', 2, 1),  # of which nothing would be left without an extra save
        pytest.param('iquest_jax.rl.store:Store.append', 2, 0, marks=pytest.mark.long),
        pytest.param('iquest_jax.rl.batches:policy_rows', 2, 2, marks=pytest.mark.long),
        pytest.param('iquest_jax.rl.rollout:Rollouts.answers', 2, 3, marks=pytest.mark.long),
    ],
)
def test_sigterm_while_sampling_saves_the_last_step_and_resumes_bit_equal(straight, workdir, commands, place, count, step):
  command = train(workdir)
  told = commands.run(killed_at(place, count, command, number=signal.SIGTERM), status=Preempted.status)
  assert f'after step {step} of 3' in processes.refusal(told)
  assert run_helpers.steps_of(workdir / STAGE)[-1:] == ([step] if step else [])
  kept = lines(workdir)
  commands.run(command)
  assert all(lines(workdir)[name].startswith(text) for name, text in kept.items())
  run_helpers.assert_same_state(workdir / STAGE, straight / STAGE, 3)
  assert records(workdir) == records(straight)


def test_a_step_trains_and_reports_what_it_did(straight):
  first, *steps, last = records(straight)
  assert (first['kind'], first['step'], last['kind'], last['step']) == ('eval', 0, 'eval', 3)
  assert [(record['kind'], record['step']) for record in steps] == [('train', 1), ('train', 2), ('train', 3)]
  for record in steps:
    assert record['groups'] + record['groups_equal'] + record['groups_invalid'] == record['groups_sampled']
    assert 0 <= record['reward_instructions'] <= 1 and -1 <= record['reward_overlong'] <= 0
    # Weight 0: logged, not rewarded.
    assert record['reward'] == record['reward_instructions']
    assert 0 < record['logp_difference'] < 1e-5 and record['grad_norm'] > 0 and record['clipped_high'] == 0
  assert any(record['groups_equal'] for record in steps)  # dynamic sampling had something to replace
  assert [record['groups'] for record in steps] == [2, 2, 2]
  # Layer groups and the z-loss at their own interval and at the end.
  for name in ('layer_grad_norms', 'z_loss'):
    assert [name in record for record in steps] == [False, False, True]
  norms, ratios = steps[-1]['layer_grad_norms'], steps[-1]['layer_update_ratios']
  assert norms.keys() == ratios.keys() == {'embedder', 'final_norm', 'head', 'attention_0', 'attention_1', 'mlp_0', 'mlp_1'}
  assert sum(norm**2 for norm in norms.values()) == pytest.approx(steps[-1]['grad_norm'] ** 2, rel=1e-4)
  before, after = params(straight, 2), params(straight, 3)
  assert any(np.any(before[path] != after[path]) for path in before)
  versions = [json.loads(text.splitlines()[0])['trajectories'][0]['extra']['version'] for text in lines(straight).values()]
  assert versions == [0, 1, 2]


def test_a_replayed_store_gives_the_same_update_bit_for_bit(straight, workdir, commands):
  shutil.copytree(straight / STAGE / 'rollouts', workdir / STAGE / 'rollouts')
  before = lines(workdir)
  commands.run(train(workdir))
  assert lines(workdir) == before  # nothing was sampled
  run_helpers.assert_same_state(workdir / STAGE, straight / STAGE, 3)


def test_a_step_that_is_passed_over_is_noted_without_prompts_whatever_is_stored_of_it(straight, workdir, commands):
  shutil.copytree(straight / STAGE / 'rollouts', workdir / STAGE / 'rollouts')
  how = {'train.skip_steps': ((2, 2),), 'checkpoint.every': 1}
  commands.run(killed_at('iquest_jax.rl.policy:PolicyLearner.learn', 2, train(workdir, **how)), status=-signal.SIGKILL)
  commands.run(train(workdir, **how))
  notes = [json.loads(line) for line in (workdir / STAGE / 'measured.jsonl').read_text().splitlines()]
  assert [(note['step'], bool(note['prompts'])) for note in notes] == [(1, True), (2, False), (3, True)]


def replay_first_step(straight, workdir):
  (workdir / STAGE / 'rollouts').mkdir(parents=True)
  shutil.copy(straight / STAGE / 'rollouts/1.jsonl', workdir / STAGE / 'rollouts')


def assert_same_update(workdir, straight):
  before = run_helpers.arrays(straight / 'sft_instruct/checkpoints/1/params')
  one, other = params(straight, 1), params(workdir, 1)
  moved = max(np.max(np.abs(leaf - before[path.removeprefix('params')])) for path, leaf in one.items())
  assert moved > 1e-3
  for path, leaf in one.items():
    # Beside the rounding of the parameters themselves.
    np.testing.assert_allclose(leaf, other[path], rtol=2.4e-7, atol=1e-5 * moved, err_msg=path)


def test_two_data_parallel_devices_update_like_one_on_a_replayed_store(straight, workdir, commands):
  replay_first_step(straight, workdir)
  commands.run(train(workdir, **{'train.steps': 1, 'mesh.data': 2, 'mesh.fsdp': 1}), devices=2)
  assert lines(workdir) == {'1.jsonl': lines(straight)['1.jsonl']}  # nothing was sampled
  assert_same_update(workdir, straight)


def test_two_processes_update_like_one_and_run_three_whole_steps(straight, workdir, commands, unused_port):
  """The first step on a replayed store, then two of which each process samples its share."""
  replay_first_step(straight, workdir)
  several = {'JAX_COORDINATOR_ADDRESS': f'localhost:{unused_port}', 'JAX_NUM_PROCESSES': '2'}
  how = {'checkpoint.every': 1, 'checkpoint.keep': 9}
  running = [commands.start(train(workdir, **how), **several, JAX_PROCESS_ID=str(process)) for process in (0, 1)]
  for process in running:
    processes.finish(process)
  assert lines(workdir)['1.jsonl'] == lines(straight)['1.jsonl']
  assert_same_update(workdir, straight)
  for step in (2, 3):
    for part, name in ((0, f'{step}.jsonl'), (1, f'{step}.1.jsonl')):
      indices = [json.loads(line)['index'] for line in lines(workdir)[name].splitlines()]
      assert indices and all(index % 2 == part for index in indices)
    indices = sorted(index for other, index in stored(workdir) if other == step)
    assert indices == list(range(len(indices)))
  *_, last = records(workdir)
  assert [record['groups'] for record in records(workdir)[1:-1]] == [2, 2, 2] and last['step'] == 3
  assert run_helpers.state(workdir / STAGE, 3)


OPTIONS = {
    'rl.mini_batches': 2, 'rl.epochs': 2, 'rl.kl_coef': 0.1, 'rl.ratio': 'sequence', 'rl.loss_agg': 'seq_sum',
    'rl.baseline': 'leave_one_out', 'rl.norm_adv_by_std': False, 'rl.dual_clip': 3.0, 'rl.sampler_is_threshold': 0.0,
    'rl.pass_rate_window': (0.1, 0.9), 'optim.peak_lr': 0.3, 'optim.warmup': 1.0,
}  # fmt: skip


def test_several_updates_per_roll_out_move_away_from_its_policy_and_from_the_reference(workdir, commands):
  commands.run(train(workdir, **OPTIONS, **{'train.steps': 2}))
  _, first, second, _ = records(workdir)
  assert first['updates'] == second['updates'] == 4
  for record in (first, second):
    # What is measured against the roll-out's own parameters, and against those that the stage began with.
    assert record['update_kl'] > 0 and record['clipped_low'] + record['clipped_high'] > 0 and record['reference_kl'] > 0
    assert record['logp_difference'] < 1e-5 and 'sampler_is_truncated' not in record
  assert first['lr'] < second['lr']  # the warm-up stretches over all updates


def test_preferences_are_learned_and_measured_on_held_out_pairs(workdir, commands):
  how = write_pairs(workdir)
  # The second of four steps is passed over.
  how |= {'train.steps': 4, 'eval.every': 4, 'train.skip_steps': ((2, 2),)}
  command = train(workdir, **how)
  commands.run(killed_at('iquest_jax.rl.pairs:PairLearner.learn', 3, command), status=-signal.SIGKILL)
  commands.run(command)
  first, *steps, last = records(workdir)
  assert [(record['step'], record['skipped']) for record in steps] == [(1, 0), (3, 1), (4, 1)]
  assert (first['accuracy'], first['margin']) == (0.5, 0.0) and last['accuracy'] == 1.0 and last['margin'] > 0
  assert last['accuracy_by_rule'] == {'say_0': 1.0, 'say_1': 1.0} and last['pairs'] == 6
  # The model with which this begins happens to find the rejected answer likelier.
  assert last['likelier'] == 1.0 > first['likelier'] and set(last['likelier_by_rule']) == {'say_0', 'say_1'}
  assert [record['pairs'] for record in steps] == [4, 4, 4] and steps[0]['loss'] == pytest.approx(np.log(2))


@pytest.mark.long
def test_roll_outs_of_other_settings_are_sampled_again(straight, workdir, commands):
  shutil.copytree(straight / STAGE / 'rollouts', workdir / STAGE / 'rollouts')
  done = commands.run(train(workdir, **{'rl.max_tokens': 9, 'train.steps': 1}))
  assert 'step 1: its stored roll-outs are of other parameters or settings and are sampled again' in done.stderr
  text = lines(workdir)['1.jsonl']
  assert '"completion_tokens": 9' in text and '"completion_tokens": 10' not in text


REFUSED = {
    'context': ({'rl.max_tokens': 128}, 'rl.max_tokens must be below data.context = 128'),
    'group': ({'rl.group_size': 1}, 'rl.group_size must be at least 2, got 1'),
    'groups': ({'rl.max_groups': 1}, 'rl.max_groups must be at least rl.prompts_per_step = 2, got 1'),
    'objective': ({'rl.objective': 'grop'}, 'rl.objective "grop" does not exist; did you mean "grpo"?'),
    'slots': ({'rl.slots': 0}, 'rl.slots must be at least 1, got 0'),
    'window': ({'rl.pass_rate_window': (0.9, 0.1)}, 'the window must satisfy 0 <= low <= high <= 1'),
    'clip': ({'rl.clip_low': 0.0}, 'rl: clip_low must be in (0, 1], got 0.0'),
    'baseline': ({'rl.baseline': 'median'}, 'rl.baseline "median" does not exist'),
    'beta': ({'rl.objective': 'dpo', 'rl.dpo.beta': 0.0}, 'rl.dpo.beta must be above 0, got 0.0'),
    'both sets': ({'rl.held_out': ('problems.jsonl',)}, 'held-out problems must not be trained on, got 6 in both sets'),
    'missing': ({'rl.problems': ('none.jsonl',)}, 'none.jsonl cannot be read'),
}


@pytest.mark.parametrize('mistake', REFUSED)
def test_a_mistake_is_refused_in_one_line_before_the_first_step(mistake, workdir):
  changes, says = REFUSED[mistake]
  with pytest.raises(UserError) as error:
    loop.run(small_stage.config(changes), RunFolder(workdir))
  assert says in str(error.value) and '\n' not in str(error.value)
  assert not (workdir / STAGE).exists()


def test_a_parent_of_another_tokenizer_is_refused(workdir):
  other = Tokenizer.train(['entirely different words of a tokenizer'] * 3, small_stage.FIELDS['vocab'])
  other.save(RunFolder(workdir).tokenizer)
  with pytest.raises(UserError, match='sft_instruct: was trained with another tokenizer'):
    loop.run(small_stage.config({}), RunFolder(workdir))
  with pytest.raises(UserError, match='must have at most model.vocab = 100 ids'):
    loop.run(small_stage.config({'model.vocab': 100}), RunFolder(workdir))


def test_a_sampler_that_computes_something_else_stops_the_run(workdir, commands):
  done = commands.run(train(workdir, **{'rl.max_logp_difference': 1e-9}), status=1)
  assert 'log-probabilities of sampler and trainer differ by' in processes.refusal(done)
  assert run_helpers.steps_of(workdir / STAGE) == []
