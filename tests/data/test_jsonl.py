"""Files of documents, in JSONL and Parquet: what is read of good ones, and what becomes of bad ones."""

import gzip
import json
import os
import pathlib
import tracemalloc
import zlib

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.documents import (
    Commit,
    Conversation,
    Drop,
    File,
    Problem,
    Repository,
    Transition,
    from_json,
    to_json,
)
from iquest_jax.data.read import chats, compressed, jsonl, problems
from iquest_jax.data.shards import ShardWriter
from iquest_jax.errors import UserError

DOCUMENTS = [
    File('1', 'a.py', 'x = "é"\n', 'r', 'MIT'),
    File('2', 'b.txt', 'a\u2028b\x85c\n'),
    Repository('3', 'r', (('a.py', 'x = 1'), ('b.py', ''))),
    Commit('4', 'Say y\n', 'diff --git a/a b/a\n', 'r'),
    Transition('5', 'r', 'm', 'p', (('a', 'b'),), (('c', 'd'),), ('e', 'f')),
    Problem('6', 'Add.', ({'input': '1', 'output': '2'},), 's'),
    Conversation('7', ({'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': '', 'thinking': 'hm'})),
]
COMPRESSED = {'': bytes, '.gz': gzip.compress, '.zst': zstandard.compress}


def write(folder, *lines, name='a.jsonl'):
  path = folder / name
  path.write_bytes(b'\n'.join(line if isinstance(line, bytes) else line.encode() for line in lines))
  return path


def outcomes(path):
  """Texts of files, rules of drops."""
  return [one.rule if isinstance(one, Drop) else one.text for one in jsonl.read_documents(path)]


@pytest.mark.parametrize('suffix', COMPRESSED)
@pytest.mark.parametrize('end', ['\n', '\r\n', '\n\n \n'])
def test_documents_of_every_kind_read_back_in_every_form(tmp_path, suffix, end):
  content = '\ufeff' + ''.join(to_json(document) + end for document in DOCUMENTS)
  write(tmp_path, COMPRESSED[suffix](content.encode()), name=f'a.jsonl{suffix}')
  assert list(jsonl.read_documents(tmp_path / f'a.jsonl{suffix}')) == DOCUMENTS


def test_documents_of_every_kind_read_back_from_parquet(tmp_path):
  for number, document in enumerate(DOCUMENTS):
    table = pyarrow.Table.from_pylist([json.loads(to_json(document))])
    pyarrow.parquet.write_table(table, tmp_path / f'{number}.parquet')
    assert list(jsonl.read_documents(tmp_path / f'{number}.parquet')) == [document]


def test_files_of_several_members_are_read_to_their_end(tmp_path):
  lines = [to_json(document) + '\n' for document in DOCUMENTS]
  # Padding, an empty member, and in zstd a frame to be skipped, as tools for parallel compression write it.
  members = [gzip.compress(line.encode()) + b'\0' * 30 for line in lines]
  write(tmp_path, b''.join([*members[:3], gzip.compress(b''), *members[3:]]), name='a.jsonl.gz')
  frames = [zstandard.compress(line.encode()) for line in lines]
  skipped = b'\x50\x2a\x4d\x18' + (5).to_bytes(4, 'little') + b'hello'
  write(tmp_path, b''.join([skipped, *frames[:3], skipped, *frames[3:]]), name='a.jsonl.zst')
  for name in ('a.jsonl.gz', 'a.jsonl.zst'):
    assert list(jsonl.read_documents(tmp_path / name)) == DOCUMENTS


def test_what_preparation_wrote_is_read_back_and_damage_is_named(tmp_path):
  path = tmp_path / 'file.jsonl.zst'
  with ShardWriter(path) as writer:
    for document in DOCUMENTS:
      writer.write(document)
  assert list(jsonl.read_shard(path)) == DOCUMENTS
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(UserError, match=r'file\.jsonl\.zst:\d+ is damaged \(.*cut off'):
    list(jsonl.read_shard(path))
  for line in (b'{}', b'no', b'\xff'):
    path.write_bytes(zstandard.compress(line))
    with pytest.raises(UserError, match=r'file\.jsonl\.zst:1 is damaged'):
      list(jsonl.read_shard(path))


@pytest.mark.parametrize(
    'record, expected',
    [
        ({'text': 'Hello.', 'id': '<urn:1>', 'url': 'http://a/b.py', 'score': 3.5}, ('<urn:1>', 'document.txt', '', '')),
        (
            {'content': 'x', 'hexsha': 'ab', 'max_stars_repo_path': 'a/b.go', 'max_stars_repo_name': 'o/n', 'ext': 'go',
             'max_stars_repo_licenses': ['MIT', 'Apache-2.0']},
            ('ab', 'a/b.go', 'o/n', 'MIT AND Apache-2.0'),
        ),
        ({'code': 'x', 'repo_name': 'o/n', 'path': 'b.c', 'license': 'mit', 'id': 7}, ('7', 'b.c', 'o/n', 'mit')),
        ({'content': 'x', 'id': '1', 'ext': 'rs', 'licenses': []}, ('1', 'document.rs', '', '')),
        ({'content': 'x', 'id': '1', 'licenses': ['MIT', 'A OR B', None]}, ('1', '', '', 'MIT AND (A OR B)')),
        ({'kind': 'news', 'text': 'x', 'id': '1'}, ('1', 'document.txt', '', '')),
    ],
)  # fmt: skip
@pytest.mark.parametrize('form', ['jsonl', 'parquet'])
def test_corpora_are_read_by_the_names_that_published_ones_use(tmp_path, record, expected, form):
  path = tmp_path / f'a.{form}'
  if form == 'jsonl':
    path.write_text(json.dumps(record))
  else:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), path)
  (file,) = jsonl.read_documents(path)
  assert (file.id, file.path, file.repo, file.licence) == expected
  assert file.text in (record.get('text'), record.get('content'), record.get('code'))


def test_a_line_without_an_id_gets_one_of_its_content(tmp_path):
  lines = [{'text': 'a'}, {'text': 'a'}, {'text': 'b'}, {'text': 'a', 'repo': 'r'}, {'text': 'a', 'id': ''}]
  ids = [one.id for one in jsonl.read_documents(write(tmp_path, *map(json.dumps, lines)))]
  assert ids[0] == ids[1] == ids[4] and len(set(ids)) == 3


def test_every_malformed_line_is_dropped_alone_by_a_rule_without_its_details(tmp_path):
  good = '{"text": "good"}'
  malformed = {
      'line: not JSON': [b'{', b'nul', b'{"text": "a\0b"}', b'\0\0\0', b'[' * 100_000, b'{"text": 1' + b'0' * 5000 + b'}',
                         b'{"a": 1} {"a": 2}'],
      'line: not a JSON object': [b'[]', b'3', b'null', b'"text"'],
      'line: not UTF-8': [b'{"text": "\xff"}', '{"text": "x"}'.encode('utf-16'), b'\xed\xa0\x80'],
      'line: no text': [b'{}', b'{"text": null}', b'{"text": ["a"]}', b'{"text": " "}', b'{"id": "1"}'],
      'line: not a document': [b'{"kind": "file", "id": "1"}', b'{"kind": "commit", "id": "", "message": "", "patch": ""}'],
      'chat: unknown role': [b'{"kind": "conversation", "id": "1", "messages": [{"role": "bot", "content": ""}]}'],
  }  # fmt: skip
  lines, rules = [], []
  for rule, bad in malformed.items():
    for line in bad:
      lines += [line, good]
      rules += [rule, 'good']
  # UTF-16 has a line end within a character at times: not here.
  path = write(tmp_path, *lines)
  assert outcomes(path) == rules
  drops = [one for one in jsonl.read_documents(path) if isinstance(one, Drop)]
  assert all(f'{path}:{2 * number + 1}' in drop.evidence for number, drop in enumerate(drops))


def test_lone_surrogates_are_replaced_and_pairs_are_joined(tmp_path):
  lines = [r'{"text": "a\ud83d\ude00b"}', r'{"text": "a\ud83dz", "\udc00": 1}', r'{"text": "\\ud83d", "id": "\uDFFF"}']
  read = list(jsonl.read_documents(write(tmp_path, *lines)))
  assert [one.text for one in read] == ['a😀b', 'a\ufffdz', r'\ud83d'] and read[2].id == '\ufffd'


@pytest.mark.parametrize('suffix', ['.gz', '.zst'])
def test_a_file_that_is_cut_off_or_damaged_gives_its_whole_lines_and_a_drop(tmp_path, suffix):
  texts = [zlib.crc32(bytes([n % 256, n // 256])) for n in range(20_000)]
  content = ''.join(f'{{"text": "{text}"}}\n' for text in texts).encode()
  whole = COMPRESSED[suffix](content)
  path = tmp_path / f'a.jsonl{suffix}'
  for end in (len(whole) - 1, len(whole) // 2, 3):
    path.write_bytes(whole[:end])
    *texts_read, last = outcomes(path)
    assert last == 'file: compression is cut off' and texts_read == [str(text) for text in texts[: len(texts_read)]]
  assert len(texts_read) == 0
  path.write_bytes(whole[: len(whole) // 2] + b'\0' * 100 + whole[len(whole) // 2 + 100 :])
  assert outcomes(path)[-1].startswith('file: compression is')
  path.write_bytes(b'no compression\n')
  assert outcomes(path) == ['file: compression is damaged']
  path.write_bytes(b'')
  assert outcomes(path) == []


def test_a_line_without_end_is_dropped_and_never_held(tmp_path, monkeypatch):
  monkeypatch.setattr(compressed, 'LINE_BYTES', 1 << 20)
  path = tmp_path / 'a.jsonl'
  with open(path, 'wb') as file:
    file.write(b'{"text": "a"}\n')
    file.seek(200 << 20, os.SEEK_CUR)  # a hole: 200 MiB of zeros
    file.write(b'\n{"text": "b"}\n' + b'x' * (1 << 20) + b'\n{"text": "c"}\n{"text": "' + b'd' * (2 << 20))
  tracemalloc.start()
  assert outcomes(path) == ['a', 'line: too long', 'b', 'line: not JSON', 'c', 'line: too long']
  assert tracemalloc.get_traced_memory()[1] < 8 << 20
  tracemalloc.stop()


def zeros(suffix):
  """100 MiB of zeros."""
  return COMPRESSED[suffix](b'\0' * (100 << 20))


@pytest.mark.parametrize('suffix', ['.gz', '.zst'])
def test_a_bomb_ends_early_and_in_little_memory(tmp_path, monkeypatch, suffix):
  monkeypatch.setattr(compressed, 'EXPANSION_BYTES', 32 << 20)
  path = tmp_path / f'a.jsonl{suffix}'
  path.write_bytes(COMPRESSED[suffix](b'{"text": "a"}\n') + zeros(suffix))
  tracemalloc.start()
  assert outcomes(path) == ['a', 'file: expands too far']
  assert tracemalloc.get_traced_memory()[1] < 150 << 20
  tracemalloc.stop()


def test_a_row_of_parquet_that_cannot_be_read_takes_no_other_with_it(tmp_path, monkeypatch):
  path = tmp_path / 'a.parquet'
  texts = [b'a', b'\xff', b'b', b'c' * 2000, b'd', None]
  text = pyarrow.array(texts, pyarrow.binary())
  as_text = pyarrow.Array.from_buffers(pyarrow.string(), len(text), text.buffers())
  monkeypatch.setattr('iquest_jax.data.read.parquet.LINE_BYTES', 1000)
  for column in (text, as_text):
    pyarrow.parquet.write_table(pyarrow.table({'text': column[:3]}), path)
    assert outcomes(path) == ['a', 'line: not UTF-8', 'b']
    pyarrow.parquet.write_table(pyarrow.table({'text': column, 'unread': [object.__name__] * 6}), path)
    assert outcomes(path) == ['a', 'line: not UTF-8', 'b', 'line: too long', 'd', 'line: no text']


def test_parquet_is_read_across_row_groups_and_damage_ends_it(tmp_path):
  path = tmp_path / 'a.parquet'
  texts = [f'{number} {zlib.crc32(bytes([number % 256]))}' for number in range(2000)]
  pyarrow.parquet.write_table(pyarrow.table({'text': texts, 'when': [0] * 2000}), path, row_group_size=333)
  assert outcomes(path) == texts
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  assert outcomes(path) == ['file: not readable as Parquet']
  path.write_bytes(b'PAR1')
  assert outcomes(path) == ['file: not readable as Parquet']


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path):
  for name in ('missing.jsonl', 'missing.jsonl.gz', 'missing.parquet', 'folder.jsonl', 'folder.parquet', 'loop.jsonl'):
    if name.startswith('folder'):
      (tmp_path / name).mkdir()
    if name.startswith('loop'):
      (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(UserError, match=f'documents: .*{name} cannot be read: .*; ') as error:
      list(jsonl.read_documents(tmp_path / name))
    assert '\n' not in str(error.value)


def test_objects_of_evaluation_sets_are_all_needed(tmp_path):
  path = write(tmp_path, '{"a": 1}', '', '{"b": 2}')
  assert list(jsonl.read_objects(path)) == [{'a': 1}, {'b': 2}]
  with pytest.raises(UserError, match=r'a\.jsonl:2: .*: line: not JSON; fix or remove it'):
    list(jsonl.read_objects(write(tmp_path, '{"a": 1}', '{')))


def test_input_files_are_those_of_a_file_a_folder_or_a_glob_and_no_loop_is_entered(tmp_path):
  for name in ('b.jsonl', 'a.jsonl.gz', 'deep/er/c.parquet', 'deep/d.jsonl.zst', 'notes.txt', 'e.json'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  (tmp_path / 'deep' / 'loop').symlink_to(tmp_path)
  (tmp_path / 'self.jsonl').symlink_to(tmp_path / 'self.jsonl')
  (tmp_path / 'link.jsonl').symlink_to(tmp_path / 'b.jsonl')
  names = lambda path: [str(found.relative_to(tmp_path)) for found in compressed.input_files(path)]
  assert names(tmp_path) == ['a.jsonl.gz', 'b.jsonl', 'deep/d.jsonl.zst', 'deep/er/c.parquet', 'link.jsonl']
  assert names(tmp_path / '*.jsonl') == ['b.jsonl', 'link.jsonl'] and names(tmp_path / 'b.jsonl') == ['b.jsonl']
  assert names(tmp_path / 'dee*') == ['deep/d.jsonl.zst', 'deep/er/c.parquet'] and names(tmp_path / 'none*') == []
  assert names(tmp_path / 'notes.txt') == []
  (tmp_path / 'a[1].jsonl').touch()
  assert names(tmp_path / 'a[1].jsonl') == ['a[1].jsonl']


_KEYS = st.sampled_from((
    'text', 'content', 'id', 'path', 'repo', 'kind', 'files', 'messages', 'role', 'tool_calls', 'function', 'arguments',
    'name', 'tools', 'tests', 'input', 'output', 'statement', 'question', 'input_output', 'inputs', 'outputs', 'solutions',
    'description', 'public_tests', 'question_content', 'public_test_cases', 'metadata', 'licenses', 'tool_call_id',
))  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_RECORDS = st.dictionaries(_KEYS, _JSON | st.sampled_from(('file', 'conversation', 'problem', 'assistant', 'tool')))


@settings(max_examples=150, deadline=None)
@given(st.lists(_RECORDS.map(lambda record: json.dumps(record).encode()) | st.binary(max_size=40), max_size=5))
def test_whatever_a_file_holds_each_line_gives_one_document_or_drop_that_can_be_written(tmp_path_factory, lines):
  path = pathlib.Path(tmp_path_factory.getbasetemp()) / 'any.jsonl'
  path.write_bytes(b'\n'.join(lines))
  content = b'\n'.join(lines).removeprefix(b'\xef\xbb\xbf')
  expected = sum(bool(line) and not line.isspace() for line in content.split(b'\n'))
  for read in (jsonl.read_documents, chats.read_chats, problems.read_problems):
    found = list(read(path))
    assert len(found) == expected
    for document in found:
      if isinstance(document, Drop):
        assert not any(character.isdigit() for character in document.rule.replace('UTF-8', ''))
        assert document.evidence.startswith(str(path))
      elif 'NaN' not in (line := to_json(document)):
        assert from_json(line.encode().decode()) == document
