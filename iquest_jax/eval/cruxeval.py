"""CRUXEval: the output of a short function for an input, or an input that gives the output.

Source: Gu et al. 2024 and its repository; the answer stands after `[ANSWER]` and is executed as an assert within 3 s.
"""

import ast
import pathlib
import re
from collections.abc import Sequence

from iquest_jax.eval import literals, read
from iquest_jax.eval.suite import Outcome, Problem, Prompt, Suite
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import grade_script
from iquest_jax.text import extract

_FIELDS = {'id': str, 'code': str, 'input': str, 'output': str}
_LIMITS = Limits(wall_s=3, cpu_s=3)
# Per task: what is asked, and examples of (function, input, output).
_OUTPUT = (
    'Below, a Python function is followed by an assertion whose right side is missing. Work out what the call returns, '
    'also if the function looks wrong, and write the whole assertion between [ANSWER] and [/ANSWER]. Its right side must '
    'be a literal: no calls, no arithmetic.',
    [('def f(x):\n  return x * 2 + 1', '4', '9'), ('def f(s):\n  return s[::-1] + "!"', '"abc"', '"cba!"')],
)
_INPUT = (
    'Below, a Python function is followed by an assertion whose arguments are missing. Find arguments for which the '
    'assertion holds; any will do. Write the whole assertion between [ANSWER] and [/ANSWER].',
    [('def f(x):\n  return x * 2 + 1', '4', '9'), ('def f(a, b):\n  return a + b', '"to", "day"', '"today"')],
)


class CruxEval(Suite):
  """One direction of the benchmark."""

  def __init__(self, wanted: str):
    """`wanted` is 'input' or 'output'."""
    self.name, self._wanted = f'cruxeval_{wanted}', wanted

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    return [Problem(record['id'], record) for record in read.records(read.find(folder, 'cruxeval.jsonl*'), _FIELDS)]

  def prompt(self, problem: Problem) -> Prompt:
    instruction, examples = _INPUT if self._wanted == 'input' else _OUTPUT
    shown = [f'{self._question(*example)}\n[ANSWER]\n{_assertion(*example[1:])}\n[/ANSWER]' for example in examples]
    fields = problem.fields
    question = self._question(fields['code'], fields['input'], fields['output'])
    text = '\n\n'.join([instruction, *shown, question])
    return Prompt(f'{text}\n[ANSWER]\n', [{'role': 'user', 'content': text}], stop=['[/ANSWER]'])

  def _question(self, code: str, given: str, output: str) -> str:
    assertion = _assertion('??', output) if self._wanted == 'input' else _assertion(given, '??')
    return f'[PYTHON]\n{code}\n{assertion}\n[/PYTHON]'

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    """The side of the assertion that was missing; an expression alone is taken as that side."""
    text = extract.without_thinking(answers[-1]).rpartition('[ANSWER]')[2].partition('[/ANSWER]')[0].strip()
    if blocks := extract.blocks(text):
      text = blocks[-1].text.strip()
    match literals.parsed(text, 'exec'):
      case ast.Module([ast.Assert(side) | ast.Expr(side)]):
        if isinstance(side, ast.Compare) and isinstance(side.ops[0], ast.Eq):
          side = side.left if self._wanted == 'input' else side.comparators[0]
        return ast.get_source_segment(text, side) or ''
    left, equal, right = text.partition('==')
    return re.sub(r'^\s*assert\b', '', right if equal and self._wanted == 'output' else left).strip()

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    tree = literals.parsed(extracted)
    if tree is None:
      return Outcome.when(False, 'the answer is not an expression')
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls = any(isinstance(function, ast.Name) and function.id == 'f' for function in called)
    if calls != (self._wanted == 'input'):
      return Outcome.when(False, f'the answer {"calls f" if calls else "does not call f"}')
    source = f'{problem.fields["code"]}\ndef the_answer():\n  return (\n{extracted}\n)\n'
    script = f'assert {problem.fields["output"]} == the_answer()'
    return Outcome.of(grade_script(pool, source, script, names=['the_answer'], limits=_LIMITS))


def _assertion(given: str, output: str) -> str:
  return f'assert f({given}) == {output}'


INPUT, OUTPUT = CruxEval('input'), CruxEval('output')
