"""Verification by execution: a document with tests is kept only if its code passes them and stubs do not.

  tests          the code passes all of them in the sandbox
  deterministic  it passes them again in fresh processes, in another order and under another hash seed, and its text names
                 nothing that lets chance or time decide
  stubs          programs fail that always give the same answer, or return one of their arguments
  hidden tests   stubs also fail the tests that the request does not show, and there must be some. Code that knows only
                 the shown tests is therefore rejected, whatever it answers otherwise. Parallel functions have no request
  literal table  the answers of most tests do not stand in the code beside their inputs as literals. Tables that are
                 written in another way, such as in parts that are put together, are not found
"""

import dataclasses
from collections.abc import Mapping, Sequence

from iquest_jax.data.documents import Conversation, Drop, Parallel, Problem
from iquest_jax.data.synthesis import cases as cases_lib
from iquest_jax.data.synthesis import difficulty, execution, tables
from iquest_jax.data.synthesis.cases import Case
from iquest_jax.sandbox import languages
from iquest_jax.sandbox.pool import Pool
from iquest_jax.text import extract

_CHECKS = ('deterministic', 'stubs fail the tests', 'no literal table of answers')
CHECKS = ('solution passes the tests', *_CHECKS, 'hidden tests')
PARALLEL_CHECKS = ('every side passes the tests', *_CHECKS)


def verify(document: Problem | Conversation | Parallel, pool: Pool) -> Problem | Conversation | Parallel | Drop:
  """The document with its checks, and with its difficulty unless it has one; or the first check it failed.

  A conversation without tests has nothing to be held against and is returned as it is.

  Raises:
    UserError: no isolation is available on this machine.
  """
  if isinstance(document, Conversation) and not document.tests:
    return document
  found = cases_lib.parse(document.tests, document.function)
  if isinstance(found, Drop):
    return found
  match document:
    case Parallel():
      return _parallel(document, found, pool)
    case Problem():
      request, language, code = document.statement, document.language, document.solution
    case Conversation():
      request, language, code = _last_answer(document)
  if failed := rejects(request, language, code, document.function, found, pool):
    return failed
  label = document.difficulty or difficulty.label(code, language)
  return dataclasses.replace(document, checks=_joined(document.checks, CHECKS), difficulty=label)


def rejects(
    request: str,
    language: str,
    code: str,
    function: str,
    cases: Sequence[Case],
    pool: Pool,
    files: Mapping[str, str] | None = None,
) -> Drop | None:
  """Why code does not answer a request, cheap checks first; None if it does. `files`: see execution.rejects."""
  if not code.strip():
    return Drop('verify: no solution')
  if name := cases_lib.stubs_pass(cases, function):
    return Drop('verify: tests pass on anything', name)
  hidden = cases_lib.hidden(cases, request, function)
  if not hidden:
    return Drop('verify: no hidden test', f'all {len(cases)} are in the request')
  if name := cases_lib.stubs_pass(hidden, function):
    return Drop('verify: hidden tests pass on anything', f'{name}, {len(hidden)} of {len(cases)} are hidden')
  if _holds_answers(cases, language, code, function):
    return Drop('verify: literal table of answers')
  return execution.rejects(language, code, function, cases, pool, files)


def _parallel(document: Parallel, cases: Sequence[Case], pool: Pool) -> Parallel | Drop:
  if len({language for language, _ in document.sides}) < len(document.sides):
    return Drop('verify: one language twice')
  if name := cases_lib.stubs_pass(cases, document.function):
    return Drop('verify: tests pass on anything', name)
  for language, code in document.sides:
    if _holds_answers(cases, language, code, document.function):
      return Drop('verify: literal table of answers', language)
    if failed := execution.rejects(language, code, document.function, cases, pool):
      return dataclasses.replace(failed, evidence=f'{language}: {failed.evidence}')
  return dataclasses.replace(document, checks=_joined(document.checks, PARALLEL_CHECKS))


def _holds_answers(cases: Sequence[Case], language: str, code: str, function: str) -> bool:
  in_tree = language == 'python' and tables.holds_answers(cases, code, function)
  return in_tree or cases_lib.holds_answers(cases, code, function)


def _last_answer(conversation: Conversation) -> tuple[str, str, str]:
  """(All that was said before, the language of its code, its code) of the last turn of the assistant."""
  turns = [place for place, message in enumerate(conversation.messages) if message['role'] == 'assistant']
  if not turns:
    return '', 'python', ''
  before = '\n'.join(message['content'] for message in conversation.messages[: turns[-1]])
  answer = extract.without_thinking(conversation.messages[turns[-1]]['content'])
  fences = [block.language for block in extract.blocks(answer) if block.language]
  named = [name for name, aliases in extract.ALIASES.items() if fences and fences[-1] in aliases]
  language = named[0] if named and named[0] in languages.LANGUAGES else 'python'
  return before, language, extract.code(answer, language, conversation.function)


def _joined(before: tuple[str, ...], checks: tuple[str, ...]) -> tuple[str, ...]:
  return (*before, *(check for check in checks if check not in before))
