"""Documents: JSONL of every kind, malformed lines, splits and buckets."""

import gzip
import itertools

import pytest

from iquest_jax.data import split
from iquest_jax.data.documents import Commit, Conversation, File, Repository, from_json, to_json
from iquest_jax.data.read.jsonl import read_jsonl
from iquest_jax.errors import UserError

DOCUMENTS = [
    File('1', 'a.py', 'x = "é"\n', 'r'),
    File('2', 'b.txt', ''),
    Repository('3', 'r', (('a.py', 'x = 1'), ('b.py', ''))),
    Commit('4', 'Say y\n', 'diff --git a/a b/a\n', 'r'),
    Conversation('5', ({'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': '', 'thinking': 'hm'})),
    Conversation('6', ({'role': 'tool', 'content': '1'},), ({'name': 'run', 'parameters': {'a': [1]}},)),
]


def _write(folder, source, lines):
  (folder / source).mkdir(exist_ok=True)
  (folder / source / 'a.jsonl').write_text('\n'.join(lines))


def test_jsonl_of_every_kind_reads_back_plain_and_gzipped(tmp_path):
  _write(tmp_path, 'any', [to_json(DOCUMENTS[0]), ''])
  with gzip.open(tmp_path / 'any' / 'b.jsonl.gz', 'wt', encoding='utf-8') as file:
    file.write('\n'.join(map(to_json, DOCUMENTS[1:])))
  assert list(read_jsonl(tmp_path, 'any')) == DOCUMENTS


def test_a_line_says_its_kind_and_may_leave_out_defaults():
  assert from_json('{"kind": "file", "id": "1", "path": "a", "text": "b"}') == File('1', 'a', 'b')
  assert to_json(File('1', 'a', 'b')) == '{"kind": "file", "id": "1", "path": "a", "text": "b", "repo": ""}'


@pytest.mark.parametrize(
    'line, reason',
    [
        ('{"id": "1", "files": [["a", "b"]]', 'not JSON'),
        ('[]', 'a document must be a JSON object, got list'),
        ('{"id": "1"}', '"kind" must be one of file, repository, commit, conversation, got null'),
        ('{"kind": ["file"]}', 'got ["file"]'),
        ('{"kind": "file", "path": "a", "text": "b"}', '"id" is missing'),
        ('{"kind": "file", "id": "", "path": "a", "text": "b"}', '"id" is missing or empty'),
        ('{"kind": "file", "id": "1", "path": "a"}', '"text" is missing'),
        ('{"kind": "file", "id": 3, "path": "a", "text": "b"}', '"id" must be a string, got int'),
        ('{"kind": "file", "id": "1", "path": "a", "text": "b", "source": "c"}', 'a file has no field "source"'),
        ('{"kind": "repository", "id": "1", "name": "r", "files": []}', '"files" is missing or empty'),
        ('{"kind": "repository", "id": "1", "name": "r", "files": [["a"]]}', '"files" must be a list of [path, text]'),
        ('{"kind": "commit", "id": "1", "message": "a", "patch": null}', '"patch" must be a string'),
        ('{"kind": "conversation", "id": "1", "messages": []}', '"messages" is missing or empty'),
        ('{"kind": "conversation", "id": "1", "messages": [3]}', '"messages" must be a list of objects'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "bot", "content": ""}]}', 'got "bot"'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "user", "content": null}]}', '"content"'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "user", "content": "", "thinking": 1}]}', '"thinking"'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "user", "content": "", "tool_calls": [{}]}]}',
         '"tool_calls"'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "user", "content": ""}], "tools": ["a"]}', '"tools"'),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named_in_one_line(tmp_path, line, reason):
  _write(tmp_path, 'code', [to_json(DOCUMENTS[0]), line])
  with pytest.raises(UserError, match=r'a\.jsonl:2: ') as error:
    list(read_jsonl(tmp_path, 'code'))
  assert reason in str(error.value) and '\n' not in str(error.value)


def test_a_damaged_gzip_file_is_named(tmp_path):
  (tmp_path / 'code').mkdir()
  (tmp_path / 'code' / 'a.jsonl.gz').write_bytes(b'no gzip')
  with pytest.raises(UserError, match='a.jsonl.gz:1'):
    list(read_jsonl(tmp_path, 'code'))


def test_a_source_without_files_is_named(tmp_path):
  with pytest.raises(UserError, match='no .*jsonl.* in .*code'):
    list(read_jsonl(tmp_path, 'code'))


def test_splits_and_buckets_deal_every_document_once():
  documents = [File(str(i), 'a', 'b') for i in range(4000)]
  parts = [
      {d.id for d in split.select(iter(documents), name, bounds)}
      for name, bounds in itertools.product(('train', 'held_out'), ((0.0, 0.5), (0.5, 1.0)))
  ]
  assert sum(map(len, parts)) == len(set.union(*parts)) == 4000
  assert 0.04 < (len(parts[2]) + len(parts[3])) / 4000 < 0.09
  assert 0.45 < (len(parts[0]) + len(parts[2])) / 4000 < 0.55


def test_a_repository_is_held_out_as_a_whole_at_every_level():
  for i in range(200):
    alone = split.is_held_out(File(f'repo {i}', '', ''))
    documents = (File('1', 'a', '', f'repo {i}'), Repository('2', f'repo {i}', ()), Commit('3', '', '', f'repo {i}'))
    assert all(split.is_held_out(document) == alone for document in documents)
