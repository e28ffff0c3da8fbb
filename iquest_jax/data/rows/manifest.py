"""The manifest of a stage's rows: the segments of every source, and whether a stage may train on them.

  <rows_dir>/manifest.json                          its replacement is the only commit
  <rows_dir>/<source>/<split>-<hash>/               a segment: a TFDS dataset of one split, never changed once it exists

Rows are only appended: a longer stage gets another segment. So the hash of a manifest covers its segments in order, and a
manifest that was extended still recognises the hashes it had before. Imports no TensorFlow.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from iquest_jax import bucket
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder, write_whole

MANIFEST = 'manifest.json'
# Raise it when formats, packing or the layout on disk change, so that older rows are prepared again.
VERSION = '2.0.0'
SPLITS = ('train', 'held_out')
_SUMS = ('rows', 'tokens', 'loss_weight')

Manifest = dict[str, Any]


def command(config: ConfigDict, run: RunFolder) -> str:
  """The command line that prepares a stage, for error messages."""
  workdir, copy = run.preparing()
  prepares = f'python -m launch.prepare --exp={config.stage}:size={config.size} --workdir={workdir}'
  return f'{prepares}, then {copy}' if copy else prepares


def build(
    *,
    stage: str,
    context: int,
    tokenizer: str,
    schedule: Any,
    rates: Any,
    sources: Mapping[str, Mapping[str, Mapping[str, Any]]],
    drawn: Mapping[str, int],
    before: Manifest,
) -> Manifest:
  """The manifest of a stage.

  Args:
    context: T, tokens of a row.
    tokenizer: its fingerprint.
    schedule: data.mixture.
    rates: the rates of each phase; see mixture.rates.
    sources: {source: {split: {'segments': [entries of write.seal_segment], ...}}}; what else they hold is kept.
    drawn: {source: rows that the stage draws}, of which `shares` are computed.
    before: the manifest this one replaces, {} if there is none; its hash stays recognised if this one extends it.
  """
  summed = {source: {split: _summed(entry) for split, entry in splits.items()} for source, splits in sources.items()}
  manifest = {'stage': stage, 'context': context, 'tokenizer': tokenizer, 'schedule': schedule, 'rates': rates}
  manifest |= {'version': VERSION, 'sources': summed}
  manifest['shares'] = shares(manifest, drawn)
  history = []
  if before and before.get('version') == VERSION:
    counts, now = _counts(before), _counts(manifest)
    if rows_hash(before) == _prefix_hash(manifest, counts):
      history = before['history'] + ([counts] if counts != now else [])
  return manifest | {'history': history}


def _summed(entry: Mapping[str, Any]) -> dict[str, Any]:
  return {**entry, **{name: sum(segment[name] for segment in entry['segments']) for name in _SUMS}}


def shares(manifest: Manifest, drawn: Mapping[str, int]) -> dict[str, dict[str, float]]:
  """{source: {'rows', 'loss_weight', 'epochs'}}: its shares of the rows drawn and of what is learned from them, each adding
  to 1, and how often its rows are drawn.

  Args:
    drawn: {source: rows}; a source learns its mean loss weight per row from each.
  """
  trains = {source: manifest['sources'][source]['train'] for source in drawn}
  learned = {
      source: rows * trains[source]['loss_weight'] / max(trains[source]['rows'], 1) for source, rows in drawn.items()
  }
  all_rows, all_learned = sum(drawn.values()) or 1, sum(learned.values()) or 1.0
  return {
      source: {
          'rows': drawn[source] / all_rows,
          'loss_weight': learned[source] / all_learned,
          'epochs': drawn[source] / max(trains[source]['rows'], 1),
      }
      for source in drawn
  }


def rows_hash(manifest: Manifest) -> str:
  """SHA-256 (hex) of the rows: context, tokenizer, and the segments of all sources in order."""
  return _prefix_hash(manifest, _counts(manifest))


def is_extension_of(manifest: Manifest, earlier: str) -> bool:
  """Whether rows of this hash are the first segments of these, so that every draw from them is still the same."""
  return any(_prefix_hash(manifest, counts) == earlier for counts in [*manifest['history'], _counts(manifest)])


def _counts(manifest: Manifest) -> dict[str, dict[str, int]]:
  """{source: {split: segments}}."""
  return {
      source: {split: len(splits[split]['segments']) for split in SPLITS} for source, splits in manifest['sources'].items()
  }


def _prefix_hash(manifest: Manifest, counts: Mapping[str, Mapping[str, int]]) -> str:
  """The hash of the first segments of each source, as many as `counts` says; sources it does not name are left out."""
  hashes = lambda source, split: [segment['sha256'] for segment in segments_of(manifest, source, split)]
  segments = {
      source: {split: hashes(source, split)[:count] for split, count in splits.items()} for source, splits in counts.items()
  }
  content = [VERSION, manifest['context'], manifest['tokenizer'], segments]
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def segments_of(manifest: Manifest, source: str, split: str) -> list[dict[str, Any]]:
  """The segments of a split, in the order they are read; none if the manifest does not know the source."""
  return manifest['sources'].get(source, {}).get(split, {}).get('segments', [])


def segment_hash(source: str, split: str, context: int, shards: Iterable[Mapping[str, Any]]) -> str:
  """SHA-256 (hex) of a segment, from the hashes of its shards in order."""
  content = [VERSION, source, split, context, [shard['sha256'] for shard in shards]]
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def shard_name(source: str, split: str, shard: int, shards: int) -> str:
  """The name of a shard of a segment, as TFDS expects it."""
  return f'{source}-{split}.array_record-{shard:05d}-of-{shards:05d}'


def segment_files(source: str, split: str, segment: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """(name, {'bytes', 'sha256'}) of every file of a segment: its shards, then TFDS's description."""
  shards = segment['shards']
  for number, stamped in enumerate(shards):
    yield shard_name(source, split, number, len(shards)), stamped
  yield from segment['description'].items()


def write(rows_dir: str | pathlib.Path, manifest: Manifest) -> None:
  """Replaces the manifest of a folder: the one commit of a preparation."""
  write_whole(pathlib.Path(rows_dir) / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + '\n')


def read(rows_dir: str | pathlib.Path) -> Manifest:
  """The manifest of a folder, unchecked; {} if it is missing, damaged or of another version."""
  try:
    manifest = json.loads((pathlib.Path(rows_dir) / MANIFEST).read_text())
    return manifest if manifest['version'] == VERSION and rows_hash(manifest) else {}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return {}


def undamaged(rows_dir: str | pathlib.Path, manifest: Manifest) -> Manifest:
  """The manifest up to the first damaged segment of each split: what a preparation may build on.

  Hashes every file, since the command that errors name must not keep damaged rows. This takes half a second per gigabyte,
  far less than writing them. Training checks only names and sizes when it starts (`check_manifest`): hours of hashing on
  every host would find nothing that ArrayRecord does not find as it reads.
  """
  if not manifest:
    return manifest
  sources = {}
  for source, splits in manifest['sources'].items():
    sources[source] = dict(splits)
    for split in SPLITS:
      kept = []
      for segment in segments_of(manifest, source, split):
        if not is_whole(rows_dir, source, split, segment):
          break
        kept.append(segment)
      sources[source][split] = _summed({**splits[split], 'segments': kept})
  return manifest | {'sources': sources}


def is_whole(rows_dir: str | pathlib.Path, source: str, split: str, segment: Mapping[str, Any]) -> bool:
  """Whether every file of a segment is as it was written, its description included."""
  folder = pathlib.Path(rows_dir) / segment['folder']
  try:
    return all(stamp(folder / name) == _stamp_of(stamped) for name, stamped in segment_files(source, split, segment))
  except OSError:
    return False


def check_manifest(
    rows_dir: str | pathlib.Path, sources: Iterable[str], context: int, tokenizer_fingerprint: str, command: str
) -> Manifest:
  """The manifest of the rows in a folder, after checks that a stage may train on them.

  Raises:
    UserError: the rows are missing, a file is missing or has another size, they were made with another tokenizer or
      context length, or a source is empty; every line names `command`, which prepares the rows.
  """
  path, again = epath.Path(rows_dir) / MANIFEST, f'prepare them again with {command}'
  try:
    manifest = json.loads(path.read_text())
    version = manifest['version']
    if version == VERSION:
      rows_hash(manifest)
      is_extension_of(manifest, '')
      described = {
          (source, split): [
              (segment['folder'], name, int(stamped['bytes']))
              for segment in segments_of(manifest, source, split)
              for name, stamped in segment_files(source, split, segment)
          ]
          for source in manifest['sources'] for split in SPLITS
      }  # fmt: skip
      counts = {(source, split): manifest['sources'][source][split]['rows'] for source, split in described}
  except FileNotFoundError:
    raise UserError(f'rows: {path} is missing; prepare the rows with {command}') from None
  except ValueError as error:  # not JSON, or not text
    raise UserError(f'rows: {path} is damaged ({error}); {again}') from None
  except (KeyError, TypeError, AttributeError):
    raise UserError(f'rows: {path} is damaged (a field is missing); {again}') from None
  if version != VERSION:
    raise UserError(f'rows: {rows_dir} have version {version}, this code reads {VERSION}; {again}')
  if manifest['tokenizer'] != tokenizer_fingerprint:
    was, now = manifest['tokenizer'][:12], tokenizer_fingerprint[:12]
    raise UserError(f'rows: {rows_dir} were made with another tokenizer ({was}, the run has {now}); {again}')
  if manifest['context'] != context:
    raise UserError(f'rows: {rows_dir} have context {manifest["context"]}, the stage has {context}; {again}')
  size_of = _sizes(rows_dir)
  for source in sources:
    if source not in manifest['sources']:
      raise UserError(f'rows: {rows_dir} has no rows of "{source}"; {again}')
    for split in SPLITS:
      for folder, name, size in described[source, split]:
        file = os.path.join(rows_dir, folder, name)
        try:
          found = size_of(file)
        except (OSError, KeyError):
          raise UserError(f'rows: {file} is missing; {again}') from None
        if found != size:
          raise UserError(f'rows: {file} must have {size:,} bytes, got {found:,}; {again}')
      if not counts[source, split]:
        raise UserError(f'rows: "{source}" has no {split} rows in {rows_dir}; give it documents and {again}')
  return manifest


def _sizes(rows_dir: str | os.PathLike) -> Callable[[str], int]:
  """A function from the path of a file to its bytes, which raises OSError or KeyError if it is missing."""
  if bucket.is_bucket(rows_dir):
    return bucket.sizes(rows_dir).__getitem__  # one request for all
  return lambda path: os.stat(path).st_size


def stamp(path: str | os.PathLike) -> dict[str, Any]:
  """Size and SHA-256 of a file."""
  with open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
    return {'bytes': os.fstat(file.fileno()).st_size, 'sha256': digest}


def _stamp_of(stamped: Mapping[str, Any]) -> dict[str, Any]:
  return {'bytes': stamped['bytes'], 'sha256': stamped['sha256']}
