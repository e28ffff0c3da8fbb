"""What the TPU kernels promise besides correct numbers: what they skip, save, name and refuse, and no data race."""

import functools
import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from iquest_jax.kernels import gated_attention as kernels
from iquest_jax.kernels.gated_attention import Ids, block_pairs, tpu
from iquest_jax.kernels.gated_attention.tpu_common import Options

from tests.kernels import attention_oracle as oracle
from tests.kernels.attention_oracle import INTERPRETED, NAMES, assert_close
from tests.parallel import split_rows


def seen_pairs(q_ids, k_ids, window, block_q, block_k):
  """Whether any and whether all of each pair of blocks is visible, [query blocks, key blocks] both."""
  seen = oracle.visible(q_ids, k_ids, window)[0]
  blocks = seen.reshape(len(seen) // block_q, block_q, -1, block_k)
  return blocks.any(axis=(1, 3)), blocks.all(axis=(1, 3))


def kinds(plan, q_ids, k_ids, block_q, block_k, window):
  """(query block, key block, kind) of every pair listed for a single row."""
  pairs, count = plan(*jax.tree.map(jnp.asarray, (q_ids, k_ids)), block_q, block_k, window)
  return [np.asarray(x)[0, : int(count)] for x in pairs[:3]]


# Blocks are of 32 queries and 64 keys. The last of 129 tokens is the first of its block of queries and of its block of
# keys, so it is the only pair of the two. A window of 95 covers queries 64 to 95 and keys 0 to 63 except for the pair (95,
# 0); a window of 34 covers queries 96 to 127 and the same keys only in the pair (96, 63).
@pytest.mark.parametrize('plan', [block_pairs.forward, block_pairs.backward])
@pytest.mark.parametrize('length', [100, 129, 192])
@pytest.mark.parametrize('window', [None, 1, 2, 33, 34, 94, 95, 96])
def test_a_pair_of_blocks_runs_if_and_only_if_it_is_visible(plan, length, window):
  ids = oracle.ids_of([length], 192)
  some, every = seen_pairs(ids, ids, window, 32, 64)
  q, k, kind = kinds(plan, ids, ids, 32, 64, window)
  work = np.full(some.shape, block_pairs.NOTHING)
  work[q, k] = kind & block_pairs.WORK
  np.testing.assert_array_equal(work, np.select([every, some], [block_pairs.ALL, block_pairs.SOME], block_pairs.NOTHING))


@pytest.mark.parametrize('window', [None, 17, 200])
@pytest.mark.parametrize('order', ['natural', 'zigzag', 'shuffled'])
def test_every_visible_pair_is_listed_once_and_masked_where_needed(order, window):
  generator = np.random.default_rng(3)
  T, block_q, block_k = 1024, 32, 64
  one = jax.tree.map(jnp.asarray, oracle.ids_of([block_q], block_q))
  assert block_pairs.forward(one, one, block_q, block_q, window)[0].kind.shape == (1, 1)
  for lengths in ([T], [200, 300, 400], generator.integers(1, 90, 20), [], [33] * 20):
    ids = oracle.ids_of(lengths, T)
    rows = {
        'natural': np.arange(T),
        'zigzag': np.arange(T).reshape(8, -1)[[0, 7, 1, 6, 2, 5, 3, 4]].ravel(),
        'shuffled': generator.permutation(T),
    }[order]
    k_ids = jax.tree.map(lambda x: x[:, rows], ids)
    some, every = seen_pairs(ids, k_ids, window, block_q, block_k)
    for plan in (block_pairs.forward, block_pairs.backward):
      q, k, kind = kinds(plan, ids, k_ids, block_q, block_k, window)
      assert len({*zip(q, k)}) == len(q)
      work = np.zeros(some.shape, int)
      work[q, k] = kind & block_pairs.WORK
      assert (work[some] > 0).all() and every[work == block_pairs.ALL].all()
      outer = q if plan is block_pairs.forward else k
      assert set(outer) == set(range(some.shape[plan is block_pairs.backward])) and (np.diff(outer) >= 0).all()
      first, last = (np.asarray(kind & flag > 0).sum() for flag in (block_pairs.FIRST, block_pairs.LAST))
      assert first == last == len(set(outer))
      if plan is block_pairs.backward:
        for flag in (block_pairs.FIRST_Q, block_pairs.LAST_Q):
          assert sorted(q[kind & flag > 0]) == list(range(some.shape[0]))
      if order == 'natural':
        # For packed rows in order the list is exact, except for pairs that are added so that every block is written.
        assert (some[work > 0]).mean() > 0.95 if work.any() else not some.any()


def test_short_documents_skip_almost_all_pairs():
  T = 32768
  ids = jax.tree.map(jnp.asarray, oracle.ids_of([1024] * 32, T))
  _, count = jax.jit(lambda ids: block_pairs.forward(ids, ids, 512, 1024, None))(ids)
  assert count == T // 512


def test_no_race_and_no_read_of_unwritten_memory():
  # Here memory is NaN until it is written.
  options = INTERPRETED._replace(interpret=pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan'))
  row = oracle.row('edge', T=300, heads=(2, 1), K=16)
  d_out = np.random.default_rng(1).standard_normal(row.q.shape).astype(np.float32)
  call = gated_call(row, options)
  interpreter = importlib.import_module('jax._src.pallas.mosaic.interpret.interpret_pallas_call')
  out, pull = jax.vjp(call, *row.arrays)
  jax.block_until_ready(out)
  assert not interpreter.races.races_found
  grads = jax.block_until_ready(pull(d_out))
  assert not interpreter.races.races_found
  expected_out, expected = oracle.gated(row, d_out)
  assert_close(NAMES[:7], (out, *grads), (expected_out, *expected), 1e-5)


def test_rows_too_long_for_vector_memory_are_split_and_equal():
  row = oracle.row('edge', T=500, heads=(2, 1))
  d_out = np.ones_like(row.q)

  def gradients(options):
    return lambda *arrays: jax.vjp(gated_call(row, options), *arrays)[1](d_out)

  small = INTERPRETED._replace(resident_bytes=2 * 256 * 32 * 4)
  launches = str(jax.make_jaxpr(gradients(small))(*row.arrays)).count('gated_attention_backward')
  assert launches >= 2
  assert_close(NAMES[1:7], gradients(small)(*row.arrays), gradients(INTERPRETED)(*row.arrays), 1e-6)


@pytest.mark.parametrize('transport', ['all_gather', 'ring'])
def test_rows_split_over_devices_equal_whole_rows_of_the_reference(transport, monkeypatch):
  functions = ('attention', 'attention_with_lse', 'attention_backward', 'gated_attention')
  interpreted = {name: functools.partial(getattr(tpu, name), options=INTERPRETED) for name in functions}
  whole = split_rows.whole(4)
  monkeypatch.setattr(kernels, '_implementation', lambda: types.SimpleNamespace(**interpreted))
  split_rows.assert_same(whole, split_rows.split(4, transport))


def gated_call(row, options):
  return lambda *arrays: row.call(tpu.gated_attention, arrays, options=options)


def test_residuals_are_inputs_output_and_two_statistics():
  row = oracle.row('edge', T=256, heads=(5, 1)).map(jnp.asarray)
  _, pull = jax.vjp(gated_call(row, INTERPRETED), *row.arrays)
  inputs = [id(x) for x in jax.tree.leaves(row)]
  kept = [x for x in jax.tree.leaves(pull) if isinstance(x, jax.Array) and id(x) not in inputs]
  sizes = sorted({x.shape for x in kept} - {x.shape for x in jax.tree.leaves(row) if isinstance(x, jax.Array)})
  assert sizes == [(1, 5, 1, 256)]
  assert sum(x.size for x in kept if x.shape == (1, 5, 1, 256)) == 2 * 5 * 256
  assert sum(x.shape == row.q.shape for x in kept) <= 1 + sum(x.shape == row.q.shape for x in jax.tree.leaves(row)[:1])


@pytest.mark.parametrize('names', [('attention_output', 'attention_lse'), ()])
def test_saving_the_named_values_avoids_running_the_kernel_again(names):
  row = oracle.row('edge', T=256, heads=(2, 1))
  policy = jax.checkpoint_policies.save_only_these_names(*names)
  layer = jax.checkpoint(lambda *args: jnp.sin(gated_call(row, INTERPRETED)(*args)).sum(), policy=policy)
  program = jax.make_jaxpr(jax.grad(layer, argnums=range(6)))(*row.arrays)
  (again,) = [eqn.params['jaxpr'].eqns for eqn in program.eqns if 'jaxpr' in eqn.params and 'policy' in eqn.params]
  used = {id(x) for eqn in again for x in eqn.invars}
  runs = [
      any(id(x) in used for x in eqn.outvars)
      for eqn in again
      if eqn.primitive.name == 'pallas_call' and eqn.params['name'] == 'gated_attention_forward'
  ]
  # jax keeps the call in any case, and the compiler drops it if nothing uses it (test_attention_compile.py).
  assert any(runs) == (not names)


def test_a_window_beyond_the_halo_is_refused():
  row = oracle.row('one', T=128, window=129)
  with pytest.raises(ValueError, match=r'window must be in \[1, 128\] on a TPU, got 129'):
    gated_call(row, INTERPRETED)(*row.arrays)


def test_near_keys_of_other_rows_are_refused():
  row = oracle.row('one', T=128)
  with pytest.raises(ValueError, match="near keys must be the queries' own rows"):
    gated_call(row._replace(near=row.near._replace(ids=Ids(*row.ids))), INTERPRETED)(*row.arrays)


def test_the_kernels_are_those_of_the_platform_compiled_for():
  row = oracle.row('one', T=128)
  program = lambda: str(jax.make_jaxpr(lambda q: kernels.attention(q, row.ids, row.far))(row.q))
  assert 'pallas_call' not in program()
  with kernels.kernels_for('tpu'):
    assert 'name=attention_forward' in program()
  assert 'pallas_call' not in program()


def test_blocks_are_no_longer_than_the_rows():
  assert Options().fitted(8192, 8192)[:3] == (512, 1024, 512)
  assert Options().fitted(100, 100)[:3] == (128, 128, 128)
  assert Options().fitted(100, 300)[:3] == (128, 384, 128)
