"""Translation: the verified Python solution of a problem, written again in another language and executed on the same tests.

The model sees the code and not its tests.
"""

from iquest_jax.data.documents import Drop, Parallel, Problem, content_id
from iquest_jax.data.synthesis import cases, turns, typed
from iquest_jax.data.synthesis.domain import Domain, Tools
from iquest_jax.data.synthesis.verify import verify as verify_document
from iquest_jax.text import extract

_LANGUAGES = {
    'javascript': 'JavaScript for Node.js',
    'java': 'Java',
    'cpp': 'C++17',
    'go': 'Go',
    'rust': 'Rust',
}
_TRANSLATE = """Translate this Python {what} to {language}: {form}. It must give the same results for all valid input.
Write it as one who knows the language well would, with its standard library alone, without examples or tests. Answer
with all of the code in one fenced block."""


async def generate(problem: Problem, tools: Tools) -> Parallel | Drop:
  if problem.language != 'python' or not problem.solution.strip():
    return Drop('translation: no solution in Python')
  if problem.function and not problem.function.isidentifier():
    return Drop('translation: a method')
  found = cases.parse(problem.tests, problem.function)
  if isinstance(found, Drop):
    return found
  # A language with types takes only what has a type in all of them.
  known = not problem.function or typed.types(found) is not None
  language = tools.rng.choice([name for name in _LANGUAGES if known or name not in typed.LANGUAGES])
  what = 'function' if problem.function else 'program'
  form = _form(language, problem.function, found) if problem.function else _programs(language)
  prompt = _TRANSLATE.format(what=what, language=_LANGUAGES[language], form=form)
  answer = await tools.ask(turns.request(prompt, turns.fenced(problem.solution, 'python')), max_tokens=4000)
  code = extract.code(answer, language)
  if not code.strip():
    return Drop('translation: no code')
  sides = (('python', problem.solution), (language, code))
  return Parallel(content_id(problem.id, language, code), sides, problem.tests, problem.function)


def _form(language: str, function: str, found: list[cases.Case]) -> str:
  if language in typed.LANGUAGES:
    return typed.signature(language, function, found)
  return f'a function `{function}`, without output and exports'


def _programs(language: str) -> str:
  name = ' and a class named `Main`' if language == 'java' else ''
  return f'a program with the same input and output{name}'


async def verify(candidate: Parallel, tools: Tools) -> Parallel | Drop:
  return await tools.run(verify_document, candidate, tools.pool)


DOMAIN = Domain('translation', (Problem,), generate, verify)
