"""Plain text, then the end token; every token is learned."""

from iquest_jax.data.documents import File
from iquest_jax.text import tokenizer
from iquest_jax.text.example import Segment, SpecialToken


def segments(file: File) -> list[Segment]:
  return ended(file.text)


def ended(text: str) -> list[Segment]:
  return [(text, 1.0), (SpecialToken(tokenizer.END_OF_TEXT), 1.0)]
