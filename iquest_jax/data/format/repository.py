"""A repository: its name, files as context, then the target; every token is learned.

Source: IQuest-Coder-V1 report, pre-training data, repository-level completion.
"""

from iquest_jax.data.documents import RepositoryView
from iquest_jax.data.format import fim, text
from iquest_jax.text import tokenizer
from iquest_jax.text.example import Segment, SpecialToken


def segments(view: RepositoryView) -> list[Segment]:
  parts: list[Segment] = [(SpecialToken(tokenizer.REPO_NAME), 1.0), (f'{view.name}\n', 1.0)]
  for path, content in view.context:
    ending = '' if content.endswith('\n') else '\n'
    parts += [(SpecialToken(tokenizer.FILE_SEP), 1.0), (f'{path}\n{content}{ending}', 1.0)]
  parts += [(SpecialToken(tokenizer.FILE_SEP), 1.0), (f'{view.path}\n', 1.0)]
  return parts + (text.ended(view.target) if isinstance(view.target, str) else fim.segments(view.target))
