"""BigCodeBench: functions that use many libraries, graded by the benchmark's unittest classes.

Source: its repository. The tests mock what the program imports, so both share one interpreter, as in the official script:
a program made to do so could forge its result there, though it can do no harm outside and cannot pass by ending early.
A problem whose libraries the sandbox's Python lacks is missing.
"""

import ast
import json
import pathlib
import secrets
from collections.abc import Sequence

from iquest_jax.errors import UserError
from iquest_jax.eval import job, read
from iquest_jax.eval.suite import MISSING, Outcome, Problem, Prompt, Suite
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Step
from iquest_jax.sandbox.verdict import CRASHED, FAILED, PASSED
from iquest_jax.text import extract

_FIELDS = {
    'task_id': str, 'complete_prompt': str, 'instruct_prompt': str, 'canonical_solution': str, 'code_prompt': str,
    'test': str, 'entry_point': str, 'libs': (str, list),
}  # fmt: skip
_LIMITS = Limits(wall_s=240, cpu_s=240, memory_bytes=4 << 30, processes=128, reserves=True)
# Runs in the sandbox: program and tests as one module, then the class TestCases.
_RUNNER = """
import importlib.util, io, json, os, sys, types, unittest
with open('job.json') as file:
  job = json.load(file)
os.remove('job.json')
report = os.dup(1)
def end(**fields):
  os.write(report, json.dumps(fields | {'word': job['word']}).encode())
  os._exit(0)
missing = [name for name in job['libraries'] if importlib.util.find_spec(name) is None]
if missing:
  end(missing=missing)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(1, 2)
module = sys.modules['__test__'] = types.ModuleType('__test__')
module.__file__ = '__test__.py'
try:
  exec(compile(job['source'], '__test__.py', 'exec'), module.__dict__)
  result = unittest.TestResult()
  unittest.TestLoader().loadTestsFromTestCase(module.TestCases).run(result)
  faults = []
  for test, trace in result.failures + result.errors:
    said = [line for line in trace.splitlines() if line[:1].strip() and not line.startswith('Traceback')]
    faults.append(f'{test.id().split(".")[-1]}: {(said or ["failed"])[0]}')
  end(faults=faults, tests=result.testsRun)
except BaseException as error:
  end(faults=[f'{type(error).__name__}: {error}'[:300]], tests=0)
"""


class BigCodeBench(Suite):
  """The full set or the hard one, by docstring (complete) or by instruction (instruct)."""

  length = 1280

  def __init__(self, hard: bool, instruct: bool):
    self.name = f'bigcodebench{"_hard" * hard}_{"instruct" if instruct else "complete"}'
    self._hard, self._field = hard, 'instruct_prompt' if instruct else 'complete_prompt'

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    names = ['BigCodeBench-Hard*.jsonl*'] if self._hard else ['BigCodeBench-v*.jsonl*', 'BigCodeBench.jsonl*']
    path = read.find(folder, *names)
    problems = []
    for record in read.records(path, _FIELDS):
      try:
        libraries = record['libs'] if isinstance(record['libs'], list) else ast.literal_eval(record['libs'])
        roots = sorted({name.split('.')[0] for name in libraries})
      except (ValueError, SyntaxError, AttributeError, TypeError):
        raise UserError(
            f'{path}: {record["task_id"]}: libs must be a list of names; is it the official file?'
        ) from None
      problems.append(Problem(record['task_id'], record | {'libraries': roots}))
    return problems

  def prompt(self, problem: Problem) -> Prompt:
    fields = problem.fields
    asked = fields[self._field]
    chat = (
        asked
        if self._field == 'instruct_prompt'
        else f'Complete this code, all of it in one block:\n```python\n{asked}\n```'
    )
    text = fields['complete_prompt'] if self._field == 'complete_prompt' else ''
    return Prompt(
        text, [{'role': 'user', 'content': chat}], stop=['\ndef ', '\nclass ', '\nimport ', '\nif __name__', '\n```']
    )

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    """As the official script does, after a stub with the prompt's imports, which answers often leave out."""
    code = extract.code(answers[-1], defines=problem.fields['entry_point'])
    return f'{problem.fields["code_prompt"]}\n    pass\n{code}' if code.strip() else ''

  def continued(self, problem: Problem, completion: str) -> str:
    return problem.fields['complete_prompt'] + completion

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    fields, word = problem.fields, secrets.token_hex(16)
    work = {'word': word, 'libraries': fields['libraries'], 'source': f'{extracted}\n{fields["test"]}'}
    files = {'main.py': _RUNNER, 'job.json': json.dumps(work)}
    ran, stopped = job.run(pool, [Step(service={'python': 'main', 'file': 'main.py'}, limits=_LIMITS)], files)
    if stopped:
      return stopped
    try:
      report = json.loads(ran[0].stdout)
    except ValueError:
      report = {}
    if not isinstance(report, dict) or report.get('word') != word:
      return Outcome(CRASHED, 'the program ended before its tests did', ran[0].seconds)
    if report.get('missing'):
      return Outcome(MISSING, f'needs {", ".join(report["missing"])}')
    if not extracted.strip():
      return Outcome.when(False, 'the answer has no code')
    faults = report['faults'] or ([] if report['tests'] else ['no test ran'])
    return Outcome(FAILED if faults else PASSED, faults[0][:300] if faults else '', ran[0].seconds)


COMPLETE, INSTRUCT = BigCodeBench(False, False), BigCodeBench(False, True)
HARD_COMPLETE, HARD_INSTRUCT = BigCodeBench(True, False), BigCodeBench(True, True)
