"""MBPP: short tasks in words with three asserts each, in full and in its sanitized form; the 500 test tasks, 11 to 510.

Source: Austin et al. 2021; mbpp.jsonl and sanitized-mbpp.json. A text to continue shows tasks 2, 3 and 4 first, as there.
"""

import ast
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.eval import read
from iquest_jax.eval.suite import Outcome, Problem, Prompt, Suite
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import grade_script
from iquest_jax.text import extract

_FIELDS = {'task_id': int, 'code': str, 'test_list': list}
_TEST_TASKS, _SHOWN_TASKS = range(11, 511), (2, 3, 4)
# The words of the published prompt.
_TASK = 'You are an expert Python programmer, and here is your task: {} Your code should pass these tests:\n\n{}\n[BEGIN]\n'
_END = '\n[DONE]'
_REQUEST = '{}\n\nThe program must pass these tests:\n\n```python\n{}\n```\n\nAnswer with it in one ```python block.'
_LIMITS = Limits(wall_s=10.0, cpu_s=5.0)


@dataclasses.dataclass
class Mbpp(Suite):
  """One of the two files.

  Attributes:
    file: its name.
    words, setup: its fields with the task in words, and with code to run before the tests.
  """

  name: str
  file: str
  words: str
  setup: str
  length: int = 512

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    fields = _FIELDS | {self.words: str, self.setup: (str, list)}
    records = {record['task_id']: record for record in read.records(read.find(folder, self.file), fields)}
    shown = ''.join(f'{self._task(records[key])}{records[key]["code"]}{_END}\n\n' for key in _SHOWN_TASKS if key in records)
    tests = [record for key, record in records.items() if key in _TEST_TASKS]
    return [Problem(f'MBPP/{record["task_id"]}', record | {'shown': shown}) for record in tests]

  def prompt(self, problem: Problem) -> Prompt:
    fields = problem.fields
    request = _REQUEST.format(fields[self.words], '\n'.join(fields['test_list']))
    return Prompt(fields['shown'] + self._task(fields), [{'role': 'user', 'content': request}], stop=[_END.strip()])

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return extract.code(answers[-1], defines=next(iter(_tested(problem.fields)), ''))

  def continued(self, problem: Problem, completion: str) -> str:
    return completion

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    fields = problem.fields
    setup = fields[self.setup] if isinstance(fields[self.setup], str) else '\n'.join(fields[self.setup])
    script = '\n'.join(fields['test_list']) + '\n'
    return Outcome.of(grade_script(pool, extracted, script, _tested(fields), setup, limits=_LIMITS))

  def _task(self, fields: Mapping[str, Any]) -> str:
    return _TASK.format(fields[self.words], '\n'.join(fields['test_list']))


def _tested(fields: Mapping[str, Any]) -> list[str]:
  """The functions and classes of the canonical solution that the tests call."""
  try:
    defined = [node.name for node in ast.parse(fields['code']).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    called = {
        node.func.id
        for node in ast.walk(ast.parse('\n'.join(fields['test_list'])))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
  except (SyntaxError, ValueError, RecursionError):
    return []
  return [name for name in dict.fromkeys(defined) if name in called]


MBPP = Mbpp('mbpp', 'mbpp.jsonl', 'text', 'test_setup_code')
MBPP_SANITIZED = Mbpp('mbpp_sanitized', 'sanitized-mbpp.json', 'prompt', 'test_imports')
