"""Competition problems: a statement, a solution, and tests that are generated.

One request invents the problem and writes a solution and a generator of inputs. Another shows only the statement and
asks for the simplest program that solves it. The tests are the examples, and what the simple program prints for
generated inputs. An ambiguous statement, a wrong example and a wrong solution therefore all make a test fail.
verify.py checks the tests.
"""

import dataclasses

from iquest_jax.data.documents import Document, Drop, File, Problem, content_id
from iquest_jax.data.synthesis import answers, chance, execution, turns
from iquest_jax.data.synthesis.domain import Domain, Tools
from iquest_jax.data.synthesis.verify import verify as verify_document
from iquest_jax.sandbox.pool import Pool
from iquest_jax.text import extract

# ours: inputs that are asked of the generator, how many must differ, and characters of one.
INPUTS, DISTINCT, LONGEST = 24, 12, 10_000
_SECTIONS = ('Statement', 'Examples', 'Solution', 'Generator')
_INVENT = """Invent a programming problem in the manner of a contest. Let the text below give you an idea, but do not
refer to it. Answer with these sections:

## Statement
What is given on standard input, what must be printed, and the range of every number. One right output for every
input. No examples here.

## Examples
A JSON list of two or three objects {"input": "...", "output": "..."}, exactly as a program reads and prints them.

## Solution
A Python program in a fenced block that is fast enough for the largest input. It must compute its answers.

## Generator
A Python program in a fenced block that reads a whole number, seeds `random` with it, and prints one valid input:
tiny ones, with the limits at their edges, for small numbers, and none longer than a hundred lines."""
_SOLVE = """Solve this problem with a Python program that reads standard input. Write the simplest program that is
surely right, even if it is slow: try everything rather than be clever. Answer with one fenced block."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  """What the model wrote; the request for `simple` did not show `solution`."""

  statement: str
  examples: tuple[dict[str, str], ...]
  solution: str
  simple: str
  generator: str


async def generate(document: Document, tools: Tools) -> Candidate | Drop:
  idea = document.statement if isinstance(document, Problem) else document.text
  answer = await tools.ask(turns.request(_INVENT, idea[:4000]), temperature=0.8, max_tokens=6000)
  found = answers.sections(answer, _SECTIONS)
  if found is None:
    return Drop('competition: malformed answer')
  examples = turns.listed(found['Examples'])
  if not examples or not all(_is_example(example) for example in examples):
    return Drop('competition: malformed examples', found['Examples'][:200])
  statement = _with_examples(found['Statement'], examples)
  simple = extract.code(await tools.ask(turns.request(_SOLVE, statement), max_tokens=4000, seed=1))
  programs = [extract.code(found[name]) for name in ('Solution', 'Generator')]
  return Candidate(statement, tuple(examples), programs[0], simple, programs[1])


async def verify(candidate: Candidate, tools: Tools) -> Problem | Drop:
  return await tools.run(_verified, candidate, tools.pool)


def _verified(candidate: Candidate, pool: Pool) -> Problem | Drop:
  if not all(code.strip() for code in (candidate.solution, candidate.simple, candidate.generator)):
    return Drop('competition: no program')
  if candidate.solution.split() == candidate.simple.split():
    return Drop('competition: the same program twice')
  if found := chance.decides('python', candidate.solution) or chance.decides('python', candidate.simple):
    return Drop('verify: depends on chance or time', found)
  inputs = _generated(candidate.generator, pool)
  if isinstance(inputs, Drop):
    return inputs
  printed = execution.outputs(candidate.simple, inputs, pool)
  if len(printed) < len(inputs):
    return Drop('competition: simple program fails', f'for {inputs[len(printed)][:200]!r}')
  if printed[::-1] != execution.outputs(candidate.simple, inputs[::-1], pool.reseeded):
    return Drop('competition: simple program is not deterministic')
  tests = [*candidate.examples, *({'input': text, 'output': out} for text, out in zip(inputs, printed))]
  made = Problem(content_id(candidate.statement), candidate.statement, tuple(tests), candidate.solution)
  made = verify_document(made, pool)
  return made if isinstance(made, Drop) else dataclasses.replace(made, checks=(*made.checks, 'another program agrees'))


def _generated(generator: str, pool: Pool) -> list[str] | Drop:
  """The different inputs that a generator prints, if it prints the same ones when it runs again."""
  seeds = [f'{number}\n' for number in range(INPUTS)]
  inputs = execution.outputs(generator, seeds, pool)
  if len(inputs) < INPUTS:
    return Drop('competition: generator fails', f'for {len(inputs)}')
  if inputs[::-1] != execution.outputs(generator, seeds[::-1], pool.reseeded):
    return Drop('competition: generator is not reproducible')
  if any(len(text) > LONGEST for text in inputs):
    return Drop('competition: inputs too long')
  different = list(dict.fromkeys(inputs))
  return different if len(different) >= DISTINCT else Drop('competition: too few inputs', f'{len(different)} of {INPUTS}')


def _is_example(example: object) -> bool:
  texts = example.values() if isinstance(example, dict) and example.keys() == {'input', 'output'} else [None]
  return all(isinstance(text, str) for text in texts)


def _with_examples(statement: str, examples: list[dict[str, str]]) -> str:
  shown = [
      f'Input\n{turns.fenced(example["input"])}\nOutput\n{turns.fenced(example["output"])}' for example in examples
  ]
  return '\n\n'.join([statement.strip(), *shown])


DOMAIN = Domain('competition', (File, Problem), generate, verify)
