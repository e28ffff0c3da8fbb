"""Exported Parquet holds every prepared document, with its split and sources, in files that appear whole."""

import dataclasses
import hashlib
import json

import pyarrow.parquet
import pytest

from iquest_jax.data import corpus, export
from iquest_jax.data.documents import Commit, Conversation, File, from_json
from iquest_jax.data.executors import Executor
from iquest_jax.data.shards import ShardWriter
from iquest_jax.errors import UserError

FILES = [File(f'f{number}', f'{number}.py', f'x = "{number}é"\n' * 9, 'r', 'MIT') for number in range(25)]
COMMITS = [Commit(f'c{number}', 'Say x', 'diff --git a/a b/a\n', 'r') for number in range(4)]
CHAT = Conversation('7', ({'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'ho'}))
GROUPS = [
    ('code', 'file', [FILES[:10], FILES[10:20]], FILES[20:]),
    ('code', 'commit', [COMMITS], []),
    ('chats', 'conversation', [[CHAT]], []),
]


@pytest.fixture(name='documents')
def _documents(tmp_path):
  """A folder of documents as a preparation leaves it."""
  folder, groups = tmp_path / 'run' / 'documents', []

  def shard(name, documents):
    path = folder / 'dealt' / f'{name}.jsonl.zst'
    with ShardWriter(path) as writer:
      for document in documents:
        writer.write(document)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    return {'path': str(path.relative_to(folder)), 'documents': len(documents), 'bytes': size, 'sha256': sha256}

  for given, kind, shards, held_out in GROUPS:
    written = [shard(f'{given}.{kind}/{number:06}', part) for number, part in enumerate(shards)]
    groups.append(corpus.Group(given, kind, tuple(written), shard(f'{given}.{kind}/held_out', held_out)))
  record = {
      'key': 'k', 'groups': [dataclasses.asdict(group) for group in groups], 'report': {},
      'sources': {'code': [0], 'stage1': [0], 'commits': [1], 'chat_instruct': [2]},
  }  # fmt: skip
  (folder / 'corpus.json').write_text(json.dumps(record))
  return folder


def rows(out):
  paths = sorted(out.rglob('*.parquet'))
  return {str(path.relative_to(out)): pyarrow.parquet.read_table(path).to_pylist() for path in paths}


def test_every_document_is_exported_once_with_its_split_and_sources(documents, tmp_path):
  counts = export.export(documents, tmp_path / 'out', Executor())
  found = rows(tmp_path / 'out')
  assert counts == {name: len(table) for name, table in found.items()} and sum(counts.values()) == 30
  assert list(found) == [
      'held_out/code.file/000000.parquet',
      'train/chats.conversation/000000.parquet',
      'train/code.commit/000000.parquet',
      'train/code.file/000000.parquet',
      'train/code.file/000001.parquet',
  ]
  for name, table in found.items():
    split, group = name.split('/')[:2]
    assert all(row['split'] == split and f'{row["input"]}.{row["kind"]}' == group for row in table)
  assert found['train/code.file/000000.parquet'][0] == {
      'kind': 'file', 'id': 'f0', 'input': 'code', 'sources': ['code', 'stage1'], 'split': 'train',
      **{field: value for field, value in vars(FILES[0]).items() if field != 'id'}, 'record': None,
  }  # fmt: skip
  exported = [from_json(row['record']) for row in found['train/code.commit/000000.parquet']]
  assert exported == COMMITS and from_json(found['train/chats.conversation/000000.parquet'][0]['record']) == CHAT
  assert not list((tmp_path / 'out').rglob('*.partial'))
  ids = [row['id'] for table in found.values() for row in table]
  assert len(set(ids)) == len(ids)


def test_documents_are_streamed_in_row_groups(documents, tmp_path, monkeypatch):
  shard = str(documents / 'dealt' / 'code.file' / '000000.jsonl.zst')
  monkeypatch.setattr(export, '_GROUP_DOCUMENTS', 4)
  assert export.export_shard(shard, 'code', ['code'], 'train', str(tmp_path / 'a.parquet')) == {'documents': 10}
  monkeypatch.setattr(export, '_GROUP_CHARACTERS', 150)
  export.export_shard(shard, 'code', ['code'], 'train', str(tmp_path / 'b.parquet'))
  groups = [pyarrow.parquet.ParquetFile(tmp_path / f'{name}.parquet').num_row_groups for name in 'ab']
  assert groups == [3, 5] and rows(tmp_path)['a.parquet'] == rows(tmp_path)['b.parquet']


def test_an_export_continues_and_makes_nothing_twice(documents, tmp_path):
  out = tmp_path / 'out'
  counts = export.export(documents, out, Executor())
  before = {path: path.stat().st_mtime_ns for path in out.rglob('*.parquet')}
  removed = next(iter(before))
  place = list(counts).index(str(removed.relative_to(out)))
  next(out.glob(f'.export/*/{place:07}.json')).unlink()
  removed.unlink()
  assert export.export(documents, out, Executor()) == counts
  after = {path: path.stat().st_mtime_ns for path in out.rglob('*.parquet')}
  assert after.keys() == before.keys() and [path for path in after if after[path] != before[path]] == [removed]


def test_what_cannot_be_exported_is_one_line_and_leaves_no_file(documents, tmp_path):
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'mine.txt').touch()
  (tmp_path / 'file').touch()
  for folder, out, reason in (
      (tmp_path / 'run', 'out', 'is not the folder of documents of a run'),
      (tmp_path / 'none' / 'documents', 'out', 'corpus.json is missing'),
      (documents, 'full', 'full holds something else; name a new folder'),
      (documents, 'file', 'file: .*; name another folder'),
  ):
    with pytest.raises(UserError, match=reason) as error:
      export.export(folder, tmp_path / out, Executor())
    assert '\n' not in str(error.value)
  shard = documents / 'dealt' / 'code.file' / '000001.jsonl.zst'
  shard.write_bytes(shard.read_bytes()[:-5])
  with pytest.raises(UserError, match=r'000001\.jsonl\.zst:\d+ is damaged'):
    export.export(documents, tmp_path / 'out', Executor())
  assert 'train/code.file/000001.parquet' not in rows(tmp_path / 'out')
