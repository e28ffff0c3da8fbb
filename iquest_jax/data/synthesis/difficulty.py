"""How hard a problem is, judged by the structure of its solution.

ours: the report samples by difficulty in its second phase of SFT and does not say how it measures it. We count statements,
and nested ones more: of two programs of the same length, the one with more loops in loops is harder.
"""

from iquest_jax.data import syntax
from iquest_jax.data.documents import DIFFICULTIES

# ours: points from which on a problem is no longer easy, and from which on it is hard.
_MEDIUM, _HARD = 12, 40


def label(code: str, language: str) -> str:
  """One of DIFFICULTIES; '' if the language has no grammar, or the code is beyond its limits."""
  tree = syntax.parse(code, language)
  if tree is None:
    return ''
  points = score(syntax.spans(tree, 'statement'))
  return DIFFICULTIES[(points >= _MEDIUM) + (points >= _HARD)]


def score(spans: list[tuple[int, int]]) -> int:
  """A point per statement, and another for each of the statements around it beyond the second."""
  points, around = 0, []
  for first, last in spans:
    while around and around[-1] <= first:
      around.pop()
    points += 1 + max(0, len(around) - 2)
    around.append(last)
  return points
