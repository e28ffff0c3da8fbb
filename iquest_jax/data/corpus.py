"""Half one, once per corpus: raw inputs to clean documents without duplicates, held out or dealt into shards.

  <workdir>/documents/corpus.json            the documents that count: their shards, funnels, duplicates
  <workdir>/documents/collected/<key>/       per input shard: documents by kind, their index, counts
  <workdir>/documents/dealt/<key>/           per input and kind: shards of documents, those held out apart

Every folder is named by the hash of what it was made from, so a preparation that was killed finds what it had finished,
and an input that is added reads no other input again. The swap of corpus.json is the only commit; what it does not name is
removed after it.
"""

import collections
import dataclasses
import itertools
import json
import math
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from iquest_jax.data import collect, deal, produced, scan, sources, split
from iquest_jax.data.clean import clusters, duplicates, semantic
from iquest_jax.data.documents import KINDS, Document, Drop
from iquest_jax.data.executors import Executor, Progress, Task, key_of
from iquest_jax.data.funnel import Funnel
from iquest_jax.data.inputs import Inputs
from iquest_jax.data.read import jsonl
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder, write_whole

# Raise it when deduplication or dealing changes; collect.VERSION when reading or cleaning does.
VERSION = 2
_NAME, _COLLECTED, _DEALT = 'corpus.json', 'collected', 'dealt'
# Steps that make documents or execute them; see collect.py, and launch.synthesize.
MADE = ('synthesis', 'make', 'verify')
# Contaminated documents that the report shows.
_EVIDENCE = 100


@dataclasses.dataclass(frozen=True)
class Group:
  """The documents of one kind of one input.

  Attributes:
    shards: {'path', 'documents', 'bytes', 'sha256'} each; `path` is relative to the folder of documents.
    held_out: the same for those kept from training.
  """

  input: str
  kind: str
  shards: tuple[dict[str, Any], ...]
  held_out: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Corpus:
  """What corpus.json holds.

  Attributes:
    folder: of the documents.
    groups: all of them.
    sources: {source: numbers of its groups}.
    report: funnels by step, duplicates, languages, contaminated documents.
  """

  folder: pathlib.Path
  groups: tuple[Group, ...]
  sources: dict[str, tuple[int, ...]]
  report: dict[str, Any]

  def shards(self, source: str) -> list[dict[str, Any]]:
    """Shards of a source's training documents, in the order in which a stage takes them: every prefix mixes all groups."""
    placed = []
    for number in self._groups(source):
      shards = self.groups[number].shards
      placed += [(place / len(shards), number, shard) for place, shard in enumerate(shards)]
    return [shard for _, _, shard in sorted(placed, key=lambda one: one[:2])]

  def held_out(self, source: str) -> list[dict[str, Any]]:
    """Shards of a source's held-out documents."""
    return [self.groups[number].held_out for number in self._groups(source)]

  def read(self, shards: Sequence[dict[str, Any]]) -> Iterator[Document]:
    """The documents of some shards."""
    for shard in shards:
      yield from jsonl.read_shard(self.folder / shard['path'])

  def made(self, source: str) -> dict[str, dict[str, Any]]:
    """{'input: step': funnel} of what made or checked a source's documents: candidates, and rejected by which check."""
    given = {self.groups[number].input for number in self._groups(source)}
    funnels = self.report.get('funnels', {}).items()
    return {key: funnel for key, funnel in funnels if (parts := key.rpartition(': '))[0] in given and parts[2] in MADE}

  def _groups(self, source: str) -> tuple[int, ...]:
    if not self.sources.get(source):
      way_out = 'name it in an [[input]] of --sources, or see the report for why all of them were dropped'
      raise UserError(f'documents: {self.folder} has none for "{source}"; {way_out}')
    return self.sources[source]


def exists(run: RunFolder) -> bool:
  """Whether documents have been prepared to their end."""
  return (run.documents / _NAME).exists()


def load(run: RunFolder) -> Corpus:
  """The prepared documents of a run folder; raises UserError if there are none."""
  path = run.documents / _NAME
  try:
    record = json.loads(path.read_text())
    groups = tuple(Group(one['input'], one['kind'], tuple(one['shards']), one['held_out']) for one in record['groups'])
    sources = {name: tuple(numbers) for name, numbers in record['sources'].items()}
    return Corpus(run.documents, groups, sources, record['report'])
  except FileNotFoundError:
    raise UserError(f'documents: {path} is missing; run python -m launch.prepare with --sources') from None
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'documents: {path} is damaged ({error!r}); remove it and run python -m launch.prepare again') from None


def prepare(run: RunFolder, inputs: Inputs, executor: Executor, progress: Progress = lambda *_: None) -> Corpus:
  """Prepares the documents of all inputs, or finds them prepared; see the head of this file.

  Raises:
    UserError: an input cannot be read, or the folder cannot be written.
  """
  folder = run.documents
  folder.mkdir(parents=True, exist_ok=True)
  shards = scan.shards(inputs, folder, executor, progress)
  served = {given.name: given.sources for given in inputs.inputs}
  key = key_of(VERSION, [shard.key for shard in shards], inputs.shard_mb, served)
  if _is_current(folder, key):
    _sweep(folder, json.loads((folder / _NAME).read_text()))  # the preparation may have been killed before it could
    return load(run)
  if _key(folder) == key:
    shutil.rmtree(folder / _DEALT / key, ignore_errors=True)  # it was complete and is damaged
  collected = executor.run('collect', [shard.task(folder / _COLLECTED / shard.key) for shard in shards], folder, progress)
  work = _Work(folder, folder / _DEALT / key, inputs, shards, collected, executor, progress)
  groups = work.gather(work.deal(work.find_duplicates()))
  report = {
      'funnels': work.funnels,
      'duplicates': work.duplicates,
      'characters': _added({shard.input.name: _sum(one, 'characters')} for shard, one in zip(shards, collected)),
      'languages': _added(kind['languages'] for one in collected for kind in one['kinds'].values()),
      'checks': _by_input(shards, collected, 'checks'),
      'contaminated': [found for one in collected for found in one['contaminated']][:_EVIDENCE],
  }
  kinds = {kind: name for name, kind in KINDS.items()}
  groups_of = lambda source: [
      number for number, group in enumerate(groups)
      if source in served[group.input] and group.kind == kinds[sources.get(source).kind]
  ]  # fmt: skip
  record = {
      'key': key,
      'collected': sorted({shard.key for shard in shards}),
      'groups': [dataclasses.asdict(group) for group in groups],
      'sources': {source: groups_of(source) for source in sorted(set().union(*served.values()))},
      'report': report,
  }
  write_whole(folder / _NAME, json.dumps(record, indent=1, sort_keys=True))
  _sweep(folder, record)
  return load(run)


class _Work:
  """The steps after collecting, over what the tasks of collecting returned."""

  def __init__(
      self,
      folder: pathlib.Path,
      target: pathlib.Path,
      inputs: Inputs,
      shards: Sequence[scan.Shard],
      collected: Sequence[dict[str, Any]],
      executor: Executor,
      progress: Progress,
  ):
    self._folder, self._target, self._inputs = folder, target, inputs
    self._shards, self._collected = shards, collected
    self._run = lambda step, tasks: executor.run(step, tasks, folder, progress)
    self.funnels: dict[str, dict[str, Any]] = {}
    self.duplicates: dict[str, dict[str, int]] = {}
    for shard, one in zip(shards, collected):
      for step, funnel in one['funnels'].items():
        self._count(f'{shard.input.name}: {step}', Funnel.from_json(funnel))
      for _, path in shard.paths:
        if shard.input.read not in ('git', 'generated') and (funnel := produced.funnel_of(path)):
          self._count(f'{shard.input.name}: synthesis', funnel)

  def _count(self, step: str, funnel: Funnel) -> None:
    before = Funnel.from_json(self.funnels[step]) if step in self.funnels else Funnel()
    self.funnels[step] = (before + funnel).to_json()

  def _with(self, kind: str) -> list[int]:
    """Numbers of the shards that have documents of a kind."""
    return [number for number, one in enumerate(self._collected) if kind in one['kinds']]

  def _file(self, number: int, name: str) -> pathlib.Path:
    return self._folder / _COLLECTED / self._shards[number].key / name

  def find_duplicates(self) -> dict[str, pathlib.Path]:
    """The clusters of every kind; their references count the shards of `_with`."""
    found, kinds = {}, sorted({kind for one in self._collected for kind in one['kinds']})
    tasks, links = [], {kind: [] for kind in kinds}
    # Both ways to be alike: by words, and by meaning.
    ways = {'index': None} | ({'meanings': self._inputs.semantic.duplicates} if self._inputs.semantic else {})
    for kind, (way, cosine) in itertools.product(kinds, ways.items()):
      folder = self._target / 'duplicates' / kind
      folder.mkdir(parents=True, exist_ok=True)
      indices = [self._file(number, f'{kind}.{way}') for number in self._with(kind)]
      parts = duplicates.partitions(indices)
      listed = folder / f'{way}.json'
      write_whole(listed, json.dumps([str(index) for index in indices]))
      for part in range(parts):
        links[kind].append(folder / f'{part:05}.{way}')
        result = folder / f'{part:05}.{way}.json'
        tasks.append(Task(find_pairs, (str(listed), part, parts, str(links[kind][-1]), cosine), result))
    self._run('compare', tasks)
    tasks = [Task(merge, ([str(path) for path in links[kind]], str(self._target / 'duplicates' / kind / 'clusters')),
                  self._target / 'duplicates' / kind / 'clusters.json') for kind in kinds]  # fmt: skip
    for kind, counts in zip(kinds, self._run('cluster', tasks)):
      found[kind] = self._target / 'duplicates' / kind / 'clusters'
      self.duplicates[kind] = counts
    return found

  def deal(self, tables: dict[str, pathlib.Path]) -> dict[tuple[str, str], tuple[int, list[pathlib.Path]]]:
    """{(input, kind): (number of shards, dealt files)}; the shard after the last is the held-out one."""
    limits, groups, tasks = self._limits(), {}, []
    histories = self._target / 'pieces' / 'histories.json'
    histories.parent.mkdir(parents=True, exist_ok=True)
    pairs = (pair for one in self._collected for pair in one['histories'].items())
    write_whole(histories, json.dumps(split.joined(pairs), sort_keys=True))
    for given in self._inputs.inputs:
      for kind in sorted(one.__name__.lower() for one in given.kinds):
        own = [number for number in self._with(kind) if self._shards[number].input.name == given.name]
        characters = sum(self._collected[number]['kinds'][kind]['characters'] for number in own)
        count = max(1, math.ceil(characters / (self._inputs.shard_mb * 1e6)))
        pieces = []
        for number in own:
          pieces.append(self._target / 'pieces' / f'{number:07}.{kind}')
          places = {which: self._with(which).index(number) for which in (kind, 'file') if number in self._with(which)}
          arguments = (
              str(self._file(number, '')), kind, {which: (str(tables[which]), place) for which, place in places.items()},
              limits[given.name, kind], count, str(histories), str(pieces[-1]),
          )  # fmt: skip
          size = self._collected[number]['kinds'][kind]['characters']
          tasks.append((given.name, Task(deal_shard, arguments, pieces[-1].with_name(pieces[-1].name + '.json'), size)))
        if own:
          groups[given.name, kind] = count, pieces
    for (name, _), result in zip(tasks, self._run('shuffle', [task for _, task in tasks])):
      self._count(f'{name}: deduplicate', Funnel.from_json(result))
    return groups

  def _limits(self) -> dict[tuple[str, str], dict[str, float]]:
    """{(input, kind): {unit kind: highest place that is held out}}; all repositories share one."""
    lowest: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
    total = collections.Counter()
    # One shard at a time: together they are as large as a small corpus.
    for number, (shard, one) in enumerate(zip(self._shards, self._collected)):
      for kind, units in json.loads(self._file(number, collect.PLACES).read_text()).items():
        total[shard.input.name, kind] += one['kinds'][kind]['documents']
        for unit, places in units.items():
          merged = collections.Counter(dict(lowest.get((shard.input.name, kind, unit), ())))
          merged.update(dict(places))
          lowest[shard.input.name, kind, unit] = split.smallest(merged, self._inputs.held_out)
    limits = {}
    for group, count in total.items():
      limit = lambda unit, group=group, count=count: split.limit([lowest[*group, unit]], self._inputs.held_out, count)
      limits[group] = {unit: limit(unit) for unit in ('repository', 'document')}
    highest = max((limit['repository'] for limit in limits.values()), default=-1.0)
    return {group: limit | {'repository': highest} for group, limit in limits.items()}

  def gather(self, dealt: dict[tuple[str, str], tuple[int, list[pathlib.Path]]]) -> list[Group]:
    """Joins the dealt pieces into the shards of every group."""
    tasks, names = [], []
    for (given, kind), (count, pieces) in dealt.items():
      listed = self._target / 'pieces' / f'{given}.{kind}.json'
      write_whole(listed, json.dumps([str(piece) for piece in pieces]))
      for number in range(count + 1):
        name = f'{number:06}' if number < count else 'held_out'
        path = self._target / f'{given}.{kind}' / f'{name}.jsonl.zst'
        names.append(str(path.relative_to(self._folder)))
        tasks.append(Task(gather_shard, (str(path), number, str(listed)), path.with_name(f'{name}.json')))
    results = iter([{'path': name, **result} for name, result in zip(names, self._run('join shards', tasks))])
    groups = []
    for (given, kind), (count, _) in dealt.items():
      parts = [next(results) for _ in range(count + 1)]
      groups.append(Group(given, kind, tuple(part for part in parts[:-1] if part['documents']), parts[-1]))
    return groups


def find_pairs(indices: str, part: int, parts: int, target: str, cosine: float | None) -> dict[str, int]:
  """Writes the links of one partition of the keys.

  Args:
    indices: a JSON file with the folders of the indices.
    cosine: from which documents are alike, if they are compared by meaning.
  """
  folders = [pathlib.Path(folder) for folder in json.loads(pathlib.Path(indices).read_text())]
  measure = duplicates.TEXT if cosine is None else semantic.measure_of(folders, cosine)
  return {'links': duplicates.find_pairs(folders, part, parts, pathlib.Path(target), measure)}


def merge(links: Sequence[str], target: str) -> dict[str, int]:
  """Joins the links of all partitions into clusters; returns how many, and of how many documents."""
  return clusters.merge([pathlib.Path(path) for path in links], pathlib.Path(target))


def deal_shard(
    folder: str,
    kind: str,
    tables: dict[str, tuple[str, int]],
    limits: dict[str, float],
    count: int,
    histories_of: str,
    target: str,
) -> dict[str, Any]:
  """Deals the documents of one kind of one collected shard, without the duplicates; returns the funnel.

  Args:
    folder: of the collected shard.
    tables: {kind: (folder of clusters, number of this shard in them)}, of this kind and of files.
    limits: {unit kind: highest place that is held out}; held-out documents go to shard `count`.
    histories_of: JSON file of {repository: key of its history}, of all inputs.
  """
  collected = pathlib.Path(folder)
  histories = json.loads(pathlib.Path(histories_of).read_text())
  dropped = _dropped(tables[kind])
  gone = _dropped_files(collected, tables) if kind == 'repository' else frozenset()
  funnel = Funnel()

  def kept() -> Iterator[tuple[int, Document]]:
    for number, document in enumerate(jsonl.read_shard(collected / f'{kind}.jsonl.zst')):
      if number in dropped:
        funnel.drop(Drop('duplicate'))
        continue
      if gone:
        files = tuple(pair for pair in document.files if (document.name, pair[0]) not in gone)
        funnel.seen['files of repositories, duplicates'] += len(document.files) - len(files)
        if not files:
          funnel.drop(Drop('repository: all files are duplicates'))
          continue
        document = dataclasses.replace(document, files=files)
      funnel.keep()
      unit, place = split.unit(document, histories)
      held_out = place <= limits[unit]
      funnel.seen['held out'] += held_out
      yield count if held_out else split.shard(document, count), document

  deal.deal(pathlib.Path(target), kept())
  funnel.check()
  return funnel.to_json()


def gather_shard(target: str, number: int, pieces: str) -> dict[str, Any]:
  """Joins the pieces of a shard; `pieces` is a JSON file with the dealt files in order."""
  dealt = [pathlib.Path(piece) for piece in json.loads(pathlib.Path(pieces).read_text())]
  return deal.gather(pathlib.Path(target), number, dealt)


def _dropped(table: tuple[str, int]) -> dict[int, int]:
  folder, shard = table
  return clusters.Clusters(pathlib.Path(folder)).dropped(shard)


def _dropped_files(collected: pathlib.Path, tables: dict[str, tuple[str, int]]) -> frozenset[tuple[str, str]]:
  """(repository, path) of the files that are duplicates of others."""
  if 'file' not in tables:
    return frozenset()
  dropped = _dropped(tables['file'])
  files = enumerate(jsonl.read_shard(collected / 'file.jsonl.zst'))
  return frozenset((file.repo, file.path) for number, file in files if number in dropped)


def _key(folder: pathlib.Path) -> str:
  """The key of the documents that are prepared, '' if there are none."""
  try:
    return str(json.loads((folder / _NAME).read_text())['key'])
  except (OSError, ValueError, KeyError, TypeError):
    return ''


def _is_current(folder: pathlib.Path, key: str) -> bool:
  """Whether corpus.json was made from the same inputs, and its shards exist."""
  try:
    record = json.loads((folder / _NAME).read_text())
    shards = [shard for group in record['groups'] for shard in (*group['shards'], group['held_out'])]
    return record['key'] == key and all((folder / shard['path']).stat().st_size == shard['bytes'] for shard in shards)
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _sweep(folder: pathlib.Path, record: dict[str, Any]) -> None:
  """Removes what the record does not name, and what only its making needed."""
  for room, named in ((_COLLECTED, set(record['collected'])), (_DEALT, {record['key']})):
    for path in (folder / room).glob('*'):
      if path.name not in named:
        shutil.rmtree(path, ignore_errors=True)
  for name in ('pieces', 'duplicates'):
    shutil.rmtree(folder / _DEALT / record['key'] / name, ignore_errors=True)
  shutil.rmtree(folder / 'logs', ignore_errors=True)


def _sum(collected: dict[str, Any], field: str) -> int:
  return sum(kind[field] for kind in collected['kinds'].values())


def _by_input(shards: Sequence[scan.Shard], collected: Sequence[dict[str, Any]], field: str) -> dict[str, dict[str, int]]:
  """{input: {name: number of documents}} of a field of the counts; inputs without any are left out."""
  total = collections.defaultdict(collections.Counter)
  for shard, one in zip(shards, collected):
    for kind in one['kinds'].values():
      total[shard.input.name].update(kind[field])
  return {name: dict(counts) for name, counts in total.items() if counts}


def _added(counts: Iterator[dict[str, int]]) -> dict[str, int]:
  total = collections.Counter()
  for count in counts:
    total.update(count)
  return dict(total)
