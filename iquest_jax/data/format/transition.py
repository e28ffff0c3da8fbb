"""A transition as text: the repository before the change, then its message and patch; every token is learned.

The files that the patch changes stand next to it, before them the context, the most useful file last.
Source: IQuest-Coder-V1 report, pre-training data, repository transitions; ours: the form.
"""

from iquest_jax.data.documents import Transition
from iquest_jax.data.format import text
from iquest_jax.text import tokenizer
from iquest_jax.text.example import Segment, SpecialToken

# Stands where files have their path.
_CHANGE = 'change.patch'


def segments(transition: Transition) -> list[Segment]:
  parts: list[Segment] = [(SpecialToken(tokenizer.REPO_NAME), 1.0), (f'{transition.repo}\n', 1.0)]
  for path, content in (*reversed(transition.context), *transition.files):
    ending = '' if content.endswith('\n') else '\n'
    parts += [(SpecialToken(tokenizer.FILE_SEP), 1.0), (f'{path}\n{content}{ending}', 1.0)]
  change = f'{_CHANGE}\n{transition.message}\n{transition.patch}'
  return [*parts, (SpecialToken(tokenizer.FILE_SEP), 1.0), *text.ended(change)]
