"""sources.toml: what raw documents there are, and which sources of a mixture are made of them.

  seed = 0                             # of what is made and generated
  held_out = 1000                      # documents kept from training, per input and kind
  shard_mb = 512                       # text of a shard that one task formats and packs
  licences = ["MIT", "Apache-2.0", ""] # of code, "" for unknown; without the line, permissive and unknown ones
  evaluation = ["benchmarks/*.jsonl"]  # texts that must not occur in training

  [[input]]
  name = "repositories"
  read = "git"                         # git, documents, chats, trajectories, problems or generated
  path = "repositories/*"              # repositories or files, relative to this file
  sources = ["code", "repository_level", "commits", "transitions"]

  [semantic]                           # optional: duplicates and contamination by meaning
  endpoint = "http://localhost:8000/v1"
  model = "an-embedding-model"
  key_env = "EMBEDDING_KEY"            # the variable with the key, if the server asks for one
  duplicates = 0.95                    # cosines; what they mean differs from model to model
  contamination = 0.9

  [input.quality]                      # optional: what the classifier must say; `launch.prepare train-quality` trains one
  model = "quality/code.json"
  education = 2.0

  [[input]]
  name = "facts"
  read = "git"
  path = "repositories/*"
  make = "facts"                       # facts, or reasoning by execution, made of the documents
  sources = ["facts"]

  [[input]]
  name = "programs"
  read = "generated"
  generator = "programs"               # programs, or puzzles of reasoning-gym
  count = 1_000_000
  thinking = true                      # whether the steps come before the answer, as thinking, or in it
  sources = ["reasoning_thinking"]

An input with `filter = false` keeps what the rules on quality would drop; encoding and secrets are still repaired. One with
`near = false` loses only exact duplicates: texts of one template look like near-duplicates.
"""

import dataclasses
import pathlib
import tomllib
from collections.abc import Iterable
from typing import Any

from iquest_jax.data import makers, sources
from iquest_jax.data.clean import classifier
from iquest_jax.data.documents import KINDS, Commit, Conversation, File, Problem, Repository, Transition
from iquest_jax.errors import UserError, check_name, nearest

# What each reader yields.
READERS = {
    'git': (File, Repository, Commit, Transition),
    'documents': tuple(KINDS.values()),
    'chats': (Conversation,),
    'trajectories': (Conversation,),
    'problems': (Problem,),
    'generated': (Conversation,),
}


LIVES = ('commits', 'dates')


@dataclasses.dataclass(frozen=True)
class Input:
  """Raw documents of one form.

  Attributes:
    read: one of READERS.
    path: a folder, file or glob; absolute.
    sources: names of the table in data/sources.py that are made of its documents.
    filter: whether the rules on quality apply.
    near: whether near-duplicates are dropped, beside exact ones.
    life: what the life of a repository, in which transitions start, is measured in: 'commits' or 'dates'.
    quality: thresholds of a classifier; None if all documents may enter.
    make: one of makers.MAKERS, which takes the documents; '' if they stay what they are.
    generator: one of makers.GENERATORS, if `read` is 'generated'; so is the next.
    count: samples.
    thinking: of reasoning, whether steps come before the answer, as thinking, or in it.
  """

  name: str
  read: str
  path: pathlib.Path
  sources: tuple[str, ...]
  filter: bool = True
  near: bool = True
  life: str = 'commits'
  quality: classifier.Quality | None = None
  make: str = ''
  generator: str = ''
  count: int = 0
  thinking: bool = False

  @property
  def kinds(self) -> tuple[type, ...]:
    """Kinds of documents that its sources are made of."""
    return tuple(dict.fromkeys(sources.get(source).kind for source in self.sources))

  @property
  def reads(self) -> tuple[type, ...]:
    """Kinds of documents that are read for these."""
    return (makers.MAKERS[self.make].takes,) if self.make else self.kinds


@dataclasses.dataclass(frozen=True)
class Semantic:
  """An OpenAI-compatible endpoint for embeddings, and the cosines from which texts are alike."""

  endpoint: str
  model: str
  key_env: str = ''
  duplicates: float = 0.95
  contamination: float = 0.9


@dataclasses.dataclass(frozen=True)
class Inputs:
  """A sources.toml, checked; see above for the fields."""

  inputs: tuple[Input, ...]
  seed: int = 0
  held_out: int = 1000
  shard_mb: float = 512.0
  licences: tuple[str, ...] = ()
  evaluation: tuple[pathlib.Path, ...] = ()
  semantic: Semantic | None = None

  def check(self, names: Iterable[str]) -> None:
    """Raises UserError unless every one of these sources has an input."""
    if missing := sorted(set(names).difference(*(given.sources for given in self.inputs))):
      listed = ', '.join(f'"{name}"' for name in missing)
      raise UserError(f'--sources: no input is for {listed}; add the names to the sources of an [[input]]')


def load(path: str | pathlib.Path) -> Inputs:
  """Reads a sources.toml.

  Raises:
    UserError: the file is missing or malformed: a key that does not exist, a value of the wrong type, a source that its
      reader cannot give.
  """
  path = pathlib.Path(path).absolute()
  try:
    content = tomllib.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise UserError(f'--sources: {path} is missing; the help of launch.prepare shows what it holds') from None
  except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
    raise UserError(f'--sources: {path} cannot be read: {error}') from None
  given = content.pop('input', [])
  if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
    raise UserError(f'--sources: {path} has no [[input]]')
  inputs = tuple(_input(f'{path}, input {number}', one, path.parent) for number, one in enumerate(given, 1))
  names = [one.name for one in inputs]
  if twice := [name for name in names if names.count(name) > 1]:
    raise UserError(f'--sources: {path} has two inputs "{twice[0]}"; give each a name of its own')
  kinds = {'seed': int, 'held_out': int, 'shard_mb': (int, float), 'licences': list, 'evaluation': list, 'semantic': dict}
  fields = _checked(f'{path}', content, kinds)
  for name in ('held_out', 'shard_mb'):
    if fields.get(name, 1) <= 0:
      raise UserError(f'--sources: {path}: {name} must be above 0, got {fields[name]}')
  for name in ('licences', 'evaluation'):
    if name in fields:
      fields[name] = tuple(_strings(f'{path}: {name}', fields[name]))
  if 'evaluation' in fields:
    fields['evaluation'] = tuple(path.parent / one for one in fields['evaluation'])
  if 'semantic' in fields:
    fields['semantic'] = _semantic(f'{path}, [semantic]', fields['semantic'], inputs)
  return Inputs(inputs, **fields)


def _semantic(where: str, given: dict[str, Any], inputs: tuple[Input, ...]) -> Semantic:
  number = (int, float)
  fields = _checked(where, given, {
      'endpoint': str, 'model': str, 'key_env': str, 'duplicates': number, 'contamination': number,
  })  # fmt: skip
  for name in ('endpoint', 'model'):
    if not fields.get(name):
      raise UserError(f'--sources: {where}: "{name}" is missing or empty')
  for name in ('duplicates', 'contamination'):
    if not 0 < fields.get(name, 1) <= 1:
      raise UserError(f'--sources: {where}: {name} must be in (0, 1], got {fields[name]}')
  if exact := [one.name for one in inputs if not one.near]:
    raise UserError(f'--sources: {where}: needs near = true in every input, "{exact[0]}" has near = false')
  return Semantic(**fields)


def _input(where: str, given: dict[str, Any], folder: pathlib.Path) -> Input:
  kinds = {
      'name': str, 'read': str, 'path': str, 'sources': list, 'filter': bool, 'near': bool, 'life': str, 'quality': dict,
      'make': str, 'generator': str, 'count': int, 'thinking': bool,
  }  # fmt: skip
  fields = _checked(where, given, kinds)
  is_generated = fields.get('read') == 'generated'
  for name in ('name', 'read', 'generator' if is_generated else 'path', 'sources'):
    if not fields.get(name):
      raise UserError(f'--sources: {where}: "{name}" is missing or empty')
  if not fields['name'].replace('-', '').replace('_', '').isalnum():
    raise UserError(f'--sources: {where}: name must have letters, digits, - and _ only, got "{fields["name"]}"')
  check_name(f'--sources: {where}: read', fields['read'], READERS)
  for name, known in (('life', LIVES), ('make', makers.MAKERS), ('generator', makers.GENERATORS)):
    if name in fields:
      check_name(f'--sources: {where}: {name}', fields[name], known)
  read, maker = READERS[fields['read']], makers.MAKERS.get(fields.get('make', ''))
  useless = ('path', 'make') if is_generated else ('generator', 'count', 'thinking')
  for name in useless[:-1] if maker and maker.thinks else useless:
    if name in fields:
      raise UserError(f'--sources: {where}: {name} has no meaning with read = "{fields["read"]}"; remove it')
  if is_generated and fields.get('count', 0) < 1:
    raise UserError(f'--sources: {where}: count must be at least 1, got {fields.get("count", 0)}')
  if 'quality' in fields:
    fields['quality'] = classifier.parse(f'{where}, [quality]', fields['quality'], folder)
  fields['sources'] = tuple(_strings(f'{where}: sources', fields['sources']))
  if maker and maker.takes not in read:
    raise UserError(
        f'--sources: {where}: "{fields["make"]}" are made of a {maker.takes.__name__.lower()}, which "{fields["read"]}" '
        'does not read'
    )
  for source in fields['sources']:
    check_name(f'--sources: {where}: source', source, sources.SOURCES)
    kind = sources.get(source).kind
    if maker and kind is not maker.makes:
      raise UserError(
          f'--sources: {where}: "{source}" is made of a {kind.__name__.lower()}, but make = "{fields["make"]}" gives a '
          f'{maker.makes.__name__.lower()}'
      )
    if not maker and kind not in read:
      raise UserError(
          f'--sources: {where}: "{source}" is made of a {kind.__name__.lower()}, which "{fields["read"]}" does not read'
      )
  return Input(**{'path': folder, **fields, **({} if is_generated else {'path': folder / fields['path']})})


def _checked(where: str, given: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
  for name, value in given.items():
    if name not in kinds:
      raise UserError(f'--sources: {where}: "{name}" does not exist{nearest(name, kinds)}')
    wrong_bool = isinstance(value, bool) and kinds[name] is not bool
    if wrong_bool or not isinstance(value, kinds[name]):
      kind = kinds[name][0] if isinstance(kinds[name], tuple) else kinds[name]
      raise UserError(f'--sources: {where}: {name} must be of type {kind.__name__}, got {value!r}')
  return dict(given)


def _strings(where: str, values: list) -> list[str]:
  if not all(isinstance(value, str) for value in values):
    raise UserError(f'--sources: {where} must be a list of names, got {values!r}')
  return values
