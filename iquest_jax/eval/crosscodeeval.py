"""CrossCodeEval: the rest of a line from the file so far, optionally with code retrieved from other files.

Source: its repository. A completion is cut to one statement and comments are dropped; exact match compares stripped
lines, edit similarity is 100 (1 - indel distance / sum of lengths). Python is cut where the file so far parses, by this
interpreter's parser instead of tree-sitter; where it does not parse at all, at the first line whose brackets are closed.
"""

import ast
import math
import pathlib
import re
from collections.abc import Mapping, Sequence

from iquest_jax.errors import UserError
from iquest_jax.eval import read
from iquest_jax.eval.suite import Outcome, Problem, Prompt, Suite
from iquest_jax.sandbox.pool import Pool

_FIELDS = {'prompt': str, 'groundtruth': str, 'metadata': dict}
_MOST_LINES = 20  # of one statement


class CrossCodeEval(Suite):
  """One language, with or without retrieved code in front of the file."""

  length = 50

  def __init__(self, language: str, retrieved: bool = False):
    self.name = f'crosscodeeval_{language}' + '_bm25' * retrieved
    self._language, self._retrieved = language, retrieved

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    name = 'line_completion_rg1_bm25.jsonl' if self._retrieved else 'line_completion.jsonl'
    path = read.find(folder, f'{self._language}/{name}')
    problems = []
    for record in read.records(path, _FIELDS | ({'crossfile_context': dict} if self._retrieved else {})):
      needed = [('metadata', 'task_id'), ('crossfile_context', 'text')][: 1 + self._retrieved]
      for outer, inner in needed:
        if not isinstance(record[outer].get(inner), str):
          raise UserError(f'{path}: {outer} has no "{inner}"; is it the official file?')
      problems.append(Problem(record['metadata']['task_id'], record))
    return problems

  def prompt(self, problem: Problem) -> Prompt:
    context = problem.fields['crossfile_context']['text'] if self._retrieved else ''
    return Prompt(context + problem.fields['prompt'])

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return cut(problem.fields['prompt'], answers[-1], self._language)

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    ours, truth = _without_comments(extracted), _without_comments(problem.fields['groundtruth'])
    exact = _lines(ours) == _lines(truth)
    return Outcome.when(exact, 'not the same text', edit_similarity=similarity(ours.strip(), truth.strip()))

  def score(self, problems: Mapping[str, Problem], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    similarities = [outcome.figures['edit_similarity'] for samples in outcomes.values() for outcome in samples]
    exact = super().score(problems, outcomes)['pass@1']
    return {'exact match': exact, 'edit similarity': math.fsum(similarities) / len(similarities)}


def cut(prompt: str, completion: str, language: str) -> str:
  """The first statement of a completion."""
  if language != 'python':
    end = re.search('[;{}]', completion[1:])  # A first character alone ends nothing.
    return completion[: end.end() + 1] if end else completion
  ends = [at.start() for _, at in zip(range(_MOST_LINES), re.finditer('\n', completion)) if at.start()]
  for accepts in (_parses, _closes):
    for end in ends:
      if accepts(prompt, completion[:end]):
        return completion[:end].rstrip()
  return completion[: ends[-1]] if len(ends) == _MOST_LINES else completion


def _parses(prompt: str, statement: str) -> bool:
  try:
    ast.parse(prompt + statement)
    return True
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return False


def _closes(prompt: str, statement: str) -> bool:
  """Whether all brackets of the statement's lines are closed."""
  text = prompt[prompt.rfind('\n') + 1 :] + statement
  return bool(statement.strip()) and sum(map(text.count, '([{')) <= sum(map(text.count, ')]}'))


def _without_comments(code: str) -> str:
  """As the benchmark drops them: in every language what follows # or //, in strings, too."""
  return re.sub('(#|//).*', '', code)


def _lines(code: str) -> list[str]:
  return [line.strip() for line in code.split('\n') if line.strip()]


def similarity(a: str, b: str) -> float:
  """100 (1 - indel distance / (len a + len b)); 100 for two empty texts. Time: longer text x words of the shorter one."""
  short, long = sorted((a, b), key=len)
  places: dict[str, int] = {}
  for at, letter in enumerate(short):
    places[letter] = places.get(letter, 0) | 1 << at
  # The longest common subsequence by bits (Hyyro 2004): a zero bit is a letter of it.
  bits = everything = (1 << len(short)) - 1
  for letter in long:
    hit = bits & places.get(letter, 0)
    bits = (bits + hit | bits - hit) & everything
  common = len(short) - bits.bit_count()
  return 200 * common / (len(a) + len(b)) if a or b else 100.0


PYTHON, JAVA, CSHARP, TYPESCRIPT = map(CrossCodeEval, ('python', 'java', 'csharp', 'typescript'))
PYTHON_BM25, JAVA_BM25, CSHARP_BM25, TYPESCRIPT_BM25 = (
    CrossCodeEval(language, True) for language in ('python', 'java', 'csharp', 'typescript')
)
