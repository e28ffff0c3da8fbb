"""Every implementation of attention equals float64 NumPy, forward and in all gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax.kernels.gated_attention import Keys, cpu, gpu, reference, tpu

from tests.kernels import attention_oracle as oracle
from tests.kernels import tokamax_twin
from tests.kernels.attention_oracle import INTERPRETED, NAMES, assert_close

IMPLEMENTATIONS = {
    name: {function: functools.partial(getattr(module, function), **options) for function in (
        'attention', 'attention_with_lse', 'attention_backward', 'gated_attention'
    )}
    for name, module, options in (
        ('reference', reference, {}),
        ('cpu', cpu, {}),
        ('tpu', tpu, {'options': INTERPRETED}),
        ('gpu', gpu, {'library': tokamax_twin.LIBRARY}),
    )
}  # fmt: skip
TOLERANCE = {'float32': 1e-5, 'bfloat16': 1e-2}

MATRIX = [
    *itertools.product(('one', 'short', 'edge'), (1, 63, 64, 65), ((5, 1), (2, 2)), (None,), ('float32', 'bfloat16')),
    *itertools.product(('one', 'short', 'edge'), (64, 128), ((4, 2),), (0, 1), ('float32', 'bfloat16')),
]
FEW = [
    ('one', 65, (5, 1), None, 'float32'),
    ('short', 1, (2, 2), None, 'float32'),
    ('edge', 64, (5, 1), None, 'bfloat16'),
    ('edge', 63, (2, 2), None, 'float32'),
    ('edge', 64, (4, 2), 0, 'float32'),
    ('one', 128, (4, 2), 1, 'float32'),
]
POINTS = [pytest.param(*p, marks=[] if p in FEW else pytest.mark.long, id='-'.join(map(str, p))) for p in MATRIX]


@pytest.fixture(params=list(IMPLEMENTATIONS))
def kernels(request):
  return IMPLEMENTATIONS[request.param]


def rounded(x, dtype):
  return jnp.asarray(x, dtype) if np.issubdtype(np.asarray(x).dtype, np.floating) else jnp.asarray(x)


def gated(kernels, row, d_out):
  """(out, gradients) in the order of oracle.gated."""

  @jax.jit
  def run(arrays, d_out):
    out, pull = jax.vjp(lambda *arrays: row.call(kernels['gated_attention'], arrays), *arrays)
    return out, pull(d_out)

  return run(row.arrays, d_out)


@pytest.mark.parametrize('documents,window,heads,device,dtype', POINTS)
def test_gated_attention_equals_float64(kernels, documents, window, heads, device, dtype):
  T = 300 if device is None else 640
  row = oracle.row(documents, T, heads, window=window, device=device)
  logits = row.logits
  row = row.map(lambda x: rounded(x, dtype))._replace(logits=logits)
  d_out = rounded(np.random.default_rng(1).standard_normal(row.q.shape).astype(np.float32), dtype)
  out, grads = gated(kernels, row, d_out)
  expected_out, expected = oracle.gated(row, d_out)
  assert out.dtype == row.q.dtype
  assert_close(NAMES[: 1 + len(grads)], (out, *grads), (expected_out, *expected), TOLERANCE[dtype])


@pytest.mark.parametrize(
    'documents,window,heads,dtype',
    [
        ('short', None, (5, 1), 'float32'),
        ('edge', 70, (2, 2), 'float32'),
        pytest.param('one', None, (5, 1), 'bfloat16', marks=pytest.mark.long),
        pytest.param('edge', None, (4, 2), 'bfloat16', marks=pytest.mark.long),
    ],
)
def test_attention_equals_float64(kernels, documents, window, heads, dtype):
  row = oracle.row(documents, heads=heads)
  q, k, v = (rounded(x, dtype) for x in (row.q, row.far.k, row.far.v))
  d_out = rounded(np.random.default_rng(1).standard_normal(q.shape).astype(np.float32), dtype)

  @jax.jit
  def run(q, k, v, d_out):
    out, pull = jax.vjp(lambda q, k, v: kernels['attention'](q, row.ids, Keys(k, v, row.ids), window), q, k, v)
    return out, *pull(d_out)

  expected = oracle.stream(q, row.ids, Keys(k, v, row.ids), window)
  expected = (expected.out, *expected.pull(np.asarray(d_out, np.float64)))
  assert_close(('out', 'dq', 'dk', 'dv'), run(q, k, v, d_out), expected, TOLERANCE[dtype])


@pytest.mark.parametrize('window', [None, 40])
def test_keys_in_any_order_among_empty_slots_give_the_same(kernels, window):
  # A cache: 300 keys scattered over 450 slots, the others empty and full of noise; queries are the last 40 tokens.
  row, generator = oracle.row('edge', heads=(4, 2)), np.random.default_rng(2)
  slots = generator.permutation(450)[:300]

  def scattered(x):
    noise = generator.integers(0, 300, (1, 450)) if x.ndim == 2 else generator.standard_normal((1, 450, *x.shape[2:]))
    noise = noise.astype(x.dtype)
    noise[:, slots] = x
    return noise

  cache = jax.tree.map(scattered, row.far)
  segments = np.zeros((1, 450), np.int32)
  segments[:, slots] = row.ids.segment_ids
  cache = cache._replace(ids=cache.ids._replace(segment_ids=segments))
  late = lambda x: x[:, 240:280]
  q, q_ids = late(row.q), jax.tree.map(late, row.ids)
  d_out = generator.standard_normal(q.shape).astype(np.float32)

  @jax.jit
  def run(q, k, v, d_out):
    out, pull = jax.vjp(lambda q, k, v: kernels['attention'](q, q_ids, Keys(k, v, cache.ids), window), q, k, v)
    return out, *pull(d_out)

  expected = oracle.stream(q, q_ids, row.far, window)
  out, dq, dk, dv = run(q, cache.k, cache.v, d_out)
  empty = np.setdiff1d(np.arange(450), slots)
  assert not np.asarray(dk)[:, empty].any() and not np.asarray(dv)[:, empty].any()
  expected = (expected.out, *expected.pull(np.asarray(d_out, np.float64)))
  assert_close(('out', 'dq', 'dk', 'dv'), (out, dq, dk[:, slots], dv[:, slots]), expected, 1e-5)


@pytest.mark.parametrize('window', [None, 40])
def test_results_over_two_halves_of_the_keys_combine_to_the_whole(kernels, window):
  row = oracle.row('edge', heads=(4, 2))
  d_out = np.random.default_rng(1).standard_normal(row.q.shape).astype(np.float32)

  @jax.jit
  def run(q, keys, d_out):
    # The later keys first, and halves that are not whole blocks.
    halves = [jax.tree.map(lambda x, part=part: x[:, part], keys) for part in (slice(170, None), slice(170))]
    outs, lses = zip(*(kernels['attention_with_lse'](q, row.ids, half, window) for half in halves))
    lse = jnp.logaddexp(*lses)
    out = sum(jnp.exp(part - lse)[..., None] * out for out, part in zip(outs, lses))
    delta = jnp.sum(d_out * out, axis=-1)
    parts = [kernels['attention_backward'](q, row.ids, half, d_out, lse, delta, window) for half in halves]
    (dq_late, *late), (dq_early, *early) = parts
    return out, lse, dq_late + dq_early, *(jnp.concatenate(pair, axis=1) for pair in zip(early, late))

  whole = oracle.stream(row.q, row.ids, row.far, window)
  out, lse, *grads = run(row.q, row.far, d_out)
  real = row.ids.segment_ids != 0
  assert_close(('out', 'lse'), (out, lse[real]), (whole.out, whole.lse[real]), 1e-5)
  assert (np.asarray(lse)[~real] < -1e29).all()
  assert_close(('dq', 'dk', 'dv'), grads, whole.pull(d_out), 1e-5)


def test_rows_of_padding_give_zeros(kernels):
  row = oracle.row('padding', T=130)
  out, grads = gated(kernels, row, np.ones_like(row.q))
  assert all(not np.asarray(x).any() for x in (out, *grads))


def test_rows_of_a_batch_differ_in_their_documents(kernels):
  rows = [oracle.row('one', seed=1), oracle.row('short', seed=2)]
  both = rows[0].map(lambda *x: np.concatenate(x), rows[1])
  d_out = np.random.default_rng(1).standard_normal(both.q.shape).astype(np.float32)
  out, grads = gated(kernels, both, d_out)
  expected_out, expected = oracle.gated(both, d_out)
  assert_close(NAMES[:7], (out, *grads), (expected_out, *expected), 1e-5)


def test_saturated_gates_give_finite_gradients(kernels):
  row = oracle.row('edge')
  for size in (-200.0, 200.0):
    saturated = row._replace(logits=np.full_like(row.logits, size))
    out, grads = gated(kernels, saturated, np.ones_like(row.q))
    with np.errstate(over='ignore'):
      expected_out, expected = oracle.gated(saturated, np.ones_like(row.q))
    assert_close(NAMES[:3], (out, *grads[:2]), (expected_out, *expected[:2]), 1e-5)
    assert all(np.isfinite(np.asarray(x)).all() for x in grads)
