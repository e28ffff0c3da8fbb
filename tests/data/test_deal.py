"""Dealing and gathering lose nothing, keep the order, and give the same bytes however much is held in memory."""

import pathlib
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data import deal
from iquest_jax.data.documents import File
from iquest_jax.data.read import jsonl


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=20)), max_size=12), min_size=1, max_size=3))
def test_every_document_is_gathered_once_in_the_order_of_the_input(files):
  with tempfile.TemporaryDirectory() as folder:
    folder, dealt, expected = pathlib.Path(folder), [], {shard: [] for shard in range(4)}
    for number, entries in enumerate(files):
      documents = [(shard, File(f'{number}-{at}', 'a.py', text)) for at, (shard, text) in enumerate(entries)]
      for shard, document in documents:
        expected[shard].append(document)
      dealt.append(folder / f'{number}')
      assert deal.deal(dealt[-1], documents) == len(documents)
    for shard, documents in expected.items():
      path = folder / f'{shard}.jsonl.zst'
      assert deal.gather(path, shard, dealt)['documents'] == len(documents)
      assert list(jsonl.read_shard(path)) == documents


def test_documents_are_written_in_pieces_as_memory_fills(tmp_path, monkeypatch):
  monkeypatch.setattr(deal, '_HELD_CHARACTERS', 1000)
  documents = [(number % 2, File(str(number), 'a.py', 'x' * 200)) for number in range(40)]
  deal.deal(tmp_path / 'dealt', documents)
  counts = deal.gather(tmp_path / 'one.jsonl.zst', 1, [tmp_path / 'dealt'])
  assert list(jsonl.read_shard(tmp_path / 'one.jsonl.zst')) == [document for shard, document in documents if shard]
  assert counts['documents'] == 20 and counts['bytes'] == (tmp_path / 'one.jsonl.zst').stat().st_size


def test_a_task_that_fails_leaves_no_file_that_looks_whole(tmp_path):
  def documents():
    yield 0, File('1', 'a.py', 'x')
    raise OSError('disk')

  with pytest.raises(OSError):
    deal.deal(tmp_path / 'dealt', documents())
  assert not (tmp_path / 'dealt').exists()
