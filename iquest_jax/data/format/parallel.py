"""One function in several languages: its sides as fenced blocks that name their language; every token is learned.

Source: IQuest-Coder-V1 report, pairing of languages in pre-training; ours: the form.
"""

import re

from iquest_jax.data.documents import Parallel
from iquest_jax.data.format import text
from iquest_jax.text.example import Segment

_FENCE = re.compile(r'^\s*(`{3,})', re.MULTILINE)


def segments(parallel: Parallel) -> list[Segment]:
  """The sides in their order, all behind fences of one length, longer than any in the code."""
  longest = max((len(fence) for _, code in parallel.sides for fence in _FENCE.findall(code)), default=2)
  fence = '`' * (longest + 1)
  blocks = [f'{fence}{language}\n{code.rstrip()}\n{fence}\n' for language, code in parallel.sides]
  return text.ended('\n'.join(blocks))
