"""MultiPL-E: HumanEval and MBPP in the languages of the sandbox; a program passes if its tests run to their end.

Source: its repository. The tests are a part of the program, so an early exit must not count: they end by printing a
random word, which is asked for. A program that reads its own source can find the word; it cannot do so by accident.
"""

import dataclasses
import os
import pathlib
import re
import secrets
from collections.abc import Mapping, Sequence

from iquest_jax.eval import job, read
from iquest_jax.eval.suite import MISSING, Outcome, Problem, Prompt, Suite
from iquest_jax.infer.sampler import Sampling
from iquest_jax.sandbox import languages
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Step
from iquest_jax.sandbox.verdict import FAILED, PASSED
from iquest_jax.text import extract

_FIELDS = {'name': str, 'language': str, 'prompt': str, 'tests': str, 'stop_tokens': list}
_LIMITS = Limits(wall_s=15, cpu_s=15)
# The names of the files' languages: ours, and the statement that prints a word.
_LANGUAGES = {
    'py': ('python', 'print("{}")'),
    'sh': ('bash', 'echo "{}"'),
    'js': ('javascript', 'console.log("{}");'),
    'cpp': ('cpp', 'std::puts("{}");'),
    'rs': ('rust', 'println!("{}");'),
    'java': ('java', 'System.out.println("{}");'),
    'go_test.go': ('go', ''),  # `go test` itself takes an early exit for a failure.
}
_INSIDE = {'cpp': 1, 'rs': 1, 'java': 2}  # How many braces close after the last test.
_HEADER = re.compile(r'(#include|use |import |from |package ).*')
_JAVATUPLES = re.compile(r'\b(Unit|Pair|Triplet|Quartet|Quintet|Sextet)\b')


class MultiplE(Suite):
  """All files of the folder; a figure per language."""

  name = 'multipl_e'
  sampling = Sampling(temperature=0.2, top_p=0.95)

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    first = read.find(folder, 'humaneval-*.jsonl', 'mbpp-*.jsonl')
    paths = sorted({*first.parent.glob('humaneval-*.jsonl'), *first.parent.glob('mbpp-*.jsonl')})
    records = [record for path in paths for record in read.records(path, _FIELDS)]
    return [Problem(f'{record["language"]}/{record["name"]}', record) for record in records]

  def prompt(self, problem: Problem) -> Prompt:
    fields = problem.fields
    chat = (
        f'Complete this program, and give all of it in one fenced block:\n```{_name(problem)}\n{fields["prompt"]}\n```'
    )
    return Prompt(fields['prompt'], [{'role': 'user', 'content': chat}], stop=fields['stop_tokens'])

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    code = extract.code(answers[-1], _name(problem))
    present = set(map(str.strip, code.split('\n')))
    header = [
        line for line in problem.fields['prompt'].split('\n') if _HEADER.match(line) and line.strip() not in present
    ]
    return ''.join(f'{line}\n' for line in header) + code if code.strip() else ''

  def continued(self, problem: Problem, completion: str) -> str:
    return problem.fields['prompt'] + completion

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    language, tests = problem.fields['language'], problem.fields['tests']
    if language not in _LANGUAGES:
      return Outcome(MISSING, f'the sandbox does not run {language}')
    if tools := languages.missing(_name(problem), pool.backend == 'landlock' and os.geteuid() == 0):
      return Outcome(MISSING, f'needs {", ".join(tools)}')
    if language == 'java' and _JAVATUPLES.search(problem.fields['prompt'] + tests):
      return Outcome(MISSING, 'needs the library javatuples')
    if not extracted.strip():
      return Outcome.when(False, 'the answer has no code')
    word = secrets.token_hex(16)
    source = _program(language, extracted, tests, word)
    file, steps = _steps(language, pool.backend)
    done, stopped = job.run(pool, steps, {file: source})
    if stopped:
      return stopped
    ran = done[-1]
    if ran.exit:
      last = (ran.stderr.strip() or ran.stdout.strip() or f'exit status {ran.exit}').splitlines()[-1][:200]
      return Outcome(FAILED, last, ran.seconds)
    if _LANGUAGES[language][1] and word not in ran.stdout:
      return Outcome(FAILED, 'the program ended before its tests did', ran.seconds)
    return Outcome(PASSED, seconds=ran.seconds)

  def score(self, problems: Mapping[str, Problem], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    figures = super().score(problems, outcomes)
    by_language: dict[str, dict[str, Sequence[Outcome]]] = {}
    for key, samples in outcomes.items():
      by_language.setdefault(problems[key].fields['language'], {})[key] = samples
    if len(by_language) > 1:
      figures |= {
          name: super(MultiplE, self).score(problems, mine)['pass@1'] for name, mine in sorted(by_language.items())
      }
    return figures


def _name(problem: Problem) -> str:
  return _LANGUAGES.get(problem.fields['language'], (problem.fields['language'], ''))[0]


def _program(language: str, code: str, tests: str, word: str) -> str:
  """Code and tests as one program that ends by printing `word`.

  The tests close what the prompt opened; a chat model has closed it already, so its closing braces are taken off.
  """
  depth, lowest = 0, 0
  for brace in re.findall('[{}]', tests):
    depth += 1 if brace == '{' else -1
    lowest = min(lowest, depth)
  code, missing = code.rstrip(), -lowest - code.count('{') + code.count('}')
  for _ in range(min(missing, -lowest)):
    code = code.removesuffix('}').rstrip()
  statement = _LANGUAGES[language][1].format(word)
  if inside := _INSIDE.get(language, 0):
    parts = tests.rsplit('}', inside)
    tests = f'{parts[0]}\n{statement}\n' + '}' * inside
    statement = ''
  program = f'{code}\n{tests}\n{statement}\n'
  if language == 'cpp':
    return f'#include <cstdio>\n{program}'
  if language == 'java':
    program = re.sub(r'import org\.javatuples.*', '', program)
    return re.sub(r'\bclass Problem\b', 'class Main', program)
  return program


def _steps(language: str, backend: str) -> tuple[str, list[Step]]:
  """The source file's name and the steps of a program."""
  name = _LANGUAGES[language][0]
  steps = languages.steps(name, ('',), _LIMITS, backend)
  if name == 'go':
    test = dataclasses.replace(steps[0], argv=(steps[0].argv[0], 'test', 'main_test.go'))
    return 'main_test.go', [test]
  if name == 'java':  # Its asserts are off by default.
    steps[-1] = dataclasses.replace(steps[-1], argv=(steps[-1].argv[0], '-ea', *steps[-1].argv[1:]))
  return languages.LANGUAGES[name].file, steps


MULTIPL_E = MultiplE()
