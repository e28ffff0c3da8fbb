"""The prepared documents as Parquet, for other trainers: `<out>/<split>/<input>.<kind>/<number>.parquet`.

Columns, the same in every file:
  kind, id          of the document; see data/documents.py
  input, sources    of sources.toml: where it comes from, and the sources that are made of such documents
  split             train or held_out
  path, repo, licence, text    of a file; null for other kinds
  record            JSON of all fields; null for a file
"""

import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from iquest_jax.data import corpus
from iquest_jax.data.documents import File, to_json
from iquest_jax.data.executors import Executor, Progress, Task
from iquest_jax.data.read import jsonl
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder

_FILE_COLUMNS = ('path', 'repo', 'licence', 'text')
# A row group is written when it has so many characters or documents, and is held until then.
_GROUP_CHARACTERS, _GROUP_DOCUMENTS = 32_000_000, 10_000
_RESULTS = '.export'


def export(
    folder: pathlib.Path, out: pathlib.Path, executor: Executor, progress: Progress = lambda *_: None
) -> dict[str, int]:
  """Writes the documents of a corpus, a task per shard; killed and started again, it continues.

  Args:
    folder: <workdir>/documents.
    out: a new folder, or that of an export of the same documents.

  Returns:
    {file, relative to `out`: documents}.

  Raises:
    UserError: there are no documents, or `out` holds something else.
  """
  folder = pathlib.Path(os.path.abspath(folder))
  if folder.name != RunFolder(folder.parent).documents.name:
    raise UserError(f'export: {folder} is not the folder of documents of a run; name it, as in runs/7b/documents')
  prepared = corpus.load(RunFolder(folder.parent))
  given = []
  for number, group in enumerate(prepared.groups):
    sources = sorted(source for source, numbers in prepared.sources.items() if number in numbers)
    for split, shards in (('train', group.shards), ('held_out', (group.held_out,))):
      for place, shard in enumerate(shards):
        if shard['documents']:
          given.append((f'{split}/{group.input}.{group.kind}/{place:06}.parquet', shard, (group.input, sources, split)))
  key = hashlib.sha256(repr([(name, shard['sha256'], labels) for name, shard, labels in given]).encode()).hexdigest()[:16]
  results = out / _RESULTS / key
  try:
    if out.exists() and not results.exists() and any(out.iterdir()):
      raise UserError(f'export: {out} holds something else; name a new folder with --out')
    results.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f'export: {out}: {error.strerror or error}; name another folder with --out') from None
  tasks = []
  for place, (name, shard, labels) in enumerate(given):
    arguments = (str(folder / shard['path']), *labels, str(out / name))
    tasks.append(Task(export_shard, arguments, results / f'{place:07}.json', shard['bytes']))
  counts = executor.run('export', tasks, results, progress) if tasks else []
  return {name: count['documents'] for (name, _, _), count in zip(given, counts)}


def export_shard(shard: str, input: str, sources: Sequence[str], split: str, target: str) -> dict[str, int]:
  """Writes the documents of a shard as one Parquet file, which appears complete or not at all; returns their number.

  Raises:
    UserError: the shard is damaged.
    OSError: the disk is full or not writable.
  """
  import pyarrow
  import pyarrow.parquet

  text = pyarrow.large_string()
  schema = pyarrow.schema(
      [('kind', pyarrow.string()), ('id', pyarrow.string()), ('input', pyarrow.string()),
       ('sources', pyarrow.list_(pyarrow.string())), ('split', pyarrow.string()),
       *((name, text if name == 'text' else pyarrow.string()) for name in _FILE_COLUMNS), ('record', text)]
  )  # fmt: skip
  path = pathlib.Path(target)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + '.partial')
  labels = {'input': input, 'sources': list(sources), 'split': split}
  documents = characters = 0
  rows: list[dict[str, Any]] = []
  with open(partial, 'wb') as file:
    with pyarrow.parquet.ParquetWriter(file, schema, compression='zstd') as writer:
      for document in jsonl.read_shard(shard):
        row = {'kind': type(document).__name__.lower(), 'id': document.id, **labels}
        if isinstance(document, File):
          row |= {name: getattr(document, name) for name in _FILE_COLUMNS}
        else:
          row['record'] = to_json(document)
        rows.append(row)
        documents += 1
        characters += len(row.get('text') or row.get('record', ''))
        if characters >= _GROUP_CHARACTERS or len(rows) >= _GROUP_DOCUMENTS:
          writer.write_table(pyarrow.Table.from_pylist(rows, schema))
          rows, characters = [], 0
      if rows:
        writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)
  return {'documents': documents}
