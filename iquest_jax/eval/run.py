"""Runs a suite: answers are drawn while earlier ones are graded, every finished one is on disk, and a run resumes.

  <folder>/records.jsonl    settings, then a line per finished (problem, sample); see journal.py
  <folder>/results.json     settings, figures, and every prompt, answer and verdict; written at the end

On several processes all of them decode; the first grades, writes, and tells the others how conversations go on.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import operator
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from rich import console as rich_console
from rich import progress

from iquest_jax.errors import UserError
from iquest_jax.eval.answers import Answer, Asked
from iquest_jax.eval.suite import MISSING, Outcome, Problem, Prompt, Suite
from iquest_jax.hosts import from_first, refuse_together
from iquest_jax.infer.sampler import Sampling
from iquest_jax.journal import Journal
from iquest_jax.run_folder import write_whole
from iquest_jax.sandbox.pool import Pool
from iquest_jax.text.chat import Message

# Of a request's id: so many bits for the sample, the problem's place in the file, and the turn of the conversation.
_PROBLEM_BITS, _TURN_BITS = 14, 8
_SAMPLE_BITS = 31 - _PROBLEM_BITS - _TURN_BITS
_GRADERS = 2  # threads; a verdict waits for sandboxes most of the time


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is run, where it may differ from what the suite asks for.

  Attributes:
    chat: whether prompts are put as messages; a suite that has one form alone is given in that form.
    sampling: of all answers.
    length: most tokens of an answer.
    samples: answers per problem.
    limit: how many problems, the first of the file; 0 takes all.
  """

  chat: bool
  sampling: Sampling
  length: int
  samples: int
  limit: int = 0

  @classmethod
  def of(cls, suite: Suite, chat: bool, **changes: Any) -> 'Plan':
    """As the suite asks for, with changes."""
    return cls(**({'chat': chat, 'sampling': suite.sampling, 'length': suite.length, 'samples': suite.samples} | changes))


@dataclasses.dataclass
class _Talk:
  """A sample being answered: what was asked so far, and what came."""

  problem: Problem
  prompt: Prompt
  place: int
  sample: int
  answers: list[Answer] = dataclasses.field(default_factory=list)
  messages: list[Message] = dataclasses.field(default_factory=list)

  @property
  def id(self) -> int:
    """Of the next request; a function of the problem's place, the sample and the turn alone."""
    return ((self.sample << _PROBLEM_BITS | self.place) << _TURN_BITS) | len(self.answers)

  def asked(self, plan: Plan) -> Asked:
    prompt = dataclasses.replace(self.prompt, messages=self.messages) if self.messages else self.prompt
    return Asked(self.id, prompt, plan.length, plan.sampling)


def run(
    suite: Suite, problems: Sequence[Problem], plan: Plan, answers: Any, folder: pathlib.Path, pool: Pool | None
) -> dict[str, Any]:
  """Runs a suite, or what is left of an earlier run, and returns what is in results.json.

  Args:
    answers: who answers, such as an EngineAnswers.
    folder: of this run alone.
    pool: where programs are graded; the first process alone needs it.

  Raises:
    UserError: the folder holds a run with other settings, or whoever answers cannot. What was finished is on disk.
  """
  problems = list(problems)[: plan.limit or None]
  if len(problems) >= 1 << _PROBLEM_BITS or plan.samples > 1 << _SAMPLE_BITS:
    most = f'{(1 << _PROBLEM_BITS) - 1} problems and {1 << _SAMPLE_BITS} samples'
    raise UserError(f'{suite.name}: at most {most} per run, got {len(problems)} and {plan.samples}; evaluate fewer')
  plan.sampling.check()
  prompts = {problem.id: _in_form(suite.prompt(problem), plan.chat) for problem in problems}
  settings = {
      'suite': suite.name,
      'problems': _digest(problems),
      **{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)},
      'sampling': plan.sampling._asdict(),
      'answers': answers.settings,
  }
  first = jax.process_index() == 0
  journal = lambda: Journal(folder / 'records.jsonl', settings, operator.itemgetter('problem', 'sample'))
  records = refuse_together('records of an evaluation', lambda: journal() if first else None)
  done = {tuple(key) for key in from_first('samples on disk', [list(key) for key in records.finished] if first else [])}
  talks = [
      _Talk(problem, prompts[problem.id], place, sample, messages=list(prompts[problem.id].messages))
      for sample in range(plan.samples)
      for place, problem in enumerate(problems)
      if (problem.id, sample) not in done
  ]
  bar = _Progress(suite.name, plan.samples * len(problems), len(done), shows=first)
  with concurrent.futures.ThreadPoolExecutor(_GRADERS) as graders:
    try:
      while talks:
        by_id, judged = {talk.id: talk for talk in talks}, {}
        for answer in answers.answer([talk.asked(plan) for talk in talks]):
          talk = by_id[answer.id]
          talk.answers.append(answer)
          if first:
            judged[answer.id] = graders.submit(_judge, suite, talk, pool, records, bar)
        results = lambda judged=judged: {str(key): future.result() for key, future in judged.items()}
        following = from_first('what follows', refuse_together('judged', results))
        talks = [talk for key, talk in by_id.items() if following[str(key)]]
        for talk in talks:
          talk.messages = following[str(talk.id - 1)]
    except UserError:
      raise  # what was answered is graded before the command ends
    except BaseException:
      graders.shutdown(wait=False, cancel_futures=True)
      raise
    finally:
      bar.close()
      if first:
        graders.shutdown()
        records.close()
  results = None
  if first:
    text = json.dumps(_results(suite, problems, prompts, settings, records.finished), indent=1)
    write_whole(folder / 'results.json', text + '\n')
    results = json.loads(text)
  return from_first('results', results)


def _judge(suite: Suite, talk: _Talk, pool: Pool, records: Journal, bar: '_Progress') -> list[Message]:
  """The messages to answer next; if there are none, grades and records the sample."""
  said = talk.answers[-1].text
  messages = [*talk.messages, {'role': 'assistant', 'content': said}] if talk.messages else []
  if messages and len(talk.answers) < 1 << _TURN_BITS and (more := suite.follow_up(talk.problem, messages, pool)):
    return [*messages, *more]
  texts = [answer.text for answer in talk.answers]
  extracted = suite.extract(talk.problem, texts) if messages else suite.continued(talk.problem, said)
  outcome = suite.grade(talk.problem, extracted, pool)
  records.add({
      'problem': talk.problem.id,
      'sample': talk.sample,
      'answers': texts,
      'ends': [answer.end for answer in talk.answers],
      'tokens': [answer.tokens for answer in talk.answers],
      'messages': messages[len(talk.prompt.messages) :] if len(texts) > 1 else [],
      'extracted': extracted,
      **dataclasses.asdict(outcome),
  })  # fmt: skip
  bar.advance()
  return []


def _results(
    suite: Suite,
    problems: Sequence[Problem],
    prompts: Mapping[str, Prompt],
    settings: dict[str, Any],
    finished: Mapping[tuple[str, int], dict[str, Any]],
) -> dict[str, Any]:
  samples = {problem.id: [finished[problem.id, sample] for sample in range(settings['samples'])] for problem in problems}
  missing = {key: record['reason'] for key, records in samples.items() for record in records if record['status'] == MISSING}
  scored = {problem.id: problem for problem in problems if problem.id not in missing}
  outcomes = {
      key: [Outcome(record['status'], record['reason'], record['seconds'], record['figures']) for record in samples[key]]
      for key in scored
  }
  results = {}
  for problem in problems:
    figures = suite.score({problem.id: problem}, {problem.id: outcomes[problem.id]}) if problem.id in scored else {}
    prompt = dataclasses.asdict(prompts[problem.id])
    kept = [{name: value for name, value in record.items() if name != 'problem'} for record in samples[problem.id]]
    results[problem.id] = {'figures': figures, 'prompt': prompt, 'samples': kept}
  return {
      'settings': settings,
      'figures': suite.score(scored, outcomes) if scored else {},
      'scored': len(scored),
      'missing': missing,
      'results': results,
  }


def _in_form(prompt: Prompt, chat: bool) -> Prompt:
  """The prompt with the one form that is used."""
  if prompt.messages and (chat or not prompt.text):
    return dataclasses.replace(prompt, text='', stop=())
  return dataclasses.replace(prompt, messages=(), tools=())


def _digest(problems: Sequence[Problem]) -> str:
  """SHA-256 (hex, the first 16 digits) of ids and fields, so that two runs can be told to be of the same problems."""
  text = json.dumps([[problem.id, dict(problem.fields)] for problem in problems], sort_keys=True, default=repr)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Progress:
  """A bar of graded samples on a terminal; elsewhere a line per tenth."""

  def __init__(self, name: str, total: int, done: int, shows: bool):
    self._name, self._total, self._done, self._bar, self._shows = name, total, done, None, shows
    if shows and done:
      logging.info('%s: %d of %d were graded before', name, done, total)
    if shows and sys.stderr.isatty():
      self._bar = progress.Progress(
          progress.TextColumn('[bold]{task.description:<14}'),
          progress.BarColumn(bar_width=30),
          progress.MofNCompleteColumn(),
          progress.TimeRemainingColumn(),
          console=rich_console.Console(stderr=True),
      )
      self._task = self._bar.add_task(name, total=total, completed=done)
      self._bar.start()

  def advance(self) -> None:
    """Counts one more; threads may call it."""
    self._done += 1
    if self._bar:
      self._bar.advance(self._task)
    elif self._shows and self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
      logging.info('%s: %d of %d graded', self._name, self._done, self._total)

  def close(self) -> None:
    if self._bar:
      self._bar.stop()
