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
  parts = (
      SpecialToken(tokenizer.FIM_PREFIX), file.prefix, SpecialToken(tokenizer.FIM_SUFFIX), file.suffix,
      SpecialToken(tokenizer.FIM_MIDDLE), file.middle, SpecialToken(tokenizer.IM_END),
  )  # fmt: skip
  return [(part, 1.0) for part in parts]
