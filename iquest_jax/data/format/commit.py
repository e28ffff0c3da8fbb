"""A commit as text: its message, an empty line, its patch; every token is learned."""

from iquest_jax.data.documents import Commit
from iquest_jax.data.format import text
from iquest_jax.text.example import Segment


def segments(commit: Commit) -> list[Segment]:
  return text.ended(f'{commit.message}\n{commit.patch}')
