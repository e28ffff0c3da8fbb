"""A completion in the middle: prefix, suffix, middle; every token is learned.

Source: IQuest-Coder-V1 report, pre-training data, completion.
"""

from iquest_jax.data.documents import File, FimSplit
from iquest_jax.data.format import text
from iquest_jax.text import tokenizer
from iquest_jax.text.example import Segment, SpecialToken


def segments(file: File | FimSplit) -> list[Segment]:
  """The segments of a text cut in three; plain text for a file that is whole."""
  if isinstance(file, File):
    return text.segments(file)
  return [
      (SpecialToken(tokenizer.FIM_PREFIX), 1.0),
      (file.prefix, 1.0),
      (SpecialToken(tokenizer.FIM_SUFFIX), 1.0),
      (file.suffix, 1.0),
      (SpecialToken(tokenizer.FIM_MIDDLE), 1.0),
      (file.middle, 1.0),
      (SpecialToken(tokenizer.IM_END), 1.0),
  ]
