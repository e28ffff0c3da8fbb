"""Prepares what a stage trains on: the tokenizer of the run folder, then the packed rows of the stage.

Everything that is there and was made from the same inputs is kept; a source is made again when they changed.
"""

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from iquest_jax.data import documents, formats, mixture, packing, rows, sources
from iquest_jax.data.documents import Document
from iquest_jax.data.tokenizer import Tokenizer
from iquest_jax.errors import UserError

# Characters of each source the tokenizer is trained on, per entry of its vocabulary.
_SAMPLE_CHARACTERS = 150


def tokenizer_path(workdir: str | pathlib.Path) -> pathlib.Path:
  """Where the tokenizer of a run folder lies."""
  return pathlib.Path(workdir) / 'tokenizer' / 'tokenizer.json'


def rows_dir(config: ConfigDict, workdir: str | pathlib.Path) -> pathlib.Path:
  """Where the rows of a stage lie: data.rows_dir, or below the run folder where that is ''."""
  return pathlib.Path(config.data.rows_dir or pathlib.Path(workdir) / 'rows' / config.stage)


def command(config: ConfigDict, workdir: str | pathlib.Path) -> str:
  """The command line that prepares a stage, for error messages."""
  return f'python -m launch.prepare --exp={config.stage}:size={config.size} --workdir={workdir}'


def prepare_tokenizer(config: ConfigDict, workdir: str | pathlib.Path, documents_dir: str = '') -> Tokenizer:
  """Returns the run folder's tokenizer, trained and saved first where there is none.

  It is trained on a sample of every source there is, not on those of one stage, since a whole chain shares it.

  Raises:
    UserError: there is one and it has more entries than the model, or the documents are not as they should be.
  """
  path = tokenizer_path(workdir)
  if not path.exists():
    _check_input(config, documents_dir)
    names = sorted(sources.BUILT_IN)
    if documents_dir:
      names = [name for name in names if (pathlib.Path(documents_dir) / name).is_dir()]
    size = config.model.vocab
    sample = (_sample(sources.read(name, config.seed, documents_dir), _SAMPLE_CHARACTERS * size) for name in names)
    Tokenizer.train(itertools.chain.from_iterable(sample), size).save(path)
  return _fitting(Tokenizer.load(path), config, path)


def import_tokenizer(config: ConfigDict, workdir: str | pathlib.Path, source: str | pathlib.Path) -> Tokenizer:
  """Takes over an existing tokenizer.json; UserError where it does not fit the model or another one is there."""
  given, path = _fitting(Tokenizer.load(source), config, source), tokenizer_path(workdir)
  if path.exists() and Tokenizer.load(path).fingerprint != given.fingerprint:
    raise UserError(f'tokenizer: {path} is another tokenizer than {source}; use a new --workdir')
  given.save(path)
  return given


def prepare(
    config: ConfigDict,
    workdir: str | pathlib.Path,
    documents_dir: str = '',
    progress: Callable[[str], None] = lambda source: None,
) -> dict[str, Any]:
  """Prepares the tokenizer, where there is none, and the rows of one stage.

  Args:
    config: the stage; reads stage, size, seed, data, eval.rows, model.vocab, train.steps and train.batch_rows.
    workdir: the run folder.
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
  folder = rows_dir(config, workdir)
  try:
    tokenizer = prepare_tokenizer(config, workdir, documents_dir)
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: _inputs(config, name, count, tokenizer, documents_dir) for name, count in needed.items()}
    manifest = {
        'stage': config.stage,
        'context': config.data.context,
        'tokenizer': tokenizer.fingerprint,
        'sources': {name: rows.finished(folder, name, inputs) for name, inputs in made.items()},
    }
    if not all(manifest['sources'].values()) or not (folder / rows.MANIFEST).exists() or (
        _plain(schedule) != rows.read_manifest(folder, command(config, workdir)).get('schedule')
    ):
      _check_input(config, documents_dir)
      (folder / rows.MANIFEST).unlink(missing_ok=True)
      manifest['schedule'] = _plain(schedule)
      manifest['rates'] = _make(config, folder, documents_dir, tokenizer, needed, made, manifest['sources'], progress)
      rows.write_json(folder / rows.MANIFEST, manifest)
  except OSError as error:
    raise UserError(f'prepare: cannot write below {workdir}: {error.strerror or error}') from error
  return rows.check_manifest(
      folder,
      sources=needed,
      context=config.data.context,
      tokenizer_fingerprint=tokenizer.fingerprint,
      command=command(config, workdir),
  )
