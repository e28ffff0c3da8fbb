"""Prepares what a stage trains on: the tokenizer of the run folder, then the packed rows of the stage.

A source is prepared again only when its inputs have changed.
"""

import functools
import hashlib
import importlib
import itertools
import json
import os
import pathlib
import shutil
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from iquest_jax.data import sources, split
from iquest_jax.data.documents import Document, texts
from iquest_jax.data.read.jsonl import jsonl_files, read_jsonl
from iquest_jax.data.rows import manifest as manifest_lib
from iquest_jax.data.rows import mixture
from iquest_jax.data.rows.write import entry_if_current, without_stderr, write_source
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder, write_whole
from iquest_jax.text.tokenizer import Tokenizer

Path = str | pathlib.Path

# Below the rows of a stage: sources being prepared, until all are complete and replace those before.
_STAGING = 'next'
# Characters of each source the tokenizer is trained on, per entry of its vocabulary.
_SAMPLE_CHARACTERS = 150


def prepare_tokenizer(config: ConfigDict, run: RunFolder, documents_dir: Path) -> Tokenizer:
  """Returns the run folder's tokenizer; trains and saves it if there is none.

  It is trained on a sample of every source that has documents, not only those of one stage, since the chain shares it.

  Raises:
    UserError: the existing tokenizer has more entries than the model, or a document is malformed.
  """
  path = run.tokenizer
  if not path.exists():
    names = [name for name in sorted(sources.SOURCES) if (pathlib.Path(documents_dir) / name).is_dir()]
    path.parent.mkdir(parents=True, exist_ok=True)
    size = config.model.vocab
    sample = (_sample(read_jsonl(documents_dir, name), _SAMPLE_CHARACTERS * size) for name in names)
    Tokenizer.train(itertools.chain.from_iterable(sample), size).save(path)
  return _fitting(Tokenizer.load(path), config, path)


def import_tokenizer(config: ConfigDict, run: RunFolder, source: Path) -> Tokenizer:
  """Imports a tokenizer.json; raises UserError if it does not fit the model or the run folder has another one."""
  given, path = _fitting(Tokenizer.load(source), config, source), run.tokenizer
  if path.exists() and Tokenizer.load(path).fingerprint != given.fingerprint:
    raise UserError(f'tokenizer: {path} is not the same tokenizer as {source}; use a new --workdir')
  given.save(path)
  return given


def prepare(
    config: ConfigDict, run: RunFolder, documents_dir: Path, progress: Callable[[str], None] = lambda source: None
) -> dict[str, Any]:
  """Prepares the tokenizer, if there is none, and the rows of one stage; returns the manifest.

  Args:
    config: the stage; reads stage, size, seed, data, eval.rows, model.vocab, train.steps and train.batch_rows.
    documents_dir: folder with `<source>/*.jsonl[.gz]`.
    progress: called with the name of each source before it is prepared.

  Raises:
    UserError: malformed schedule, document or tokenizer, an empty source, or a folder that cannot be written.
  """
  schedule = config.data.mixture
  needed = mixture.rows_needed(schedule, config.train.steps, config.train.batch_rows)
  for source in needed:
    sources.get(source)
    jsonl_files(documents_dir, source)  # fails before a tokenizer is trained on the rest
  _check_context_and_buckets(config)
  folder = run.rows(config.stage, config.data.rows_dir)
  staging = folder / _STAGING
  try:
    tokenizer = prepare_tokenizer(config, run, documents_dir)
    inputs = {name: inputs_hash(config, name, count, tokenizer, documents_dir) for name, count in needed.items()}
    entries = {name: entry_if_current(folder, name, hashed) for name, hashed in inputs.items()}
    manifest = {
        'stage': config.stage,
        'context': config.data.context,
        'tokenizer': tokenizer.fingerprint,
        'schedule': schedule,
        'sources': entries,
    }
    if not all(entries.values()) or not _is_written(folder, manifest):
      staging.mkdir(parents=True, exist_ok=True)
      read = {name: functools.partial(read_jsonl, documents_dir, name) for name in needed}
      tasks = _import_tasks()
      source_tasks = {name: tasks.SourceTask(config, name, read[name], tokenizer) for name in needed}
      outdated = [name for name in needed if entries[name] is None]
      for name in outdated:
        entries[name] = entry_if_current(staging, name, inputs[name])  # of a run that was killed
        if entries[name] is None:
          progress(name)
          # A source that is never drawn in these steps still gets a row: it belongs to the stage.
          limits = {'train': max(needed[name], 1), 'held_out': config.eval.rows}
          splits = {split: functools.partial(source_tasks[name].rows, split, limit) for split, limit in limits.items()}
          entries[name] = write_source(staging, name, config.data.context, inputs[name], splits)
      manifest['rates'] = tasks.rates(config, source_tasks)
      # Until here a full disk leaves the previous rows untouched. What follows only renames; the folder has no manifest
      # between the first rename and the last.
      write_whole(staging / manifest_lib.MANIFEST, manifest_lib.to_json(manifest))
      (folder / manifest_lib.MANIFEST).unlink(missing_ok=True)
      for name in outdated:
        shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(staging / name, folder / name)
      os.replace(staging / manifest_lib.MANIFEST, folder / manifest_lib.MANIFEST)
      shutil.rmtree(staging)
  except OSError as error:
    path = folder if error.filename is None or str(error.filename) == str(staging) else error.filename
    raise UserError(f'prepare: {path}: {error.strerror or error}; nothing finished is lost') from error
  return manifest_lib.check_manifest(
      folder, needed, config.data.context, tokenizer.fingerprint, manifest_lib.command(config, run)
  )


def _check_context_and_buckets(config: ConfigDict) -> None:
  if config.data.context < 1:
    raise UserError(f'config: data.context must be at least 1, got {config.data.context}')
  buckets = config.data.buckets
  is_pair = isinstance(buckets, (tuple, list)) and len(buckets) == 2 and all(isinstance(x, (int, float)) for x in buckets)
  if not is_pair or not 0 <= buckets[0] < buckets[1] <= 1:
    raise UserError(f'config: data.buckets must be (from, to) with 0 <= from < to <= 1, got {buckets}')


def _import_tasks() -> types.ModuleType:
  """data.tasks, imported late: TensorFlow costs seconds that a finished stage need not pay."""
  with without_stderr():
    tasks = importlib.import_module('iquest_jax.data.tasks')
    # Rows are prepared on the CPU; TensorFlow would otherwise reserve accelerator memory that training needs.
    tasks.tf.config.set_visible_devices([], 'GPU')
  return tasks


def inputs_hash(config: ConfigDict, source: str, count: int, tokenizer: Tokenizer, documents_dir: Path) -> str:
  """SHA-256 (hex) of everything that the `count` rows of a source depend on, its documents included."""
  depends = [
      manifest_lib.VERSION,
      config.stage,
      config.seed,
      config.data.context,
      config.data.buckets,
      config.eval.rows,
      count,
      tokenizer.fingerprint,
      [(path.name, manifest_lib.stamp(path)) for path in jsonl_files(documents_dir, source)],
  ]
  return hashlib.sha256(json.dumps(depends).encode()).hexdigest()


def _is_written(folder: pathlib.Path, manifest: dict[str, Any]) -> bool:
  """Whether the folder has this manifest; its rates follow from the schedule."""
  try:
    written = json.loads((folder / manifest_lib.MANIFEST).read_text())
    del written['rates']
  except (FileNotFoundError, ValueError, KeyError, TypeError):
    return False
  return written == json.loads(json.dumps(manifest))


def _sample(documents: Iterable[Document], characters: int) -> Iterator[str]:
  """Texts of the first training documents, about `characters` in all."""
  for document in documents:
    if characters <= 0:
      return
    if not split.is_held_out(document):
      for text in texts(document):
        characters -= len(text)
        yield text


def _fitting(tokenizer: Tokenizer, config: ConfigDict, path: Path) -> Tokenizer:
  if tokenizer.vocab_size > config.model.vocab:
    raise UserError(
        f'tokenizer: {path} must have at most model.vocab = {config.model.vocab} entries, got {tokenizer.vocab_size}; '
        'use a new --workdir or another tokenizer'
    )
  return tokenizer
