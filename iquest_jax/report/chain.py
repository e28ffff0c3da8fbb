"""What a chain's folder says of each stage: where it came from, how it went, what it learned from, how it scored."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iquest_jax.errors import UserError
from iquest_jax.report import files
from iquest_jax.report.files import Files
from iquest_jax.run_folder import RunFolder, StageFolder


@dataclasses.dataclass(frozen=True)
class Record:
  """A line of metrics.jsonl; `values` are its finite numbers, nested ones as 'loss_by_source/code'."""

  kind: str
  step: int
  values: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Decision:
  """A line of mixture.jsonl: the shares of the rows from `step` on, and why."""

  step: int
  weights: Mapping[str, float]
  scores: Mapping[str, float]
  reasons: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Source:
  """What a stage's manifest says of a source; None where an older one is silent."""

  rows_share: float | None
  loss_share: float | None
  epochs: float | None
  examples: int
  rows: int
  tokens: int


@dataclasses.dataclass(frozen=True)
class Suite:
  """Results of a suite at a step of a stage.

  Attributes:
    asked: what must agree for two results to be comparable.
    unfinished: samples of an evaluation that has no results yet; 0 if it has.
    missing: {problem: reason} of problems outside the score.
    results: {problem: prompt and samples}, as eval/run.py writes them.
  """

  name: str
  step: int
  asked: str
  figures: Mapping[str, float]
  scored: int
  missing: Mapping[str, str]
  results: Mapping[str, Any]
  unfinished: int = 0


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of the chain; one that has not begun has a name and no records.

  Attributes:
    steps, saved, planned: taken as far as its records say, in its newest checkpoint, and configured.
    tokens, seconds: of all its runs so far.
    parent_fingerprint, start, end: of the parent's last parameters, its own first ones, after `transform`, and its newest.
    imported: name of the model it starts from; '' if it starts from a stage or from random parameters.
    learns_by_reward: whether it rolls out, or learns from preferences; its loss is then no cross-entropy.
    rl: that section of its configuration; {} if there is none.
    silent_errors: findings about its hardware, one line each.
  """

  name: str
  folder: StageFolder
  started: bool
  finished: bool
  size: str
  steps: int
  saved: int
  planned: int
  tokens: int
  seconds: float
  devices: str
  code: str
  parent: str
  parent_step: int
  parent_fingerprint: str
  transform: str
  imported: str
  learns_by_reward: bool
  rl: Mapping[str, Any]
  start: str
  end: str
  silent_errors: Sequence[str]
  records: Sequence[Record]
  decisions: Sequence[Decision]
  sources: Mapping[str, Source]
  suites: Sequence[Suite]

  def points(self, kind: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of a field of all records of a kind."""
    return [
        (record.step, record.values[key]) for record in self.records if record.kind == kind and key in record.values
    ]

  def keys(self, kind: str) -> list[str]:
    """Fields of the records of a kind, in the order in which they are written."""
    return list(dict.fromkeys(key for record in self.records if record.kind == kind for key in record.values))

  @property
  def kinds(self) -> list[str]:
    return list(dict.fromkeys(record.kind for record in self.records))


@dataclasses.dataclass(frozen=True)
class Chain:
  """All of a folder: stages in order, the report of its corpus, and what could not be read."""

  path: pathlib.Path
  stages: Sequence[Stage]
  corpus: Mapping[str, Any]
  files: Files

  @property
  def size(self) -> str:
    return next((stage.size for stage in self.stages if stage.size), '')

  @property
  def started(self) -> list[Stage]:
    return [stage for stage in self.stages if stage.started]

  def get(self, name: str) -> Stage | None:
    return next((stage for stage in self.stages if stage.name == name), None)

  def ancestors(self, stage: Stage) -> list[Stage]:
    """The stages before one, the nearest first."""
    found, seen = [], {stage.name}
    while (stage := self.get(stage.parent)) and stage.name not in seen:
      found.append(stage)
      seen.add(stage.name)
    return found


def read(run: RunFolder, order: Callable[[str], Mapping[str, str]]) -> Chain:
  """Reads the folder of a chain.

  Args:
    order: for a size, '' if it is unknown, {stage: its parent} of all stages in the order they run. Folders of other
      stages are read too, after these.

  Raises:
    UserError: the folder holds no stage.
  """
  reader = Files(run.path)
  found = [folder.name for folder in reader.folders(run.path) if _is_stage(StageFolder(folder))]
  if not found:
    raise UserError(f'--workdir: {run.path} holds no stage; name the folder of a chain, as in --workdir=runs/tiny_loop')
  stages = {name: _stage(reader, run, name) for name in found}
  parents = order(next((stage.size for stage in stages.values() if stage.size), ''))
  ahead = [name for name in parents if name not in stages]
  stages |= {name: dataclasses.replace(_stage(reader, run, name), parent=parents[name]) for name in ahead}
  names = [*parents, *(name for name in found if name not in parents)]
  report = files.items(reader.object(run.documents / 'corpus.json'), 'report')
  return Chain(run.path, [stages[name] for name in names], report, reader)


def _is_stage(folder: StageFolder) -> bool:
  return any(path.exists() for path in (folder.config, folder.lineage, folder.metrics))


def _stage(reader: Files, run: RunFolder, name: str) -> Stage:
  folder = run.stage(name)
  config = reader.object(folder.config)
  lineage = reader.object(folder.lineage)
  records = [_record(line) for line in reader.lines(folder.metrics)]
  records = [record for record in records if record]
  manifest = reader.object(run.rows(name, files.text(config, 'data', 'rows_dir')) / 'manifest.json')
  devices, saved = files.items(lineage, 'devices'), files.count(lineage, 'steps')
  return Stage(
      name=name,
      folder=folder,
      started=_is_stage(folder),
      finished=files.at(lineage, 'finished') is True,
      size=files.text(lineage, 'size') or files.text(config, 'size'),
      steps=max([saved, *(record.step for record in records)]),
      saved=saved,
      planned=files.count(config, 'train', 'steps'),
      tokens=files.count(lineage, 'tokens_seen'),
      seconds=max(files.number(lineage, 'wall_seconds') or 0.0, 0.0),
      devices=f'{files.count(devices, "count")} × {files.text(devices, "kind")}' if devices else '',
      code=files.text(lineage, 'code_version'),
      parent=files.text(lineage, 'parent', 'stage') or files.text(config, 'init', 'stage'),
      parent_step=files.count(lineage, 'parent', 'step'),
      parent_fingerprint=files.text(lineage, 'parent', 'fingerprint'),
      transform=files.text(lineage, 'transform'),
      imported=files.text(lineage, 'imported'),
      learns_by_reward='rl' in config or any(key.startswith('reward') for record in records for key in record.values),
      rl=files.items(config, 'rl'),
      start=files.text(lineage, 'start_fingerprint'),
      end=files.text(lineage, 'end_fingerprint'),
      silent_errors=[_silent_error(found) for found in reader.objects(folder.silent_errors)],
      records=records,
      decisions=[_decision(line) for line in reader.lines(folder.mixture) if isinstance(line, dict)],
      sources={name: _source(manifest, name) for name in files.items(manifest, 'shares')},
      suites=[suite for step in reader.folders(folder.evaluation) for suite in _suites(reader, step)],
  )


def _silent_error(found: Mapping[str, Any]) -> str:
  step = files.number(found, 'step')
  hosts = dict.fromkeys(files.text(device, 'host') for device in files.sequence(found, 'devices'))
  after = '' if step is None else f' after step {step:,.0f}'
  return f'silent error{after}: {files.text(found, "finding")}; cordon {", ".join(hosts)}'


def _record(line: Any) -> Record | None:
  if not files.text(line, 'kind') or files.number(line, 'step') is None:
    return None
  values = {key: value for key, value in line.items() if key not in ('kind', 'step')}
  return Record(line['kind'], files.count(line, 'step'), dict(_leaves(values)))


def _leaves(value: Any, name: str = '', depth: int = 0):
  """(path, number) of the finite numbers in a value."""
  if isinstance(value, (dict, list)) and depth < 6:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
      yield from _leaves(inner, f'{name}/{key}' if name else str(key), depth + 1)
  elif not isinstance(value, bool) and files.number({'': value}, '') is not None:
    yield name, value


def _decision(line: Mapping[str, Any]) -> Decision:
  weights, scores = files.numbers(line, 'weights'), files.numbers(line, 'scores')
  return Decision(files.count(line, 'step'), weights, scores, files.texts(line, 'reasons'))


def _source(manifest: Mapping[str, Any], name: str) -> Source:
  shares = files.items(manifest, 'shares', name)
  segments = files.sequence(manifest, 'sources', name, 'train', 'segments')
  total = lambda *fields: sum(files.count(segment, field) for segment in segments for field in fields)
  return Source(
      files.number(shares, 'rows'), files.number(shares, 'loss_weight'), files.number(shares, 'epochs'),
      total('examples', 'documents'), total('rows'), total('tokens'),
  )  # fmt: skip


def _suites(reader: Files, step: pathlib.Path) -> list[Suite]:
  """The suites in `<stage>/evaluation/<step>`."""
  suites, number = [], files.by_number(step)[1]
  for folder in reader.folders(step):
    read = reader.object(folder / 'results.json')
    if read:
      asked = files.text(read, 'settings', 'problems') or files.text(read, 'settings', 'rows')
      figures, missing = files.numbers(read, 'figures'), files.texts(read, 'missing')
      results = files.items(read, 'results')
      suites.append(Suite(folder.name, number, asked, figures, files.count(read, 'scored'), missing, results))
    elif not (folder / 'results.json').exists() and (folder / 'records.jsonl').exists():
      # The first line holds the settings.
      samples = max(sum(1 for _ in reader.lines(folder / 'records.jsonl')) - 1, 0)
      suites.append(Suite(folder.name, number, '', {}, 0, {}, {}, unfinished=max(samples, 1)))
  return suites
