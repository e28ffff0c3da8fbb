"""Prepares what a stage trains on: the tokenizer of the run folder, then the packed rows of the stage.

Everything that is there and was made from the same inputs is kept; a source is made again when they changed.
"""

import functools
import hashlib
import importlib
import itertools
import json
import math
import os
import pathlib
import shutil
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from iquest_jax.data import documents, formats, sources
from iquest_jax.data.documents import Document
from iquest_jax.data.rows import manifest as manifest_lib
from iquest_jax.data.rows import mixture, packing
from iquest_jax.data.rows.write import entry_if_current, write_source
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder, write_whole
from iquest_jax.text.tokenizer import Tokenizer

# Below the rows of a stage: sources made anew, until all are there and take the place of those before.
_STAGING = 'next'
# Characters of each source the tokenizer is trained on, per entry of its vocabulary.
_SAMPLE_CHARACTERS = 150


def prepare_tokenizer(config: ConfigDict, run: RunFolder, documents_dir: str = '') -> Tokenizer:
  """Returns the run folder's tokenizer, trained and saved first where there is none.

  It is trained on a sample of every source there is, not on those of one stage, since a whole chain shares it.

  Raises:
    UserError: there is one and it has more entries than the model, or the documents are not as they should be.
  """
  path = run.tokenizer
  if not path.exists():
    _check_size(config, documents_dir)
    names = sorted(sources.BUILT_IN)
    if documents_dir:
      names = [name for name in names if (pathlib.Path(documents_dir) / name).is_dir()]
    path.parent.mkdir(parents=True, exist_ok=True)
    size = config.model.vocab
    sample = (_sample(sources.read(name, config.seed, documents_dir), _SAMPLE_CHARACTERS * size) for name in names)
    Tokenizer.train(itertools.chain.from_iterable(sample), size).save(path)
  return _fitting(Tokenizer.load(path), config, path)


def import_tokenizer(config: ConfigDict, run: RunFolder, source: str | pathlib.Path) -> Tokenizer:
  """Takes over an existing tokenizer.json; UserError where it does not fit the model or another one is there."""
  given, path = _fitting(Tokenizer.load(source), config, source), run.tokenizer
  if path.exists() and Tokenizer.load(path).fingerprint != given.fingerprint:
    raise UserError(f'tokenizer: {path} is another tokenizer than {source}; use a new --workdir')
  given.save(path)
  return given


def prepare(
    config: ConfigDict,
    run: RunFolder,
    documents_dir: str = '',
    progress: Callable[[str], None] = lambda source: None,
) -> dict[str, Any]:
  """Prepares the tokenizer, where there is none, and the rows of one stage.

  Args:
    config: the stage; reads stage, size, seed, data, eval.rows, model.vocab, train.steps and train.batch_rows.
    run: the run folder.
    documents_dir: folder with `<source>/*.jsonl[.gz]`; '' takes the built-in collectors, at tiny sizes only.
    progress: called with the name of each source that is about to be made.

  Returns:
    The manifest.

  Raises:
    UserError: bad schedule, documents or tokenizer, an empty source, or a folder that cannot be written.
  """
  schedule = config.data.mixture
  needed = mixture.rows_needed(schedule, config.train.steps, config.train.batch_rows)
  for source in needed:
    formats.format_of(source)
    if documents_dir:
      documents.jsonl_files(documents_dir, source)  # before a tokenizer is trained on the rest
  _check_numbers(config)
  folder = manifest_lib.folder(config, run)
  staging = folder / _STAGING
  try:
    tokenizer = prepare_tokenizer(config, run, documents_dir)
    inputs = {name: _inputs_hash(config, name, count, tokenizer, documents_dir) for name, count in needed.items()}
    entries = {name: entry_if_current(folder, name, hashed) for name, hashed in inputs.items()}
    manifest = {
        'stage': config.stage,
        'context': config.data.context,
        'tokenizer': tokenizer.fingerprint,
        'schedule': schedule,
        'sources': entries,
    }
    if not all(entries.values()) or not _is_written(folder, manifest):
      _check_size(config, documents_dir)
      staging.mkdir(parents=True, exist_ok=True)
      made = [name for name in needed if entries[name] is None]
      entries |= {name: entry_if_current(staging, name, inputs[name]) for name in made}  # by a run that was killed
      manifest['rates'] = _make(config, staging, documents_dir, tokenizer, needed, inputs, entries, progress)
      # A full disk may end it until here, and the rows before are whole. What follows only moves; there is no manifest
      # from the first move to the last.
      write_whole(staging / manifest_lib.MANIFEST, manifest_lib.to_json(manifest))
      (folder / manifest_lib.MANIFEST).unlink(missing_ok=True)
      for name in made:
        shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(staging / name, folder / name)
      os.replace(staging / manifest_lib.MANIFEST, folder / manifest_lib.MANIFEST)
      shutil.rmtree(staging)
  except OSError as error:
    place = folder if error.filename is None or str(error.filename) == str(staging) else error.filename
    raise UserError(f'prepare: {place}: {error.strerror or error}; nothing finished is lost') from error
  return manifest_lib.check_manifest(
      folder,
      sources=needed,
      context=config.data.context,
      tokenizer_fingerprint=tokenizer.fingerprint,
      command=manifest_lib.command(config, run),
  )


def _make(
    config: ConfigDict,
    folder: pathlib.Path,
    documents_dir: str,
    tokenizer: Tokenizer,
    needed: dict[str, int],
    inputs: dict[str, str],
    entries: dict[str, Any],
    progress: Callable[[str], None],
) -> list:
  """Writes the sources whose entry is None and fills in the entry; returns the mixture's rates."""
  tasks = _import_tasks()
  patience = math.inf if documents_dir else documents.PATIENCE

  seqio_sources = {
      name: tasks.Source(
          config.stage,
          name,
          functools.partial(sources.read, name, config.seed, documents_dir),
          tokenizer,
          context=config.data.context,
          buckets=tuple(config.data.buckets),
          patience=patience,
          seed=config.seed,
      )
      for name in needed
  }

  def read(name: str, split: str, limit: int, counts: packing.Counts) -> Iterator[packing.Row]:
    examples, whole = seqio_sources[name].examples(split), formats.format_of(name).whole
    if split == 'held_out' and not whole:
      # A row a document at most: a few held-out rows should not all be pieces of one long document.
      examples = (example.head(config.data.context) for example in examples)
    return itertools.islice(packing.pack(examples, config.data.context, whole, counts, patience), limit)

  # A source that these few steps never draw still has a row: it belongs to the stage.
  limits = {
      'train': {name: max(count, 1) for name, count in needed.items()},
      'held_out': dict.fromkeys(needed, config.eval.rows),
  }
  for name in needed:
    if entries[name] is None:
      progress(name)
      splits = {split: functools.partial(read, name, split, limits[split][name]) for split in manifest_lib.SPLITS}
      entries[name] = write_source(folder, name, config.data.context, inputs[name], splits)
  return tasks.rates(config.stage, config.data.mixture, seqio_sources)


def _check_numbers(config: ConfigDict) -> None:
  if config.data.context < 1:
    raise UserError(f'config: data.context is {config.data.context}; at least 1')
  buckets = config.data.buckets
  numbers = isinstance(buckets, (tuple, list)) and len(buckets) == 2 and all(isinstance(x, (int, float)) for x in buckets)
  if not numbers or not 0 <= buckets[0] < buckets[1] <= 1:
    raise UserError(f'config: data.buckets is {buckets}; it is (from, to) with 0 <= from < to <= 1')


def _import_tasks() -> types.ModuleType:
  """data.tasks, imported late: TensorFlow costs seconds that a finished stage need not pay.

  TensorFlow greets from C++ on the standard error stream, whatever its settings, so that is closed meanwhile.
  """
  sys.stderr.flush()
  kept = os.dup(2)
  with open(os.devnull, 'wb') as nowhere:
    os.dup2(nowhere.fileno(), 2)
  try:
    return importlib.import_module('iquest_jax.data.tasks')
  finally:
    os.dup2(kept, 2)
    os.close(kept)


def _inputs_hash(config: ConfigDict, source: str, count: int, tokenizer: Tokenizer, documents_dir: str) -> str:
  """Hash of everything that the rows of a source depend on."""
  depends = [
      manifest_lib.VERSION,
      config.stage,
      config.seed,
      config.data.context,
      config.data.buckets,
      config.eval.rows,
      count,
      tokenizer.fingerprint,
      sources.inputs(source, documents_dir),
  ]
  return hashlib.sha256(json.dumps(depends).encode()).hexdigest()


def _is_written(folder: pathlib.Path, manifest: dict[str, Any]) -> bool:
  """Whether this manifest is there whole; its rates follow from the schedule."""
  try:
    found = json.loads((folder / manifest_lib.MANIFEST).read_text())
    del found['rates']
  except (FileNotFoundError, ValueError, KeyError, TypeError):
    return False
  return found == json.loads(json.dumps(manifest))


def _sample(found: Iterable[Document], characters: int) -> Iterator[str]:
  """Texts of the first training documents, about as many characters as asked for."""
  for document in found:
    if characters <= 0:
      return
    if not documents.is_held_out(document):
      for text in (*(text for _, text in document.files), *(message['content'] for message in document.messages)):
        characters -= len(text)
        yield text


def _fitting(tokenizer: Tokenizer, config: ConfigDict, path: str | pathlib.Path) -> Tokenizer:
  if tokenizer.vocab_size > config.model.vocab:
    raise UserError(
        f'tokenizer: {path} has {tokenizer.vocab_size} entries, size "{config.size}" has room for '
        f'{config.model.vocab}; use a new --workdir or another tokenizer'
    )
  return tokenizer


def _check_size(config: ConfigDict, documents_dir: str) -> None:
  """The built-in collectors hold a few megabytes: enough for tiny sizes alone."""
  if not documents_dir and not config.size.startswith('tiny'):
    raise UserError(
        f'prepare: size "{config.size}" needs documents of your own; name their folder with --documents=DIR '
        '(DIR/<source>/*.jsonl), or prepare a tiny size'
    )
