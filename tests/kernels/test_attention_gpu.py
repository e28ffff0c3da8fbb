"""What attention on GPUs promises besides correct numbers: exact intervals, what it saves, lowers to and refuses."""

import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokamax._src import gpu_utils

from iquest_jax.batch import zigzag
from iquest_jax.kernels import gated_attention as kernels
from iquest_jax.kernels.gated_attention import Ids, Keys, gpu, reference

from tests.kernels import attention_oracle as oracle
from tests.kernels import tokamax_twin
from tests.kernels.attention_oracle import NAMES, assert_close
from tests.parallel import split_rows

LENGTHS = ([640], [1, 7, 30, 64, 2, 3, 90] * 3, [100, 156, 300], [128] * 5, [])


def rows_in(order, ids):
  return Ids(*(x[:, order] for x in ids))


@pytest.mark.parametrize('window', [None, 1, 64, 200])
@pytest.mark.parametrize('lengths', LENGTHS)
def test_intervals_of_sorted_keys_are_exactly_what_is_visible(lengths, window):
  generator = np.random.default_rng(0)
  ids = oracle.ids_of(lengths, 640)
  q_ids, k_ids = rows_in(generator.permutation(640)[:300], ids), rows_in(generator.permutation(640)[:500], ids)
  seen = gpu._seen_among(q_ids, k_ids, window)
  keys = np.arange(500)
  inside = (keys >= np.asarray(seen.start)[0, :, None]) & (keys < np.asarray(seen.end)[0, :, None])
  expected = oracle.visible(q_ids, k_ids, window)[0]
  np.testing.assert_array_equal(np.asarray(seen.some)[0], expected.any(axis=1))
  np.testing.assert_array_equal(inside & np.asarray(seen.some)[0, :, None], expected[:, np.asarray(seen.order)[0]])


@pytest.mark.parametrize('order', [np.arange(640), *(zigzag(640, 4).reshape(4, -1))], ids=lambda x: f'{x[0]}+{len(x)}')
@pytest.mark.parametrize('lengths', LENGTHS)
def test_rows_of_one_device_see_their_document_up_to_themselves(lengths, order):
  ids = rows_in(order, oracle.ids_of(lengths, 640))
  seen = gpu._seen_along(ids)
  x = jnp.zeros((1, len(order), 1, 16))
  *_, mask = gpu._arguments(x, x, x, seen, tokamax_twin.LIBRARY)
  allowed = np.asarray(mask.as_array(640, 640))[0, 0] if len(order) == 640 else np.asarray(mask.as_array(256, 256))[0, 0]
  some = np.asarray(seen.some)[0]
  expected = oracle.visible(ids, ids)[0]
  T = len(order)
  np.testing.assert_array_equal(allowed[:T, :T] & some[:, None], expected)
  # The forward kernel fetches from the first block that a tile needs, which must not be after its diagonal.
  tiles = np.asarray(mask.k_start).reshape(-1, gpu.BLOCK)
  assert (tiles.min(axis=1) <= np.arange(len(tiles)) * gpu.BLOCK).all()


@pytest.mark.parametrize('transport', ['all_gather', 'ring'])
def test_rows_split_over_devices_equal_whole_rows_of_the_reference(transport, monkeypatch):
  monkeypatch.setattr(gpu, '_library', lambda q: tokamax_twin.LIBRARY)
  whole = split_rows.whole(4)
  with kernels.kernels_for('gpu'):
    split_rows.assert_same(whole, split_rows.split(4, transport))


def test_whole_rows_of_a_mesh_are_causal_without_sorting(monkeypatch):
  sorted_for = []
  among = gpu._seen_among
  monkeypatch.setattr(gpu, '_seen_among', lambda q, k, w: sorted_for.append(k.positions.shape[1]) or among(q, k, w))
  monkeypatch.setattr(gpu, '_library', lambda q: tokamax_twin.LIBRARY)
  with kernels.kernels_for('gpu'):
    split_rows.assert_same(split_rows.whole(1), split_rows.split(1, 'ring', fsdp=4, tensor=2))
  # Only the two blocks of the local stream are sorted.
  assert set(sorted_for) == {2 * gpu.BLOCK}


def test_part_of_the_keys_is_differentiated_with_the_statistics_of_all():
  # No query of the first document sees one of the halves; neither half has the output of the whole.
  row = oracle.row('edge', heads=(4, 2))
  d_out = np.random.default_rng(1).standard_normal(row.q.shape).astype(np.float32)
  whole = oracle.stream(row.q, row.ids, row.far)
  delta, lse = (whole.out * d_out).sum(-1), np.where(np.isfinite(whole.lse), whole.lse, reference.MASKED)
  for part in (slice(170, None), slice(170)):
    args = (row.q, row.ids, jax.tree.map(lambda x, part=part: x[:, part], row.far), d_out, lse, delta)
    args = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if np.issubdtype(x.dtype, np.floating) else None), args)
    expected = reference.attention_backward(*args)
    actual = gpu.attention_backward(*args, library=tokamax_twin.LIBRARY)
    assert_close(('dq', 'dk', 'dv'), actual, map(np.asarray, expected), 1e-5)


def test_near_keys_in_any_order_give_the_same():
  row = oracle.row('edge', heads=(4, 2))
  order = np.random.default_rng(4).permutation(300)
  d_out = np.ones_like(row.q)
  mixed = row._replace(near=jax.tree.map(lambda x: x[:, order], row.near))

  @jax.jit
  def run(arrays, d_out):
    out, pull = jax.vjp(gated_call(mixed, tokamax_twin.LIBRARY), *arrays)
    return out, *pull(d_out)

  expected_out, expected = oracle.gated(mixed, d_out)
  assert_close(NAMES[:7], run(mixed.arrays, d_out), (expected_out, *expected), 1e-5)


def gated_call(row, library):
  return lambda *arrays: row.call(gpu.gated_attention, arrays, library=library)


def test_residuals_are_inputs_output_and_one_statistic():
  row = oracle.row('edge', T=256, heads=(5, 1)).map(jnp.asarray)
  _, pull = jax.vjp(gated_call(row, tokamax_twin.LIBRARY), *row.arrays)
  inputs = [id(x) for x in jax.tree.leaves(row)]
  kept = [x.shape for x in jax.tree.leaves(pull) if isinstance(x, jax.Array) and id(x) not in inputs]
  # jax counts a row of ids once per argument that it is in.
  assert sorted(shape for shape in kept if shape != (1, 256)) == [(1, 256, 5), (1, 256, 5, 32)]


@pytest.mark.parametrize('names,again', [(('attention_output', 'attention_lse'), 0), ((), 2)])
def test_saving_the_named_values_avoids_running_the_kernel_again(names, again):
  """Counts matrix products of two layers in a loop, where the compiler cannot merge the second run with the first."""
  row = oracle.row('edge', T=256, heads=(2, 1))
  attend = gated_call(row, tokamax_twin.LIBRARY)
  layer = lambda q, rest: (attend(q, *rest), None)

  def products(layer):
    loop = lambda q, rest: jax.lax.scan(lambda q, _: layer(q, rest), q, length=2)[0].sum()
    program = jax.jit(jax.grad(loop, argnums=(0, 1))).lower(row.q, row.arrays[1:]).compile().as_text()
    return program.count(' dot(')

  policy = jax.checkpoint_policies.save_only_these_names(*names)
  # The local stream runs again even without a policy.
  assert products(layer) == 2 * 2 + 2 + 2 * 5
  assert products(jax.checkpoint(layer, policy=policy)) == products(layer) + again


@pytest.fixture
def hopper(monkeypatch):
  """Makes this machine look like one with an H100 to tracing and lowering."""
  monkeypatch.setattr(gpu_utils, '_compute_capability', lambda device=None: 9.0)
  monkeypatch.setattr(gpu_utils, 'has_mosaic_gpu_support', lambda device=None: True)
  monkeypatch.setattr(gpu, '_compute_capability', lambda: '9.0')
  if isinstance(library := gpu._tokamax(), str):
    assert 'install the extra "gpu"' in library
    pytest.skip(library)


def test_forward_and_backward_lower_to_the_kernels_of_the_library(hopper):
  bf16 = lambda *shape: jax.ShapeDtypeStruct((2, 1000, *shape), jnp.bfloat16)
  q, k, logits, ids = bf16(10, 128), bf16(2, 128), jax.ShapeDtypeStruct((2, 1000, 10), jnp.float32), bf16()
  ids = jax.ShapeDtypeStruct(ids.shape, jnp.int32)

  def lowered(call, *args):
    def run(args, d_out, segments, positions):
      out, pull = jax.vjp(lambda *args: call(*args, Ids(segments, positions)), *args)
      return out, pull(d_out)

    with kernels.kernels_for('gpu'):
      return jax.jit(run).trace(args, q, ids, ids).lower(lowering_platforms=('cuda',)).as_text()

  def gated_call(q, far_k, far_v, near_k, near_v, logits, ids):
    return kernels.gated_attention(q, ids, Keys(far_k, far_v, ids), Keys(near_k, near_v, ids), logits, 64)

  # One kernel forward; backward, one for dq and one for dk and dv. The output of the local stream is computed again.
  dense = lowered(lambda q, k, v, ids: kernels.attention(q, ids, Keys(k, v, ids)), q, k, k)
  assert dense.count('custom_call @mosaic_gpu') == 3
  gated = lowered(gated_call, q, k, k, k, k, logits)
  assert gated.count('custom_call @mosaic_gpu') == 2 + 1 + 2 * 2


def test_what_no_kernel_takes_runs_as_the_reference_and_is_logged_once(hopper, caplog):
  row = oracle.row('one', T=64)

  def reason(change=None, dtype=jnp.bfloat16, K=32):
    gpu._warn.cache_clear()
    gpu._tokamax.cache_clear()
    caplog.clear()
    resized = lambda x: jnp.asarray(x[..., :K] if K <= 32 else np.repeat(x, K // 32, axis=3), dtype)
    q, keys = resized(row.q), Keys(resized(row.far.k), resized(row.far.v), row.ids)
    with pytest.MonkeyPatch.context() as patch, kernels.kernels_for('gpu'), caplog.at_level(logging.WARNING):
      if change:
        patch.setattr(*change)
      outs = [kernels.attention(q, row.ids, keys) for _ in range(2)]
      kernels.attention_with_lse(q, row.ids, keys)
    gpu._tokamax.cache_clear()
    np.testing.assert_array_equal(outs[0], reference.attention(q, row.ids, keys))
    (message,) = [record.getMessage() for record in caplog.records]
    assert 'runs as plain JAX' in message
    return message

  assert 'multiply in bfloat16, got float32' in reason(dtype=jnp.float32)
  assert 'multiple of 16 up to 128, got 256' in reason(K=256) and 'got 8' in reason(K=8)
  assert 'got no NVIDIA GPU' in reason((gpu, '_compute_capability', lambda: ''))
  assert 'got 8.0' in reason((gpu, '_compute_capability', lambda: '8.0'))
  assert 'tokamax must be 0.0.12, got 0.0.13' in reason((gpu.importlib.metadata, 'version', lambda name: '0.0.13'))
  absent = types.SimpleNamespace(version=lambda name: (_ for _ in ()).throw(ModuleNotFoundError('no tokamax')))
  assert 'cannot be imported (ModuleNotFoundError: no tokamax)' in reason((gpu.importlib, 'metadata', absent))
  from jax.experimental.pallas import mosaic_gpu

  assert 'names that jax' in reason((mosaic_gpu, 'kernel', lambda body, *, out_type: None))


def test_the_log_says_that_this_machine_has_no_gpu(caplog):
  gpu._warn.cache_clear()
  row = oracle.row('one', T=64)
  with kernels.kernels_for('gpu'), caplog.at_level(logging.WARNING):
    kernels.attention(row.q, row.ids, row.far)
  assert [record.getMessage() for record in caplog.records] == [
      'attention on this GPU runs as plain JAX, slower than a kernel: the kernels need compute capability 9.0 (H100, H200)'
      ', got no NVIDIA GPU'
  ]
