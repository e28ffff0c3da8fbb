"""Where the documents of a source come from: collectors and generators at tiny sizes, JSONL everywhere else."""

import itertools
from collections.abc import Callable, Iterable, Iterator

from iquest_jax.data import commits, documents, repos
from iquest_jax.data.documents import Document
from iquest_jax.data.tiny import chats, facts, packages, reasoning, trajectories
from iquest_jax.errors import UserError, nearest


def read(source: str, seed: int, directory: str = '') -> Iterator[Document]:
  """Documents of a source in a fixed order; endless where a generator makes them.

  Args:
    source: one of BUILT_IN, or any name there is a folder for.
    seed: seed of the generators.
    directory: folder with `<source>/*.jsonl[.gz]`; '' takes the built-in collectors and generators.

  Raises:
    UserError: unknown source, no files, or a malformed line.
  """
  if directory:
    return documents.read_jsonl(directory, source)
  if source not in BUILT_IN:
    raise UserError(f'data: unknown source "{source}"{nearest(source, BUILT_IN)}')
  return iter(BUILT_IN[source](seed))


def inputs(source: str, directory: str = '') -> list:
  """What the documents of a source depend on, seed aside: JSON that changes when they do."""
  if directory:
    stats = [(path.name, path.stat()) for path in documents.jsonl_files(directory, source)]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
  return [packages.versions(), repos.own_head() if source in ('commits', 'code_edit') else '']


def _alternate(*parts: Iterable[Document]) -> Iterator[Document]:
  """One of each in turn; a longer part goes on alone."""
  for group in itertools.zip_longest(*parts):
    yield from (document for document in group if document is not None)


def _edits(seed: int) -> Iterator[Document]:
  """Commits that change existing code: the others ask for nothing that the shown code could answer."""
  return (commit for commit in repos.history(seed) if commits.as_edit(commit))


# Stage 1 is pre-training seen again in mid-training; replay is its best part seen again in fine-tuning.
BUILT_IN: dict[str, Callable[[int], Iterable[Document]]] = {
    'web_text': lambda seed: packages.web_text(),
    'code': lambda seed: packages.code(),
    'code_high_quality': lambda seed: packages.code_high_quality(),
    'facts': facts.facts,
    'stage1': lambda seed: _alternate(packages.web_text(), packages.code()),
    'replay': lambda seed: _alternate(packages.code_high_quality(), packages.web_text()),
    'commits': repos.history,
    'file_level': lambda seed: packages.code(),
    'repository_level': lambda seed: packages.repositories(),
    'reasoning_qa': lambda seed: reasoning.samples(seed, 'reasoning_qa', thinking=False),
    'agent_trajectories': trajectories.sessions,
    'chat_instruct': lambda seed: chats.chats(seed, 'chat_instruct', thinking=False),
    'chat_thinking': lambda seed: chats.chats(seed, 'chat_thinking', thinking=True),
    'reasoning_thinking': lambda seed: reasoning.samples(seed, 'reasoning_thinking', thinking=True),
    'code_edit': _edits,
}
