"""Puzzles of arithmetic, logic and algorithms from reasoning-gym; the judge that comes with each must accept its answer."""

import contextlib
import functools
import hashlib
import io
import random
import warnings
from collections.abc import Iterator
from typing import Any

from iquest_jax.data.build.reasoning import expressions
from iquest_jax.data.build.reasoning.samples import difficulty, ends_with
from iquest_jax.data.documents import Conversation, Drop, content_id
from iquest_jax.errors import UserError

# Generators of reasoning-gym 0.1.25 that are left out; a test recomputes the list.
_NO_ANSWER = ('boxnet', 'composite', 'graph_color', 'propositional_logic', 'rubiks_cube', 'rush_hour')
_ACCEPTS_ANYTHING = ('game_of_life_halting',)
# Their puzzles depend on the hash seed of the interpreter or on the global state of `random`.
_NOT_DETERMINISTIC = (
    'codeio', 'intermediate_integration', 'isomorphic_strings', 'knight_swap', 'list_functions',
    'polynomial_multiplication', 'ransom_note', 'word_ladder',
)  # fmt: skip
LEFT_OUT = frozenset((*_NO_ANSWER, *_ACCEPTS_ANYTHING, *_NOT_DETERMINISTIC))
CHECKS = ('judge accepts the answer', 'judge refuses others')
_BLOCK = 500  # puzzles per dataset; some generators make all of theirs at once
_LONGEST = 2000  # ours: characters of question and answer; longer puzzles are dropped


def puzzles(numbers: range, seed: int, thinking: bool = False) -> Iterator[Conversation | Drop]:
  """Puzzles with answers; puzzle n is a pure function of (seed, n).

  Where the generator tells how the answer comes about, or it is plain arithmetic, there are steps, and the difficulty
  follows from their number; otherwise the answer stands alone and the difficulty is unknown.

  Args:
    numbers: which puzzles.
    thinking: the steps are thinking; otherwise they are part of the answer.

  Raises:
    UserError: reasoning-gym is not installed.
  """
  with _contained('import'):
    names = generators()
  for number in numbers:
    rng = random.Random(f'{seed}:puzzles:{number}')
    name = rng.choice(names)
    block, index = divmod(number, _BLOCK)
    with _contained(f'{seed}:{number}'):
      dataset = _dataset(name, int.from_bytes(hashlib.sha256(f'{seed}:{name}:{block}'.encode()).digest()[:4]))
      puzzle = made(name, dataset, dataset[index], thinking)
    yield puzzle


def generators() -> list[str]:
  """The names of the generators that are used, sorted.

  Raises:
    UserError: reasoning-gym is not installed.
  """
  try:
    from reasoning_gym.factory import DATASETS
  except ImportError:
    raise UserError('puzzles: reasoning-gym is not installed; pip install -e .[data]') from None
  return sorted(DATASETS.keys() - LEFT_OUT)


@contextlib.contextmanager
def _contained(seed: str) -> Iterator[None]:
  """Keeps what some generators and judges do to the process: they print, warn and draw from the global `random`."""
  state = random.getstate()
  random.seed(seed)
  try:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  finally:
    random.setstate(state)


@functools.lru_cache(maxsize=256)
def _dataset(name: str, seed: int) -> Any:
  from reasoning_gym.factory import create_dataset

  return create_dataset(name, seed=seed, size=_BLOCK)


def made(name: str, dataset: Any, item: dict[str, Any], thinking: bool) -> Conversation | Drop:
  """The chat of one puzzle, if its judge tells the answer from others.

  Args:
    dataset: its judge is `dataset.score_answer(answer, item)`, 1 if right.
    item: 'question', 'answer' and 'metadata' of a puzzle.
  """
  question, answer = item['question'], item['answer']
  if not isinstance(answer, str) or not answer.strip() or _score(dataset, answer, item) != 1:
    return Drop('puzzle: the judge refuses the answer', name)
  if any(_score(dataset, other, item) >= 1 for other in ('', 'no answer')):
    return Drop('puzzle: the judge accepts anything', name)
  if len(question) + len(answer) > _LONGEST:
    return Drop('puzzle: too long', name)
  steps = _steps(item['metadata'], answer)
  said = {'role': 'assistant', 'content': answer}
  if steps and thinking:
    said['thinking'] = steps
  elif steps:
    said['content'] = f'{steps}\nAnswer: {answer}'
  level = difficulty(steps.count('\n') + 1) if steps else ''
  messages = ({'role': 'user', 'content': question.strip()}, said)
  return Conversation(content_id(question), messages, difficulty=level, checks=CHECKS)


def _score(dataset: Any, answer: str, item: dict[str, Any]) -> float:
  """What the judge gives an answer; a judge that fails on it does not accept it."""
  try:
    return dataset.score_answer(answer, item)
  except Exception:  # Judges parse answers, and each fails in its own way.
    return 0.0


def _steps(metadata: dict[str, Any], answer: str) -> str:
  """How the answer comes about, ending in it; '' if the generator does not tell."""
  steps = ''
  match metadata:
    case {'answer_cot': str(text)}:
      steps = text.replace('#### ', '')
    case {'states': [str(), *_] as states}:
      steps = '\n'.join(map(str, states))
    case {'expression': str(expression)}:
      try:
        steps = '\n'.join(expressions.evaluate(expression)[1])
      except (ValueError, SyntaxError, ArithmeticError):
        return ''
  return steps if ends_with(steps, answer) else ''
