"""A fact as text: the question, the answer, then the end token; every token is learned."""

from iquest_jax.data.documents import Fact
from iquest_jax.data.format import text
from iquest_jax.text.example import Segment


def segments(fact: Fact) -> list[Segment]:
  return text.ended(f'Question: {fact.question}\nAnswer: {fact.answer}\n')
