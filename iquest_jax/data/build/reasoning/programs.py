"""Generated programs to questions about them: sample n is a pure function of (seed, n)."""

import random
from collections.abc import Iterator, Sequence

from iquest_jax.data.build.reasoning import compose, expressions, kinds, narrate
from iquest_jax.data.build.reasoning.kinds import Task
from iquest_jax.data.build.reasoning.samples import (
    INPUT_FORMS,
    Sample,
    conversation,
    inputs_sample,
    output_question,
    result_of,
    verify,
)
from iquest_jax.data.documents import Conversation, Drop
from iquest_jax.sandbox import tracing
from iquest_jax.sandbox.tracing import Batch

LEVELS = (1, 2, 3)
_TASKS = {**kinds.LEVELS, 3: (compose.task,)}
_STEPS, _LONGEST = 2000, 120  # lines of any run, characters of a value
_MOST_LINES = 48  # of a trace that is shown
_TRIES = 20


def programs(
    numbers: range, seed: int, thinking: bool = False, levels: Sequence[int] = LEVELS
) -> Iterator[Conversation | Drop]:
  """Questions about small programs that this module writes, each verified by a second run.

  Args:
    numbers: which samples; a number gives the same question whatever the range and `thinking`.
    thinking: the steps are thinking; otherwise they are part of the answer.
    levels: 1, one or two operations, at most about a hundred tokens of a vocabulary of 1000; 2, functions of a few lines
      with loops, recursion and calls; 3, composed functions.
  """
  for number in numbers:
    rng = random.Random(f'{seed}:programs:{number}')
    make_task = rng.choice(_TASKS[rng.choice(list(levels))])
    for _ in range(_TRIES):
      sample = _sample(make_task(rng), rng)
      if not isinstance(sample, Drop):
        break
    if isinstance(sample, Drop):
      yield sample
      continue
    made, task = sample
    fresh = tracing.here(Batch(task.source, made.expressions(), 'plain', _STEPS, _LONGEST))
    checks = verify(made, dict(zip(made.expressions(), fresh)))
    yield checks if isinstance(checks, Drop) else conversation(made, checks, thinking)


def _sample(task: Task, rng: random.Random) -> tuple[Sample, Task] | Drop:
  """The question of a task with its steps, not yet verified."""
  if task.domain:
    calls = tuple(f'f({each})' for each in task.domain)
    outcomes = tracing.here(Batch(task.source, calls, 'count', _STEPS, _LONGEST))
    of_domain = dict(zip(task.domain, outcomes))
    forms = (task.question,) if task.question else INPUT_FORMS
    sample = inputs_sample(task.source, 'f', task.parameters, task.statement, of_domain, rng, forms)
    return (sample, task) if sample else Drop('reasoning: no result tells a few inputs from the rest', task.source)
  if task.steps == 'operations':
    found: list[str] = []
    for expression, names in task.computed:
      value, operations = expressions.evaluate(expression, names)
      found += operations
    return Sample(task.question, task.expression, repr(value), '\n'.join(found), len(found)), task
  listing = narrate.Listing(task.source)
  whole = task.steps == 'changes'
  batch = Batch(task.source, (task.expression,), 'whole' if whole else 'record', _STEPS, _LONGEST, listing.targets)
  outcome = tracing.here(batch)[0]
  if not outcome.text or outcome.steps > _MOST_LINES:
    return Drop('reasoning: a generated program is too long', f'{task.source}\n{outcome.error or outcome.stopped}')
  steps = narrate.changes(outcome.events, listing) if whole else narrate.trace(outcome.events, listing)
  question = task.question or output_question(task.source, task.expression, rng)
  return Sample(question, task.expression, result_of(outcome), steps, outcome.steps), task
