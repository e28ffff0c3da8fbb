"""Translation: the verified Python solution of a problem, written again in another language and executed on the same tests.

The model sees the code and not its tests.
"""

from iquest_jax.data.documents import Drop, Parallel, Problem, content_id
from iquest_jax.data.synthesis import execution, turns
from iquest_jax.data.synthesis.domain import Domain, Tools
from iquest_jax.data.synthesis.verify import verify as verify_document
from iquest_jax.text import extract

# Functions go where the sandbox can call them with plain data, programs where it can run them.
_FUNCTIONS = tuple(language for language in execution.CALLED if language != 'python')
_PROGRAMS = ('javascript', 'java', 'cpp', 'go', 'rust')
_NAMES = {
    'javascript': 'JavaScript for Node.js',
    'java': 'Java, its class named Main',
    'cpp': 'C++17',
    'go': 'Go',
    'rust': 'Rust',
}
_TRANSLATE = """Translate this Python {what} to {language}. It must give the same results for all valid input, with
the same {kept}. Write it as one who knows the language well would, with its standard library alone, without examples
or tests and, unless the original does, without output. Answer with all of the code in one fenced block."""


async def generate(problem: Problem, tools: Tools) -> Parallel | Drop:
  if problem.language != 'python' or not problem.solution.strip():
    return Drop('translation: no solution in Python')
  if problem.function and not problem.function.isidentifier():
    return Drop('translation: a method')
  language = tools.rng.choice(_FUNCTIONS if problem.function else _PROGRAMS)
  what, kept = ('function', f'name, `{problem.function}`') if problem.function else ('program', 'input and output')
  prompt = _TRANSLATE.format(what=what, language=_NAMES[language], kept=kept)
  answer = await tools.ask(turns.request(prompt, turns.fenced(problem.solution, 'python')), max_tokens=4000)
  code = extract.code(answer, language)
  if not code.strip():
    return Drop('translation: no code')
  sides = (('python', problem.solution), (language, code))
  return Parallel(content_id(problem.id, language, code), sides, problem.tests, problem.function)


async def verify(candidate: Parallel, tools: Tools) -> Parallel | Drop:
  return await tools.run(verify_document, candidate, tools.pool)


DOMAIN = Domain('translation', (Problem,), generate, verify)
