"""The loader: targets, pure addressing, the same rows on any number of hosts, held-out batches."""

import gc
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from iquest_jax.batch import Batch, zigzag
from iquest_jax.data import loader as loader_lib
from iquest_jax.data.loader import Loader
from iquest_jax.data.rows import manifest, packing, write
from iquest_jax.data.rows.read import Rows
from iquest_jax.errors import UserError
from iquest_jax.text.example import Example

from tests.small_rows import write_manifest, write_segment

CONTEXT, BATCH = 16, 8
SCHEDULE = ((0, (('a', 1.0), ('b', 3.0))), (5, (('b', 1.0), ('c', 1.0))))
FIELDS = ('tokens', 'targets', 'loss_weights', 'segment_ids', 'positions', 'source_ids')


def _pack(source, split, count):
  """Documents with unique tokens, which identify source, split and position."""
  base = 10_000 * ('abc'.index(source) + 1) + (5000 if split == 'held_out' else 0)
  rng, start = np.random.default_rng(base), base
  examples = []
  for length in rng.integers(2, 30, 4 * count):
    tokens = np.arange(start, start + length, dtype=np.int32)
    examples.append(Example(tokens, rng.integers(0, 2, length).astype(np.float32)))
    start += length
  return list(packing.pack(examples, CONTEXT, False, packing.Counts()))[:count]


@pytest.fixture(name='rows_dir', scope='module')
def _rows_dir(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('rows')
  sources = {
      name: {
          'train': [write_segment(folder, name, 'train', _pack(name, 'train', rows), CONTEXT, shards=2)],
          'held_out': [write_segment(folder, name, 'held_out', _pack(name, 'held_out', 3), CONTEXT)],
      }
      for name, rows in (('a', 11), ('b', 40), ('c', 23))
  }
  write_manifest(folder, sources, CONTEXT)
  return folder


def make(rows_dir, **changes):
  usual = dict(
      schedule=SCHEDULE, context=CONTEXT, batch_rows=BATCH, seed=3, tokenizer_fingerprint='ours', command='THE COMMAND'
  )
  return Loader(rows_dir, **{**usual, **changes})


def read(loader, start, end, chosen=range(BATCH)):
  return list(loader.numpy_batches(start, end, chosen))


def same(left, right):
  return len(left) == len(right) and all(
      np.array_equal(a[name], b[name]) for a, b in zip(left, right) for name in FIELDS
  )


def shardings(devices, **axes):
  mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=devices)
  row = NamedSharding(mesh, PartitionSpec('data', 'context' if 'context' in axes else None))
  ids = NamedSharding(mesh, PartitionSpec('data'))
  return Batch(**{name: ids if name == 'source_ids' else row for name in FIELDS})


def test_targets_are_what_follows_in_the_same_document(rows_dir):
  for batch in read(make(rows_dir), 0, 8):
    assert batch['tokens'].shape == (BATCH, CONTEXT) and batch['source_ids'].shape == (BATCH,)
    for r in range(BATCH):
      for t in range(CONTEXT):
        segment = batch['segment_ids'][r, t]
        follows = t + 1 < CONTEXT and segment and segment == batch['segment_ids'][r, t + 1]
        assert batch['targets'][r, t] == (batch['tokens'][r, t] + 1 if follows else 0)
        assert follows or batch['loss_weights'][r, t] == 0


def test_the_weight_of_a_token_is_where_it_is_predicted(rows_dir):
  loader, on_disk = make(rows_dir), {}
  for source in 'abc':
    stored = Rows(rows_dir, source, 'train', '')
    for row in (stored[i] for i in range(len(stored))):
      on_disk |= dict(zip(row['tokens'].tolist(), row['loss_weights'].tolist()))
  seen = 0
  for batch in read(loader, 0, 8):
    for target, weight in zip(batch['targets'].ravel().tolist(), batch['loss_weights'].ravel().tolist()):
      assert weight == (on_disk[target] if target else 0)
      seen += bool(weight)
  assert seen > 100


def test_rows_have_their_source_id_and_come_once_per_epoch(rows_dir):
  loader, seen = make(rows_dir), {name: [] for name in 'abc'}
  for batch in read(loader, 0, 30):
    for source, tokens in zip(batch['source_ids'], batch['tokens']):
      name = loader.sources[source]
      assert tokens[0] // 10_000 == 'abc'.index(name) + 1
      seen[name].append(int(tokens[0]))
  for name, size in (('a', 11), ('b', 40), ('c', 23)):
    for start in range(0, len(seen[name]) - size + 1, size):
      assert len(set(seen[name][start : start + size])) == size
  assert seen['b'][:40] != seen['b'][40:80] and set(seen['b'][:40]) == set(seen['b'][40:80])


def test_any_step_is_reached_without_the_ones_before(rows_dir):
  loader = make(rows_dir)
  whole = read(loader, 0, 12)
  assert same(read(make(rows_dir), 7, 12), whole[7:])  # across nothing, and past the change of weights
  assert same(read(loader, 3, 6), whole[3:6])
  far = read(loader, 10**6, 10**6 + 1)
  assert same(far, read(make(rows_dir), 10**6, 10**6 + 1)) and not same(far, whole[:1])
  assert not same(read(make(rows_dir, seed=4), 0, 12), whole)


def test_adding_a_source_keeps_the_order_of_the_others(rows_dir):
  first_tokens = lambda loader, steps: [
      int(tokens[0])
      for batch in read(loader, 0, steps)
      for tokens, source in zip(batch['tokens'], batch['source_ids'])
      if loader.sources[source] == 'b'
  ]
  alone = first_tokens(make(rows_dir, schedule=((0, (('b', 1.0),)),)), 6)
  beside = first_tokens(make(rows_dir, schedule=((0, (('a', 1.0), ('b', 1.0), ('c', 1.0))),)), 12)
  assert len(alone) == 48 and len(beside) > 24 and alone[: len(beside)] == beside[:48]


def test_sources_of_the_same_size_are_shuffled_differently_and_so_are_segments(tmp_path):
  orders = set()
  for source in 'ab':
    rows = _pack(source, 'train', 16)
    segments = [write_segment(tmp_path, source, 'train', rows[at : at + 8], CONTEXT) for at in (0, 8)]
    held_out = [write_segment(tmp_path, source, 'held_out', rows[:1], CONTEXT)]
    write_manifest(tmp_path, {source: {'train': segments, 'held_out': held_out}}, CONTEXT)
    loader = make(tmp_path, schedule=((0, ((source, 1.0),)),), batch_rows=1)
    place = {int(row['tokens'][0]): number % 8 for number, row in enumerate(rows)}
    drawn = [place[int(batch['tokens'][0, 0])] for batch in read(loader, 0, 16, [0])]
    orders |= {tuple(drawn[:8]), tuple(drawn[8:])}
  assert len(orders) == 4


@pytest.mark.parametrize('hosts', [2, 4])
def test_hosts_read_together_what_one_host_reads(rows_dir, hosts):
  whole = read(make(rows_dir), 2, 9)
  share = BATCH // hosts
  parts = [read(make(rows_dir), 2, 9, range(h * share, (h + 1) * share)) for h in range(hosts)]
  joined = [{name: np.concatenate([part[step][name] for part in parts]) for name in FIELDS} for step in range(7)]
  assert same(joined, whole)


@pytest.mark.parametrize('axes', [{'data': 8}, {'data': 2, 'context': 4}, {'data': 1, 'context': 2}])
def test_global_arrays_follow_the_context_axis_on_any_mesh(rows_dir, axes):
  on_mesh = shardings(jax.devices()[: np.prod(list(axes.values()))], **axes)
  loader, order = make(rows_dir), zigzag(CONTEXT, axes.get('context', 1))
  ordered = lambda values: values[:, order] if values.ndim == 2 else values
  for batch, expected in zip(loader.batches(1, 4, on_mesh), read(loader, 1, 4), strict=True):
    for name in FIELDS:
      value = getattr(batch, name)
      assert value.sharding == getattr(on_mesh, name) and np.array_equal(value, ordered(expected[name]))


def test_held_out_rows_are_in_the_order_of_the_context_axis_too(rows_dir):
  loader, order = make(rows_dir), zigzag(CONTEXT, 4)
  natural = loader.held_out(2, BATCH, shardings(jax.devices()[:2], data=2))
  zigzagged = loader.held_out(2, BATCH, shardings(jax.devices(), data=2, context=4))
  for left, right in zip(natural, zigzagged, strict=True):
    assert np.array_equal(left.source_ids, right.source_ids) and not np.array_equal(order, np.arange(CONTEXT))
    for name in FIELDS[:-1]:
      assert np.array_equal(np.asarray(getattr(left, name))[:, order], getattr(right, name))


def test_a_process_makes_global_arrays_from_its_own_rows(rows_dir):
  """As on the second of two hosts, whose four devices hold rows 4 to 7: the others are never asked for."""
  devices = jax.devices()[4:8]
  on_mesh = shardings(devices, data=4)
  assert loader_lib.local_rows(on_mesh, BATCH, CONTEXT) == tuple(range(BATCH))
  mine = (1, 4, 5, 6, 7)
  batch = read(make(rows_dir), 0, 1, mine)[0]
  whole = read(make(rows_dir), 0, 1)[0]
  half = loader_lib.to_global({name: value[1:] for name, value in batch.items()}, range(4), 4, shardings(devices, data=4))
  assert np.array_equal(half.tokens, whole['tokens'][4:]) and np.array_equal(half.source_ids, whole['source_ids'][4:])


@pytest.mark.parametrize('batch_rows', [2, 4])
def test_held_out_batches_cover_each_source_in_order_and_padding_weighs_nothing(rows_dir, batch_rows):
  loader, on_mesh = make(rows_dir), shardings(jax.devices()[:2], data=2)
  batches = loader.held_out(2, batch_rows, on_mesh)
  assert len(batches) == -(-6 // batch_rows)
  tokens = np.concatenate([batch.tokens for batch in batches])
  ids = np.concatenate([batch.source_ids for batch in batches])
  assert ids[:6].tolist() == [0, 0, 1, 1, 2, 2]
  for index, source in enumerate('abc'):
    held_out = Rows(rows_dir, source, 'held_out', '')
    for row in range(2):
      assert np.array_equal(tokens[2 * index + row], held_out[row]['tokens'])
  padding = np.concatenate([batch.loss_weights for batch in batches])[6:]
  assert not padding.any() and not np.concatenate([batch.segment_ids for batch in batches])[6:].any()
  assert len(loader.held_out(100, batch_rows, on_mesh)) == -(-9 // batch_rows)  # there are three of each


def test_epochs_are_reported_per_source(rows_dir):
  loader = make(rows_dir)
  seen = np.concatenate([batch['source_ids'] for batch in read(loader, 0, 30)])
  drawn = {name: np.count_nonzero(seen == index) for index, name in enumerate('abc')}
  assert loader.epochs(30) == {'a': drawn['a'] / 11, 'b': drawn['b'] / 40, 'c': drawn['c'] / 23}
  assert loader.epochs(30)['b'] > 1 > loader.epochs(3)['b']


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.integers(0, 3), st.data())
def test_an_extension_changes_no_earlier_draw_and_its_rows_come_next(tmp_path, sizes, seed, data):
  """Of segments of these sizes the first ones are there before, all of them after."""
  folder = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
  rows = _pack('b', 'train', sum(sizes))
  starts = np.cumsum([0, *sizes])
  segments = [write_segment(folder, 'b', 'train', rows[a:b], CONTEXT) for a, b in zip(starts, starts[1:])]
  held_out = [write_segment(folder, 'b', 'held_out', _pack('b', 'held_out', 3), CONTEXT)]
  first = data.draw(st.integers(1, len(sizes) - 1))
  written, drawn = [], []
  for count in (first, len(sizes)):
    written.append(write_manifest(folder, {'b': {'train': segments[:count], 'held_out': held_out}}, CONTEXT))
    loader = make(folder, schedule=((0, (('b', 1.0),)),), batch_rows=1, seed=seed)
    drawn.append([int(batch['tokens'][0, 0]) for batch in read(loader, 0, 2 * sum(sizes), [0])])
  before = sum(sizes[:first])
  assert drawn[0][:before] == drawn[1][:before]
  epoch = [int(row['tokens'][0]) for row in rows]
  for at, size in zip(starts, sizes):  # segment by segment, then again from the first
    for epoch_start in (0, sum(sizes)):
      assert sorted(drawn[1][epoch_start + at : epoch_start + at + size]) == sorted(epoch[at : at + size])
  assert loader.extends(manifest.rows_hash(written[0])) and loader.extends(loader.manifest_hash)
  assert not loader.extends('f' * 64) and loader.manifest_hash != manifest.rows_hash(written[0])


def test_shares_are_those_of_the_rows_that_are_drawn(rows_dir):
  """Counted over the batches themselves: rows, and the loss weight of whole epochs."""
  loader, steps = make(rows_dir, schedule=((0, (('a', 1.0), ('b', 1.0))),)), 110  # 40 epochs of a, 11 of b
  rows, learned = np.zeros(2), np.zeros(2)
  for batch in read(loader, 0, steps):
    np.add.at(rows, batch['source_ids'], 1)
    np.add.at(learned, batch['source_ids'], batch['loss_weights'].sum(axis=1))
  shares = loader.shares(steps)
  np.testing.assert_allclose([shares[name]['rows'] for name in 'ab'], rows / rows.sum())
  np.testing.assert_allclose([shares[name]['loss_weight'] for name in 'ab'], learned / learned.sum(), rtol=1e-5)


def test_a_loader_holds_the_rows_it_reads(rows_dir, tmp_path):
  folder = shutil.copytree(rows_dir, tmp_path / 'rows')
  loader = make(folder)
  assert not write.sweep(folder, manifest.read(folder))
  del loader
  gc.collect()
  assert write.sweep(folder, manifest.read(folder)) and read(make(folder), 0, 1)


def test_damage_found_while_reading_ahead_is_reported_in_one_line(rows_dir, tmp_path):
  folder = shutil.copytree(rows_dir, tmp_path / 'rows')
  file = next((folder / 'b').rglob('*train.array_record*'))
  content = bytearray(file.read_bytes())
  content[200] ^= 1  # within the first rows
  file.write_bytes(content)
  with pytest.raises(UserError, match=f'{file} cannot be read .* with THE COMMAND') as error:
    read(make(folder), 0, 12)
  assert '\n' not in str(error.value)


def test_rows_that_do_not_fit_are_refused_before_reading(rows_dir):
  for changes, reason in (({'context': 32}, 'context 16'), ({'tokenizer_fingerprint': 'b'}, 'another tokenizer')):
    with pytest.raises(UserError, match=f'{reason}.*THE COMMAND'):
      make(rows_dir, **changes)


def test_decided_weights_change_later_rows_alone_and_batches_asked_for_before_keep_theirs(rows_dir):
  plain, decided = make(rows_dir), make(rows_dir)
  before = decided.numpy_batches(3, 8, range(BATCH))
  decided.follow([(2, {'a': 1.0}), (4, {'a': 3.0, 'b': 1.0})])
  assert same(list(before), read(plain, 3, 8))
  assert same(read(decided, 0, 4), read(plain, 0, 4))
  # At step 4, a : b is 3 : 3 instead of 1 : 3; from step 5 on, b and c are as configured.
  source_ids = [batch['source_ids'] for batch in read(decided, 4, 6)]
  assert (source_ids[0] == 0).sum() == 4 and (source_ids[1] == 1).sum() == 4
  assert decided.weights(4) == {'a': 1.0, 'b': 3.0, 'c': 0.0} and decided.weights(5) == {'a': 0.0, 'b': 1.0, 'c': 1.0}
  again = make(rows_dir, schedule=((0, SCHEDULE[0][1]), (4, (('a', 3.0), ('b', 3.0))), SCHEDULE[1]))
  assert same(read(decided, 0, 9), read(again, 0, 9))
  decided.follow([])
  assert same(read(decided, 0, 9), read(plain, 0, 9))
