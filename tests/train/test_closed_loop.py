"""The closed loop: what raises a weight and what lowers it, within which limits; a resume repeats what was decided."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from iquest_jax.config import check_closed_loop
from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder
from iquest_jax.train import closed_loop, preemption
from iquest_jax.train.closed_loop import ClosedLoop, Decision, decide

BENCHMARKS = (('code', 'held_out'), ('facts', 'cruxeval_input'))
WEIGHTS = {'code': 3.0, 'facts': 1.0, 'replay': 1.0}


def config(steps=12, **changes):
  loop = dict(every=2, benchmarks=BENCHMARKS, rise=1.5, decay=0.8, cap=2.0, tolerance=0.01) | changes
  return ConfigDict({
      'stage': 'sft_instruct', 'data': {'closed_loop': loop}, 'train': {'steps': steps},
      'eval': {'every': 2}, 'checkpoint': {'every': 2},
  })  # fmt: skip


SETTINGS = config().data.closed_loop


class Followed:
  """Stands for the loader: it keeps what it was told."""

  sources = tuple(WEIGHTS)

  def follow(self, factors):
    self.factors = list(factors)

  def weights(self, step):
    return WEIGHTS


def made_of(scores, settings=SETTINGS):
  """The decisions that follow from these scores of the sources, one per step."""
  history = []
  for step, measured in enumerate(scores):
    history.append(decide(settings, WEIGHTS, history, step, measured))
  return history


def of_code(*scores):
  """(factors, reasons) of code for these scores in turn."""
  history = made_of([{'code': score} for score in scores])
  return [decision.factors['code'] for decision in history], [decision.reasons['code'] for decision in history]


def test_a_fall_raises_the_weight_to_the_cap_and_a_plateau_lowers_it_to_what_is_configured():
  scores = (50.0, 52.0, 40.0, 45.0, 41.0, 52.1, 52.0, 52.2, 52.0, 52.3, 60.0)
  factors, reasons = of_code(*scores)
  assert reasons == ['first score', 'improved', 'fell', 'fell', 'fell', *['plateau'] * 5, 'improved']
  assert factors == pytest.approx([1.0, 1.0, 1.5, 2.0, 2.0, 1.6, 1.28, 1.024, 1.0, 1.0, 1.0])


def test_a_slow_decline_adds_up_and_losses_count_as_negative_scores():
  assert of_code(-2.0, -2.01, -2.018, -2.03)[1] == ['first score', 'plateau', 'plateau', 'fell']
  assert of_code(-2.0, -1.99, -1.95)[1] == ['first score', 'plateau', 'improved']
  assert of_code(0.0, 0.0, 10.0, 0.0)[1] == ['first score', 'plateau', 'improved', 'fell']


def test_a_source_without_a_score_keeps_its_weight():
  history = made_of([{'code': 5.0}, {'code': 1.0}, {}, {'code': 1.0, 'facts': 1.0}])
  assert [decision.reasons['code'] for decision in history] == ['first score', 'fell', 'no score', 'fell']
  assert [decision.factors['code'] for decision in history] == [1.0, 1.5, 1.5, 2.0]
  assert [decision.reasons['facts'] for decision in history] == ['no score', 'no score', 'no score', 'first score']


def test_the_weights_are_the_configured_ones_times_the_factors():
  last = made_of([{'code': 5.0, 'facts': 3.0}, {'code': 1.0, 'facts': 3.5}])[-1]
  assert last.weights == pytest.approx({'code': 4.5 / 6.5, 'facts': 1 / 6.5, 'replay': 1 / 6.5})


SCORES = st.dictionaries(st.sampled_from(['code', 'facts']), st.floats(-100, 100))


@given(st.lists(SCORES, max_size=12), st.floats(1.01, 9), st.floats(0.05, 0.99), st.floats(1.01, 9))
def test_factors_stay_between_one_and_the_cap_and_depend_on_the_past_alone(scores, rise, decay, cap):
  settings = config(rise=rise, decay=decay, cap=cap).data.closed_loop
  history = made_of(scores, settings)
  for step, decision in enumerate(history):
    assert all(1 <= factor <= cap for factor in decision.factors.values())
    assert sum(decision.weights.values()) == pytest.approx(1)
    # After a line of JSON, as a resume reads it, the next decision is the same.
    read = [Decision(**json.loads(json.dumps(dataclasses.asdict(one)))) for one in history[:step]]
    assert decide(settings, WEIGHTS, read, step, scores[step]) == decision


@pytest.fixture(name='folder')
def _folder(tmp_path):
  return StageFolder(tmp_path)


class Run:
  """A stage that takes decisions until a step, starting or resuming from a checkpoint."""

  def __init__(self, folder, settings=None, scorer=lambda names: {'cruxeval_input': 30.0}):
    self.loader = Followed()
    self.loop = ClosedLoop(settings or config(), folder, self.loader, scorer)

  def start(self, step=0, lineage=None):
    self.loop.resume(step, lineage)
    return self

  def take(self, first, last, loss=lambda step: 2.0 + step % 3):
    """The decisions of steps first .. last; the held-out loss is a function of the step, as of the parameters there."""
    return [self.loop.decide(step, {'code': loss(step)}) for step in range(first, last + 1) if self.loop.is_due(step)]


def test_a_resume_keeps_the_decisions_up_to_its_checkpoint_and_repeats_the_rest(folder):
  whole = Run(folder).start()
  made = whole.take(0, 10)
  assert [decision.step for decision in made] == [0, 2, 4, 6, 8, 10]
  assert len({decision.factors['code'] for decision in made}) > 1
  text = folder.mixture.read_bytes()
  for step, decided in ((4, 2), (5, 3), (0, 0)):
    asked = []
    run = Run(folder, scorer=lambda names: asked.append(names) or {'cruxeval_input': 30.0})
    run.start(step, {'decisions': decided} if decided else {})
    assert run.loader.factors == [(one.step, one.factors) for one in made if one.step <= step]
    kept = [json.loads(line)['step'] for line in folder.mixture.read_text().splitlines()]
    assert kept == [one.step for one in made if one.step <= step]
    assert run.take(step, 10) == [one for one in made if one.step >= step]
    assert len(asked) == len([one for one in made if one.step > step])  # what was decided is not measured again
    assert folder.mixture.read_bytes() == text
    assert run.loader.factors == whole.loader.factors


def test_a_stage_that_begins_forgets_what_another_decided(folder):
  Run(folder).start().take(0, 10)
  run = Run(folder).start()
  assert not folder.mixture.exists() and run.loader.factors == []


def test_what_the_first_process_decided_counts(folder, monkeypatch):
  run = Run(folder).start()
  told = lambda what, value: value | {'factors': {'code': 1.25, 'facts': 1.0}}
  monkeypatch.setattr(closed_loop, 'from_first', told)
  assert run.take(0, 0)[0].factors['code'] == 1.25 and run.loader.factors == [(0, {'code': 1.25, 'facts': 1.0})]
  assert json.loads(folder.mixture.read_text())['factors']['code'] == 1.25


def test_a_suite_is_not_asked_before_the_first_step_and_a_loss_that_is_not_finite_is_no_score(folder):
  run = Run(folder).start()
  first, second = run.take(0, 2, loss=lambda step: 2.0 if step == 0 else math.nan)
  assert first.reasons == {'code': 'first score', 'facts': 'no score'} and first.scores == {'code': -2.0}
  assert second.reasons == {'code': 'no score', 'facts': 'first score'} and second.scores == {'facts': 30.0}
  (third,) = Run(folder, scorer=lambda names: {}).start(2, {'decisions': 1}).take(3, 4)
  assert third.reasons == {'code': 'fell', 'facts': 'no score'}


def test_a_decision_is_interrupted_only_where_suites_are_run(folder, monkeypatch):
  """Before that, the step may not be saved yet."""
  monkeypatch.setattr(preemption._Process, 'asked', True)
  assert len(Run(folder, config(benchmarks=BENCHMARKS[:1])).start().take(0, 4)) == 3
  run = Run(folder).start()
  run.take(0, 1)
  with pytest.raises(preemption.Interrupt):
    run.take(2, 2)


@pytest.mark.parametrize('every', [0, 2, 8, 12, 40])
def test_no_batch_is_drawn_past_a_decision(folder, every):
  loop, drawn, step = Run(folder, config(every=every)).loop, [], 0
  while step < 12:
    end = loop.until(step)
    drawn += range(step, end)
    assert not any(loop.is_due(inner) for inner in range(step + 1, end))
    assert end == 12 or loop.is_due(end)
    step = end
  assert drawn == list(range(12)) and not loop.is_due(12)
  assert loop.is_due(0) == bool(every)


def test_decisions_that_are_lost_are_not_made_up(folder):
  Run(folder).start().take(0, 10)
  lines = folder.mixture.read_text().splitlines(True)
  folder.mixture.write_text(''.join(lines[1:]))
  with pytest.raises(UserError, match='must hold the 2 decisions that were made before step 4, but holds 1; restore'):
    Run(folder).start(4, {'decisions': 2})
  folder.mixture.unlink()
  with pytest.raises(UserError, match='but holds 0'):
    Run(folder).start(4, {'decisions': 2})


@pytest.mark.parametrize('line', [
    '{"step": 3', 'null', '{"step": 3}', '3', '{"step": "x", "scores": {}, "factors": {}, "weights": {}, "reasons": {}}',
])
def test_a_damaged_file_is_one_line(folder, line):
  Run(folder).start().take(0, 10)
  with open(folder.mixture, 'a') as file:
    file.write(line + '\n')
  with pytest.raises(UserError, match='line 7 is not a decision; restore the file') as error:
    Run(folder).start(4, {'decisions': 2})
  assert '\n' not in str(error.value)


def test_a_closed_loop_cannot_be_turned_off_once_rows_were_drawn_by_it(folder):
  Run(folder).start().take(0, 10)
  with pytest.raises(UserError, match='every must stay above 0, got 0'):
    Run(folder, config(every=0)).start(4, {'decisions': 2})
  # Turned on later, it begins there.
  folder.mixture.unlink()
  assert Run(folder).start(4, {}).loader.factors == []


def test_a_suite_needs_somebody_who_measures_it(folder):
  with pytest.raises(UserError, match='"cruxeval_input" cannot be measured here; name "held_out" instead'):
    Run(folder, scorer=None)
  Run(folder, config(benchmarks=BENCHMARKS[:1]), scorer=None)
  Run(folder, config(every=0), scorer=None)


@pytest.mark.parametrize(
    'changes, reason',
    [
        ({'every': -1}, 'every must be at least 0, got -1'),
        ({'every': 3, 'benchmarks': BENCHMARKS[:1]}, 'a multiple of eval.every = 2, at which "held_out" can be'),
        ({'every': 3, 'benchmarks': BENCHMARKS[1:]}, 'multiple of checkpoint.every = 2, at which "cruxeval_input"'),
        ({'benchmarks': ()}, 'benchmarks must name at least one source, and each once, got none'),
        ({'benchmarks': BENCHMARKS[:1] * 2}, 'and each once, got code, code'),
        ({'benchmarks': ('code', 'held_out')}, 'benchmarks must be ((source, benchmark), ...), got'),
        ({'benchmarks': 'code'}, 'benchmarks must be ((source, benchmark), ...), got'),
        ({'benchmarks': (('cod', 'held_out'),)}, 'benchmarks: source "cod" does not exist; did you mean "code"'),
        ({'rise': 1.0}, 'rise must be above 1 and finite, got 1.0'),
        ({'decay': 1.0}, 'decay must be between 0 and 1, got 1.0'),
        ({'cap': math.nan}, 'cap must be above 1 and finite, got nan'),
        ({'tolerance': -0.1}, 'tolerance must be at least 0 and below 1, got -0.1'),
    ],
)
def test_settings_that_make_no_sense_are_one_line(changes, reason):
  with pytest.raises(UserError) as error:
    check_closed_loop(config(**changes), WEIGHTS)
  assert str(error.value).startswith('config: data.closed_loop.') and reason in str(error.value)
