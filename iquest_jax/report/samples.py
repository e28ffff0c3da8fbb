"""Answers to read: those of evaluations, and the roll-outs of reinforcement learning from stores in ATIF form.

A store is `<stage>/rollouts/<step>.jsonl`. A full-size one holds gigabytes, so a few steps and groups of each stage are
shown, evenly spread, and of each group the answers of the lowest and the highest reward among others.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from iquest_jax.report import files
from iquest_jax.report.chain import Stage, Suite
from iquest_jax.report.files import Files

# How many are shown: steps of a stage, groups of a step, answers of a group; and answers of a suite.
STEPS, GROUPS, ANSWERS, PROBLEMS = 4, 4, 3, 16
TESTS = 5  # hidden tests of a roll-out
# Characters of a text; longer ones lose their middle.
LONGEST = 6000

_THINKING = re.compile(r'<think>\n?(.*?)(?:\n?</think>\n?|\Z)', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Said:
  """A part of a conversation: `role` is system, user, assistant, tool or thinking."""

  role: str
  text: str


@dataclasses.dataclass(frozen=True)
class Sample:
  """One answer.

  Attributes:
    origin: 'roll-out', or the name of a suite.
    step: of its stage: of the checkpoint that was evaluated, or the one in which it was rolled out.
    prompt, answer: of the conversation, what was asked and what followed.
    score: reward, or the share of tests passed, in [0, 1] unless a stage defines it otherwise; None if unknown.
    solved: whether everything passed; None if nothing says so.
    tests: a line about each thing that was checked.
    rewards: reward by component.
    tokens: sampled; 0 if unknown.
    end: how the answer ended; '' if unknown.
  """

  stage: str
  origin: str
  step: int
  problem: str
  number: int
  prompt: Sequence[Said]
  answer: Sequence[Said]
  score: float | None
  solved: bool | None
  tests: Sequence[str]
  rewards: Mapping[str, float]
  tokens: int
  end: str


def of_stage(reader: Files, stage: Stage) -> list[Sample]:
  """The samples of a stage: roll-outs, then suites, each by falling score."""
  rollouts = sorted(_rollouts(reader, stage), key=_falling)
  suites = []
  for suite in stage.suites:
    if suite.step == max(other.step for other in stage.suites if other.name == suite.name):
      suites += sorted(_answers(stage.name, suite), key=_falling)
  return rollouts + suites


def spread(values: Sequence, most: int) -> list:
  """At most so many of a sequence, evenly spread, the first and the last among them."""
  if len(values) <= most:
    return list(values)
  return [values[round(index * (len(values) - 1) / max(most - 1, 1))] for index in range(most)]


def clipped(text: str) -> str:
  """A text whose middle is left out where it is longer than LONGEST."""
  if len(text) <= LONGEST:
    return text
  half = LONGEST // 2
  return f'{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}'


def _falling(sample: Sample) -> tuple:
  return -(sample.score if sample.score is not None else -1e9), sample.step, sample.problem, sample.number


def split_thinking(text: str) -> list[Said]:
  """An assistant's text as thinking and answer."""
  thinking = '\n'.join(match[1] for match in _THINKING.finditer(text))
  answer = _THINKING.sub('', text).strip('\n')
  return [Said('thinking', thinking)] * bool(thinking.strip()) + [Said('assistant', answer)] * bool(
      answer or not thinking
  )


# ---------------------------------------------------------------- Evaluations
def _answers(stage: str, suite: Suite) -> Iterator[Sample]:
  for problem in spread(sorted(suite.results), PROBLEMS):
    result = suite.results[problem]
    prompt = [Said('user', text)] if (text := files.text(result, 'prompt', 'text')) else []
    prompt += _messages(files.sequence(result, 'prompt', 'messages'))
    for sample in files.sequence(result, 'samples')[:ANSWERS]:
      yield _answer(stage, suite, problem, prompt, sample)


def _answer(stage: str, suite: Suite, problem: str, prompt: Sequence[Said], sample: Any) -> Sample:
  texts = [text for text in files.sequence(sample, 'answers') if isinstance(text, str)]
  # Of a conversation of several turns, what was said between them is there too.
  said = _messages(files.sequence(sample, 'messages')) or [part for text in texts for part in split_thinking(text)]
  status, reason = files.text(sample, 'status'), files.text(sample, 'reason')
  figures = files.numbers(sample, 'figures')
  solved = status == 'passed' if status else None
  score = figures.get('tests', solved if solved is None else float(solved))
  tests = [': '.join(filter(None, (status, reason)))] if status else []
  return Sample(
      stage=stage,
      origin=suite.name,
      step=suite.step,
      problem=problem,
      number=files.count(sample, 'sample'),
      prompt=prompt,
      answer=said,
      score=score,
      solved=solved,
      tests=tests + [f'{name} {value:.4g}' for name, value in figures.items()],
      rewards={},
      tokens=sum(files.count({'': count}, '') for count in files.sequence(sample, 'tokens')),
      end=next((end for end in reversed(files.sequence(sample, 'ends')) if isinstance(end, str)), ''),
  )


def _messages(messages: Sequence[Any]) -> list[Said]:
  said = []
  for message in messages:
    role, content = files.text(message, 'role') or 'user', files.text(message, 'content')
    if thinking := files.text(message, 'thinking'):
      said.append(Said('thinking', thinking))
    said += split_thinking(content) if role == 'assistant' and '<think>' in content else [Said(role, content)]
    said += [Said('call', _call(call)) for call in files.sequence(message, 'tool_calls')]
  return said


def _call(call: Any) -> str:
  name = files.text(call, 'name') or files.text(call, 'function_name')
  arguments = ', '.join(f'{key}={value!r}' for key, value in files.items(call, 'arguments').items())
  return f'{name}({arguments})'


# ---------------------------------------------------------------- Roll-outs
def _rollouts(reader: Files, stage: Stage) -> Iterator[Sample]:
  steps: dict[int, list[pathlib.Path]] = {}
  try:
    for store in sorted(stage.folder.rollouts.glob('[0-9]*.jsonl'), key=files.by_number):
      steps.setdefault(files.by_number(store)[1], []).append(store)
  except OSError:
    return
  for step in spread(list(steps), STEPS):
    # A step has a file per process, and a line per group.
    for line in itertools.islice((line for store in steps[step] for line in reader.lines(store, GROUPS)), GROUPS):
      samples = [_rollout(stage.name, step, *one) for one in _trajectories(line)]
      yield from spread(sorted(samples, key=_falling), ANSWERS)


def _trajectories(value: Any, around: Mapping[str, Any] | None = None, depth: int = 0) -> Iterator[tuple[dict, dict]]:
  """(trajectory, what holds it) of a line: a trajectory is an object with `steps`."""
  if isinstance(value, dict) and isinstance(value.get('steps'), list):
    yield value, dict(around or {})
  elif isinstance(value, (dict, list)) and depth < 4:
    for inner in value.values() if isinstance(value, dict) else value:
      yield from _trajectories(inner, value if isinstance(value, dict) else around, depth + 1)


def _rollout(stage: str, step: int, trajectory: Mapping[str, Any], around: Mapping[str, Any]) -> Sample:
  extra = files.items(trajectory, 'extra')
  prompt, answer, tokens = [], [], 0
  for taken in files.sequence(trajectory, 'steps'):
    said = list(_step(taken))
    if files.text(taken, 'source') == 'agent':
      answer += said
      tokens += len(files.sequence(taken, 'metrics', 'completion_token_ids'))
    else:
      (answer if answer else prompt).extend(said)
  if not prompt:
    prompt = _messages(files.sequence(around, 'prompt', 'messages') or files.sequence(extra, 'messages'))
  if not any(said.text for said in answer):
    answer = split_thinking(files.text(extra, 'text'))
  rewards, notes = files.numbers(extra, 'rewards'), files.items(extra, 'notes')
  passed = rewards.get('pass_rate')
  status = files.text(notes, 'verdict', 'status')
  return Sample(
      stage=stage,
      origin='roll-out',
      step=step,
      problem=files.text(extra, 'prompt_id'),
      number=files.count(extra, 'sample'),
      prompt=prompt,
      answer=answer,
      score=files.number(extra, 'reward'),
      solved=status == 'passed' if status else None if passed is None else passed >= 1,
      tests=list(_checked(notes, files.items(around, 'prompt'))),
      rewards=rewards,
      tokens=tokens,
      end=files.text(extra, 'end'),
  )


def _checked(notes: Mapping[str, Any], prompt: Mapping[str, Any]) -> Iterator[str]:
  """What is known of the checks of a roll-out: the verdict and other notes, and what it was held against."""
  verdict = files.items(notes, 'verdict')
  if status := files.text(verdict, 'status'):
    yield ': '.join(filter(None, (status, files.text(verdict, 'reason'))))
  if total := files.count(verdict, 'total'):
    yield f'{files.count(verdict, "passed"):,} of {total:,} tests passed'
  yield from (f'{name.replace("_", " ")}: {_short(value)}' for name, value in notes.items() if name != 'verdict')
  for test in files.sequence(prompt, 'problem', 'tests')[:TESTS]:
    yield f'hidden test: {_short(files.at(test, "input"))} → {_short(files.at(test, "output"))}'
  yield from (f'check: {_short(check)}' for check in files.sequence(prompt, 'checks'))


def _step(taken: Any) -> Iterator[Said]:
  """What is said in a step of ATIF, and what its tools answered."""
  agent = files.text(taken, 'source') == 'agent'
  if thinking := files.text(taken, 'reasoning_content'):
    yield Said('thinking', thinking)
  if message := files.text(taken, 'message'):
    yield from split_thinking(message) if agent else [Said(files.text(taken, 'source') or 'user', message)]
  for call in files.sequence(taken, 'tool_calls'):
    yield Said('call', _call(call))
  for result in files.sequence(taken, 'observation', 'results'):
    yield Said('tool', files.text(result, 'content'))


def _short(value: Any) -> str:
  text = value if isinstance(value, str) else repr(value)
  return text if len(text) <= 200 else text[:200] + ' ...'
