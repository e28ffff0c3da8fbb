"""Half two, once per stage: documents to packed rows.

  <workdir>/rows/<stage>/manifest.json, <source>/<segment>/    the rows; see rows/manifest.py
  <workdir>/rows/<stage>/packed/<key>.array_record, .json      shards that tasks have packed, until they are sealed

The shards of a source's documents are packed in a fixed order until their rows suffice; those that were needed are sealed
as a segment. More steps pack further shards into a further segment. So nothing is counted globally, and rows are only
appended.
"""

import collections
import contextlib
import dataclasses
import fcntl
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from iquest_jax.config import check_closed_loop
from iquest_jax.data import pack, sources
from iquest_jax.data.corpus import Corpus
from iquest_jax.data.documents import texts
from iquest_jax.data.executors import Executor, Progress, Task, key_of
from iquest_jax.data.rows import manifest as manifest_lib
from iquest_jax.data.rows import mixture, packing, write
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer

# Characters of each source the tokenizer is trained on, per entry of its vocabulary.
_SAMPLE_CHARACTERS = 150
# A first guess of how many shards a source needs; what was packed then tells the rest.
_CHARACTERS_PER_TOKEN, _COMPRESSION = 4, 3
_PACKED = 'packed'
# Examples of a source that are kept to be read by people.
_SAMPLES = 10


def check(config: ConfigDict) -> list[str]:
  """The sources of a stage; raises UserError unless its data section makes sense."""
  mixture.validate(config.data.mixture)
  names = list(mixture.source_names(config.data.mixture))
  check_closed_loop(config, names)
  for source in names:
    sources.get(source)
  sources.Rendering.of(config)
  buckets = config.data.buckets
  is_pair = isinstance(buckets, (tuple, list)) and len(buckets) == 2 and all(isinstance(x, (int, float)) for x in buckets)
  if not is_pair or not 0 <= buckets[0] < buckets[1] <= 1:
    raise UserError(f'config: data.buckets must be (from, to) with 0 <= from < to <= 1, got {buckets}')
  return names


@contextlib.contextmanager
def alone(run: RunFolder) -> Iterator[None]:
  """Keeps two preparations of one run folder apart; raises UserError in the second, and if the folder is on gs://."""
  run.check_on_disk()
  run.path.mkdir(parents=True, exist_ok=True)
  with open(run.path / 'prepare.lock', 'w') as lock:
    try:
      fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which processes that we fork would share
    except (BlockingIOError, PermissionError):
      way_out = 'wait for it or choose another --workdir'
      raise UserError(f'prepare: another preparation of {run.path} is running; {way_out}') from None
    yield


def prepare_tokenizer(config: ConfigDict, run: RunFolder, corpus: Corpus) -> Tokenizer:
  """Returns the run folder's tokenizer; trains and saves it if there is none.

  It is trained on a sample of every source, not only those of one stage, since the chain shares it.

  Raises:
    UserError: the existing tokenizer has more entries than the model.
  """
  path = run.tokenizer
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    size = config.model.vocab
    filled = sorted(source for source, groups in corpus.sources.items() if groups)
    sample = (text for source in filled for text in _sample(corpus, source, _SAMPLE_CHARACTERS * size))
    Tokenizer.train(sample, size).save(path)
  return _fitting(Tokenizer.load(path), config, path)


def import_tokenizer(config: ConfigDict, run: RunFolder, source: str | pathlib.Path) -> Tokenizer:
  """Imports a tokenizer; raises UserError if it does not fit the model or the run folder has another one."""
  given, path = _fitting(Tokenizer.load(source), config, source), run.tokenizer
  if path.exists() and Tokenizer.load(path).fingerprint != given.fingerprint:
    raise UserError(f'tokenizer: {path} is not the same tokenizer as {source}; use a new --workdir')
  given.save(path)
  return given


def prepare(
    config: ConfigDict, run: RunFolder, corpus: Corpus, executor: Executor, progress: Progress = lambda *_: None
) -> dict[str, Any]:
  """Prepares the tokenizer, if there is none, and the rows of one stage; returns the manifest.

  Args:
    config: the stage; reads stage, size, seed, data, eval.rows, model.vocab, train.steps and train.batch_rows.

  Raises:
    UserError: a malformed configuration or tokenizer, a source without rows, or a folder that cannot be written.
  """
  check(config)
  length = config.data.mixture, config.train.steps, config.train.batch_rows
  needed = mixture.rows_at_most(*length, config.data.closed_loop)
  folder = run.rows(config.stage, config.data.rows_dir)
  try:
    tokenizer = prepare_tokenizer(config, run, corpus)
    before = manifest_lib.read(folder)
    whole = manifest_lib.undamaged(folder, before)
    plans = []
    for source, rows in needed.items():
      how = pack.Packing(config.stage, source, tuple(config.data.buckets), sources.Rendering.of(config))
      splits = {'train': (corpus.shards(source), rows), 'held_out': (corpus.held_out(source), config.eval.rows)}
      for split, (shards, limit) in splits.items():
        # A source that is never drawn in these steps still gets a row: it belongs to the stage.
        plans.append(_Plan(how, split, shards, max(limit, 1), tokenizer.fingerprint, whole))
    while pending := [(plan, *one) for plan in plans for one in plan.pending()]:
      tasks = [plan.task(shard, key, corpus.folder, run.tokenizer, folder / _PACKED) for plan, shard, key in pending]
      results = executor.run(f'pack {config.stage}', tasks, folder, progress)
      for (plan, _, key), result in zip(pending, results):
        plan.results[key] = result
    entries = {}
    for plan in plans:
      made = {'made': corpus.made(plan.how.source)} if plan.split == 'train' else {}
      entries.setdefault(plan.how.source, {})[plan.split] = plan.sealed(folder) | made
    manifest = manifest_lib.build(
        stage=config.stage,
        context=config.data.context,
        tokenizer=tokenizer.fingerprint,
        schedule=config.data.mixture,
        rates=mixture.rates(config.data.mixture),
        sources=entries,
        drawn=mixture.rows_needed(*length),
        before=before,
    )
    manifest_lib.write(folder, manifest)
    for room in (_PACKED, 'logs'):
      shutil.rmtree(folder / room, ignore_errors=True)
    write.sweep(folder, manifest)
  except OSError as error:
    raise UserError(f'prepare: {error.filename or folder}: {error.strerror or error}; nothing finished is lost') from error
  return manifest_lib.check_manifest(
      folder, needed, config.data.context, tokenizer.fingerprint, manifest_lib.command(config, run)
  )


class _Plan:
  """Which shards of documents a split of a source takes, until its rows suffice.

  Attributes:
    results: what tasks returned, by key of their shard.
  """

  def __init__(
      self,
      how: pack.Packing,
      split: str,
      shards: Sequence[dict[str, Any]],
      rows: int,
      tokenizer: str,
      before: dict[str, Any],
  ):
    """Continues the segments of the manifest `before` if they were made from the first of these shards."""
    self.how, self.split, self._rows = how, split, rows
    settings = (manifest_lib.VERSION, dataclasses.asdict(how), split, tokenizer)
    self._shards = {key_of(settings, shard['sha256'], place): shard for place, shard in enumerate(shards)}
    keys = list(self._shards)
    self._segments = list(before.get('sources', {}).get(how.source, {}).get(split, {}).get('segments', ()))
    taken = [key for segment in self._segments for key in segment.get('keys', ('',))]
    if taken != keys[: len(taken)]:
      self._segments, taken = [], []
    self._keys = keys[len(taken) :]
    self._have = sum(segment['rows'] for segment in self._segments)
    self.results: dict[str, dict[str, Any]] = {}

  def _chosen(self) -> tuple[list[str], int]:
    """Keys of the shards whose rows are needed beside the segments, as far as they are packed, and the rows missing."""
    missing, keys = self._rows - self._have, []
    for key in self._keys:
      if missing <= 0 or key not in self.results:
        break
      keys.append(key)
      missing -= self.results[key]['rows']
    return keys, missing

  def pending(self) -> list[tuple[dict[str, Any], str]]:
    """(shard of documents, key) of those to pack next; empty once the rows suffice or nothing is left."""
    keys, missing = self._chosen()
    left = self._keys[len(keys) :]
    if missing <= 0 or not left:
      return []
    packed = sum(self._shards[key]['bytes'] for key in keys) or self._segment_bytes()
    rows = sum(self.results[key]['rows'] for key in keys) or self._have
    # Before anything is packed, a guess: bytes are compressed.
    per_byte = rows / packed if rows and packed else _COMPRESSION / _CHARACTERS_PER_TOKEN / self.how.context
    count = 1
    while count < len(left) and per_byte * sum(self._shards[key]['bytes'] for key in left[:count]) < missing:
      count += 1
    return [(self._shards[key], key) for key in left[:count] if key not in self.results]

  def _segment_bytes(self) -> int:
    return sum(self._shards[key]['bytes'] for segment in self._segments for key in segment['keys'])

  def task(self, shard, key: str, documents: pathlib.Path, tokenizer: pathlib.Path, packed: pathlib.Path) -> Task:
    target = packed / f'{key}.array_record'
    arguments = (self.how, self.split == 'held_out', str(documents / shard['path']), str(tokenizer), str(target))
    return Task(pack.pack_shard, arguments, packed / f'{key}.json', shard['bytes'])

  def sealed(self, folder: pathlib.Path) -> dict[str, Any]:
    """The entry of the manifest; shards that were packed for it are sealed as a further segment.

    Raises:
      UserError: the split has no rows.
    """
    keys, _ = self._chosen()
    shards = [(folder / _PACKED / f'{key}.array_record', self.results[key]) for key in keys if self.results[key]['rows']]
    drops = collections.Counter()
    for key in keys:
      drops.update(self.results[key]['drops'])
    if shards:
      segment = write.seal_segment(folder, self.how.source, self.split, shards, self.how.context)
      languages, checks = collections.Counter(), collections.Counter()
      for _, result in shards:
        languages.update(result['languages'])
        checks.update(result['checks'])
      samples = [] if self._segments else [text for _, result in shards for text in result['samples']][:_SAMPLES]
      examples = sum(result['examples'] for _, result in shards)
      self._segments.append(segment | {
          'keys': keys, 'examples': examples, 'drops': dict(drops), 'languages': dict(languages), 'checks': dict(checks),
          'samples': samples,
      })  # fmt: skip
    if not self._segments:
      raise _no_rows(self.how, self.split, drops)
    return {'segments': self._segments}


def _no_rows(how: pack.Packing, split: str, drops: Mapping[str, int]) -> UserError:
  problem = f'rows: "{how.source}" has no {split} rows'
  if drops.keys() == {packing.TOO_LONG}:
    count = f'{drops[packing.TOO_LONG]:,} documents, all longer than a row of {how.context} tokens'
    return UserError(f'{problem}: {count}; raise data.context')
  dropped = ', '.join(f'{count:,} {reason}' for reason, count in sorted(drops.items())) or 'none dropped'
  return UserError(f'{problem} ({dropped}); give it more documents or widen data.buckets')


def _sample(corpus: Corpus, source: str, characters: int) -> Iterator[str]:
  """Texts of the first training documents, about `characters` in all."""
  for document in corpus.read(corpus.shards(source)):
    for text in texts(document):
      yield text[:characters]
      characters -= len(text)
      if characters <= 0:
        return


def _fitting(tokenizer: Tokenizer, config: ConfigDict, path: str | pathlib.Path) -> Tokenizer:
  if tokenizer.vocab_size > config.model.vocab:
    raise UserError(
        f'tokenizer: {path} must have at most model.vocab = {config.model.vocab} entries, got {tokenizer.vocab_size}; '
        'use a new --workdir or another tokenizer'
    )
  return tokenizer
