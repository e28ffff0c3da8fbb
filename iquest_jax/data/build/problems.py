"""A programming problem as a chat: the statement asks, the solution answers."""

import re

from iquest_jax.data import syntax
from iquest_jax.data.documents import Conversation, Drop, Problem

_FENCE = re.compile(r'^\s*(`{3,})', re.MULTILINE)


def conversation(problem: Problem) -> Conversation | Drop:
  """The user states the problem; the assistant answers with the solution in one fenced block.

  A solution that brings fences of its own, as an explained one does, is the answer as it is.
  """
  if not problem.solution.strip():
    return Drop('problem: no solution', problem.id)
  request, answer = problem.statement.strip(), problem.solution.strip()
  if problem.function and problem.function not in request:
    request = f'{request}\n\nWrite a function `{problem.function}`.'  # ours
  if not _FENCE.search(answer):
    tree = syntax.parse(answer, problem.language)
    language = problem.language if tree is not None and not tree.wrong_bytes else ''
    answer = f'```{language}\n{answer}\n```'
  messages = ({'role': 'user', 'content': request}, {'role': 'assistant', 'content': answer})
  return Conversation(problem.id, messages)
