"""What tests of benchmark families share: one pool of sandboxes, files in the official formats, the grade of an answer."""

import json
import os

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval.suite import Outcome, Problem, Suite
from iquest_jax.sandbox import languages
from iquest_jax.sandbox.pool import Pool

MALFORMED = ['', ' \n', '```', '```python\n', '<think>', 'I cannot help with that.', '(' * 5000, '\0\ud800', '[ANSWER]']


@pytest.fixture(scope='session')
def pool():
  """One pool for all families."""
  try:
    pool = Pool()
  except UserError as error:
    pytest.skip(str(error))
  yield pool
  pool.close()


def write_lines(path, *records) -> None:
  """Writes a file of JSON lines, and the folders above it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))


def graded(suite: Suite, problem: Problem, answer: str | list[str], pool: Pool | None = None) -> Outcome:
  """The outcome of a chat model's answer, or of several in turn."""
  answers = [answer] if isinstance(answer, str) else answer
  return suite.grade(problem, suite.extract(problem, answers), pool)


def score(suite: Suite, problem: Problem, answer: str | list[str], pool: Pool | None = None) -> dict[str, float]:
  """The figures of a suite that has one problem."""
  return suite.score({problem.id: problem}, {problem.id: [graded(suite, problem, answer, pool)]})


def lacks(pool: Pool, language: str) -> bool:
  """Whether programs in this language cannot run in the pool."""
  return bool(languages.missing(language, pool.backend == 'landlock' and os.geteuid() == 0))
