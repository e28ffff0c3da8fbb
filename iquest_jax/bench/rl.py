"""One step of reinforcement learning at tiny size: seconds of roll-out, grading, update and sync.

Random parameters answer with noise, so what is graded instead is the reference solution, a new program each time. Lengths
are mixed: any of some tokens ends an answer. A second case has a grader that only sleeps.
"""

import contextlib
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.data.tiny import programs
from iquest_jax.rl.policy import PolicyLearner
from iquest_jax.rl.types import Prompt, Trajectory
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer
from iquest_jax.train import state, step

VERDICT_S = 0.2  # of the grader that only sleeps
_ENDS = 32  # ids that end an answer: of 1024 that are about equally likely, so that it has 32 tokens on average


def results(experiment: Callable[[str], ConfigDict]) -> Iterator[dict]:
  """The step of rl_thinking with the real grader, and with one that sleeps.

  Args:
    experiment: resolves the name of an experiment.
  """
  config = experiment('rl_thinking:size=tiny_loop')
  yield {'grader': 'sandbox', **measure(config)}
  sleeping = experiment('rl_thinking:size=tiny_loop')
  # As many at a time as sleep while one roll-out is decoded in each slot.
  sleeping.rl.graders = sleeping.rl.slots
  yield {'grader': f'sleeps {1000 * VERDICT_S:.0f} ms', **measure(sleeping, sleeps=True)}


def measure(config: ConfigDict, sleeps: bool = False, steps: int = 3) -> dict:
  """Medians over steps, after one that compiles.

  `grading_wait_over_grading` is the wall time in which nothing was decoded because verdicts were not there, over the sum of
  the times that verdicts took.
  """
  mesh = sharding.make_mesh(config.mesh)
  with tempfile.TemporaryDirectory() as folder, jax.set_mesh(mesh), contextlib.ExitStack() as closing:
    run, tokenizer = RunFolder(folder), _write(folder, config)
    learner = PolicyLearner(config, run, tokenizer, closing)
    stage = step.of_stage(config, mesh, 1, learner.objective)
    train_state = state.fresh_optimizer(state.random_params(stage.model, mesh, 0), stage.tx, stage.abstract)
    learner.begin(stage, mesh, 0, None, closing)
    learner._score = _sleep if sleeps else _graded(learner)
    records = []
    for number in range(1, steps + 2):
      train_state, record = learner.learn(number, train_state)
      records.append(record | record['timing'])
  median = lambda name: statistics.median(record[name] for record in records[1:])
  seconds = {f'{part}_seconds': round(median(f'{part}_seconds'), 3) for part in ('rollout', 'grading', 'update', 'sync')}
  waits = statistics.median(record['grading_wait_seconds'] / record['grading_seconds'] for record in records[1:])
  shares = {name: round(median(name), 3) for name in ('slots_busy', 'tail_slots_busy', 'tail_steps')}
  size = {'prompts': config.rl.prompts_per_step, 'group_size': config.rl.group_size, 'slots': config.rl.slots}
  return size | seconds | {'grading_wait_over_grading': round(waits, 3)} | shares | {'length': round(median('length'), 1)}


class _EndsOften(Tokenizer):
  """A tokenizer of which further ids end a text."""

  ends = property(lambda self: (*Tokenizer.ends.fget(self), *range(400, 400 + _ENDS)))


def _write(folder: str, config: ConfigDict) -> Tokenizer:
  for split, count, names in (('rl', 40, config.rl.problems), ('held_out', 10, config.rl.held_out)):
    found = programs.problems(0, split, count)
    path = RunFolder(folder).path / names[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(dataclasses.asdict(problem)) + '\n' for problem in found))
  texts = [f'{problem.request}\n{problem.solution}' for problem in programs.problems(0, 'train', 200)]
  return _EndsOften(Tokenizer.train(texts, config.model.vocab).to_str())


def _graded(learner: PolicyLearner):
  def score(prompt: Prompt, trajectory: Trajectory) -> Trajectory:
    code = f'{prompt.problem.solution}\n# {trajectory.version} {trajectory.sample}\n'
    answer = dataclasses.replace(trajectory, text=f'```python\n{code}```')
    return _differing(PolicyLearner._score(learner, prompt, answer))

  return score


def _sleep(prompt: Prompt, trajectory: Trajectory) -> Trajectory:
  del prompt
  time.sleep(VERDICT_S)
  return _differing(trajectory)


def _differing(trajectory: Trajectory) -> Trajectory:
  """Every other sample earns something, so that no group is dropped."""
  return dataclasses.replace(trajectory, reward=float(trajectory.sample % 2))
