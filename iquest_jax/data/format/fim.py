"""A completion in the middle, suffix before or after prefix; every token is learned.

Source: IQuest-Coder-V1 report, pre-training data, completion (prefix, suffix, middle). ours: suffix first, as in Bavarian
et al. 2022, section 3: the markers stay where they are and the prefix stands before the middle, as a text is read.
"""

from iquest_jax.data.documents import File, FimSplit
from iquest_jax.data.format import text
from iquest_jax.text import tokenizer
from iquest_jax.text.example import Segment, SpecialToken


def segments(file: File | FimSplit) -> list[Segment]:
  """The segments of a text cut in three; plain text for a file that is whole."""
  if isinstance(file, File):
    return text.segments(file)
  before, after = ('', file.prefix) if file.suffix_first else (file.prefix, '')
  parts = (
      SpecialToken(tokenizer.FIM_PREFIX), before, SpecialToken(tokenizer.FIM_SUFFIX), file.suffix,
      SpecialToken(tokenizer.FIM_MIDDLE), after, file.middle, SpecialToken(tokenizer.IM_END),
  )  # fmt: skip
  return [(part, 1.0) for part in parts]
