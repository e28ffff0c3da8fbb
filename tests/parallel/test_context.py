"""Attention of split rows equals attention of whole rows: any number of devices, both transports, any packing."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iquest_jax import sharding
from iquest_jax.batch import zigzag
from iquest_jax.errors import UserError
from iquest_jax.kernels import gated_attention as kernels
from iquest_jax.kernels.cross_entropy import target_logps
from iquest_jax.kernels.gated_attention import Ids, Keys
from iquest_jax.model import transformer
from iquest_jax.parallel import context, halo

from tests.parallel.split_rows import (
  HALO,
  NAMES,
  WINDOW,
  G,
  H,
  K,
  T,
  arrays,
  assert_same,
  differences,
  layouts,
  mesh_of,
  split,
  whole,
)  # fmt: skip


@pytest.mark.parametrize('transport', context.TRANSPORTS)
@pytest.mark.parametrize('ways', [2, 4, 8])
def test_split_rows_give_the_output_and_every_gradient_of_whole_rows(ways, transport):
  assert_same(whole(ways), split(ways, transport))


@pytest.mark.parametrize('transport', context.TRANSPORTS)
def test_rows_positions_and_heads_are_split_together(transport):
  assert_same(whole(2), split(2, transport, data=2, tensor=2))


def test_heads_and_rows_are_split_while_positions_are_whole():
  assert_same(whole(1), split(1, 'ring', fsdp=4, tensor=2))


def test_one_device_calls_the_kernel_directly():
  assert_same(whole(1), split(1, 'all_gather'))


def test_the_ring_in_bfloat16_is_as_close_to_float32_as_one_launch():
  gathered, ring_of_four = (
      {name: by_row.max() for name, by_row in differences(whole(4), split(4, transport, jnp.bfloat16)).items()}
      for transport in ('all_gather', 'ring')
  )
  for name in NAMES:
    assert 1e-4 < ring_of_four[name] < 1.5 * gathered[name] + 2e-3, f'{name}: {ring_of_four[name]}, {gathered[name]}'
  assert max(ring_of_four.values()) < 3e-2


# ---------------------------------------------------------------- Faults that must show


def _masked(before: Keys) -> Keys:
  return before._replace(ids=jax.tree.map(jnp.zeros_like, before.ids))


def _swapped(before: Keys) -> Keys:
  """Keys and values of the two halos of a device swapped, ids unchanged."""
  swap = lambda x: jnp.roll(x, x.shape[1] // 2, axis=1)
  return before._replace(k=swap(before.k), v=swap(before.v))


@pytest.mark.parametrize('transport', context.TRANSPORTS)
@pytest.mark.parametrize('fault', [_masked, _swapped])
def test_a_wrong_halo_shows_only_where_a_document_crosses_a_chunk(monkeypatch, transport, fault):
  right = halo.before_chunks
  monkeypatch.setattr(halo, 'before_chunks', lambda *args: fault(right(*args)))
  by_row = differences(whole(2), split(2, transport))['gated']
  one, inside, edge, any_lengths = by_row
  assert min(one, inside, any_lengths) > 1e-2 and edge < 1e-5


def test_the_halo_of_the_middle_chunk_is_not_counted_twice(monkeypatch):
  """Chunk n is on the device of chunk n - 1; a halo that repeated it would count its keys twice."""

  def repeating(near, most):
    before, rows = right(near, most), HALO
    half, last = near.k.shape[1] // 2, jax.lax.axis_index(sharding.CONTEXT) == jax.lax.axis_size(sharding.CONTEXT) - 1
    own = jax.tree.map(lambda x: x[:, half - rows : half], near)
    return jax.tree.map(lambda x, y: jnp.where(last, x.at[:, rows:].set(y), x), before, own)

  right = halo.before_chunks
  monkeypatch.setattr(halo, 'before_chunks', repeating)
  assert differences(whole(2), split(2, 'ring'))['gated'][0] > 1e-2


def test_statistics_of_a_hop_instead_of_the_row_show_in_the_gradients(monkeypatch):
  right = kernels.attention_backward

  def with_statistics_of_the_hop(q, q_ids, keys, d_out, lse, delta):
    out, lse = kernels.attention_with_lse(q, q_ids, keys)
    return right(q, q_ids, keys, d_out, lse, jnp.sum(d_out * out, axis=-1))

  monkeypatch.setattr(kernels, 'attention_backward', with_statistics_of_the_hop)
  largest = {name: by_row.max() for name, by_row in differences(whole(2), split(2, 'ring')).items()}
  assert largest['dense'] < 1e-5 and largest['gated'] < 1e-5
  assert min(largest[f'{kind} d {name}'] for kind in ('dense', 'gated') for name in ('q', 'k1', 'v1')) > 1e-2


# ---------------------------------------------------------------- What travels


def abstract(mesh, shape, *names, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(mesh, sharding.spec(*names)))


def collectives(compiled):
  """(kind, sizes) of every collective of float arrays in a compiled program."""
  matches = re.findall(r'= \(?f32\[([\d,]*)\].* (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)'
                       r'(?:-start)?\(', compiled.as_text())  # fmt: skip
  return [(kind, tuple(map(int, sizes.split(',')))) for sizes, kind in matches if sizes]


@pytest.mark.parametrize('transport', context.TRANSPORTS)
def test_the_local_stream_sends_a_halo_and_the_ring_gathers_nothing(transport):
  length, ways = 2048, 4
  mesh = mesh_of(context=ways)
  row = ('batch', 'sequence')
  queries, gates = abstract(mesh, (1, length, H, K), *row, 'heads', None), abstract(mesh, (1, length, H), *row, 'heads')
  keys, ids = abstract(mesh, (1, length, G, K), *row, None, None), abstract(mesh, (1, length), *row, dtype=jnp.int32)

  def loss(args, ids):
    q, far_k, far_v, near_k, near_v, logits = args
    far, near = Keys(far_k, far_v, ids), Keys(near_k, near_v, ids)
    return jnp.sum(jnp.square(context.gated_attention(q, far, near, logits, 64, transport)))

  with jax.set_mesh(mesh):
    step = jax.jit(jax.value_and_grad(loss))
    moved = collectives(step.lower((queries, *[keys] * 4, gates), Ids(ids, ids)).compile())
  sizes = lambda *kinds: [size for kind, size in moved if kind in kinds]
  part, rows = (1, length // ways, G, K), (1, halo.ROWS, G, K)
  assert length // (2 * ways) > halo.ROWS
  if transport == 'ring':
    assert set(sizes('collective-permute')) == {part, rows}
    assert not sizes('all-gather', 'reduce-scatter', 'all-to-all')
  else:
    assert set(sizes('collective-permute')) == {rows}
    # With an axis of devices in front.
    assert sizes('all-gather') == [(ways, *part)] * 2
    assert sizes('reduce-scatter') == [(1, *part)] * 2


@pytest.mark.parametrize('chunk', [32, 512])
def test_the_loss_of_a_split_row_moves_no_hidden_states(chunk):
  length, width, vocab = 512, 16, 48
  mesh = mesh_of(context=2, fsdp=2)
  hidden = abstract(mesh, (2, length, width), 'batch', 'sequence', None)
  targets = abstract(mesh, (2, length), 'batch', 'sequence', dtype=jnp.int32)
  head = abstract(mesh, (width, vocab), 'embed', 'vocab')

  def loss(hidden, head, targets):
    return sum(map(jnp.sum, target_logps(hidden, head, targets, chunk)))

  with jax.set_mesh(mesh):
    moved = collectives(jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(hidden, head, targets).compile())
  assert moved and max(np.prod(size) for _, size in moved) <= width * vocab < length // 2 * width


def test_remat_keeps_the_output_and_statistics_of_the_ring_once():
  """The ring names both itself; the output is not kept twice, and the forward ring does not run again."""
  mesh = mesh_of(context=2)
  (q, k, v, *_), _ = arrays()
  ids = layouts(2)

  def layer(x, k, v):
    return jnp.sin(context.attention(jnp.sin(x), Keys(k, v, ids), 'ring'))

  def rings(policy):
    """How many rings run forward and backward, in units of one ring; and what is kept in between."""
    kept = jax.checkpoint(layer, policy=transformer.REMAT_POLICIES[policy])
    count = lambda function: str(jax.make_jaxpr(function)(q, k, v)).count('axis_index')
    residuals = jax.tree.leaves(jax.eval_shape(lambda *args: jax.vjp(kept, *args)[1], q, k, v))
    shapes = sorted(x.shape for x in residuals if x.ndim > 2)
    return count(lambda *args: jax.vjp(kept, *args)[1](q)) / count(layer), shapes

  with jax.set_mesh(mesh):
    assert rings('attention') == (2, sorted([q.shape, k.shape, v.shape, q.shape, (2 * 4, T // 2, H)]))
    assert rings('full') == (3, sorted([q.shape, k.shape, v.shape]))


# ---------------------------------------------------------------- Order and refusals


@pytest.mark.parametrize('ways', [1, 2, 4, 8])
def test_zigzag_gives_each_device_an_early_and_a_late_chunk(ways):
  order = zigzag(T, ways)
  assert order.dtype == np.int32 and np.array_equal(np.sort(order), np.arange(T))
  assert np.array_equal(order[np.argsort(order)], np.arange(T))
  chunks = order.reshape(2 * ways, -1)[:, 0] // (T // (2 * ways))
  assert [tuple(pair) for pair in chunks.reshape(ways, 2)] == [(r, 2 * ways - 1 - r) for r in range(ways)]
  assert len(set((order + 1).reshape(ways, -1).sum(axis=1))) == 1  # equal work: a token at position p sees p + 1


@pytest.mark.parametrize(
    ('args', 'says'),
    [
        ((100, 4, 'ring'), r'data.context must be a multiple of 2 x mesh.context = 8 .*got 100'),
        ((64, 2, 'ring', 18, 8), r'loop_window must be at most 9 .*got 18: a chunk has 16 tokens and takes at most 8'),
        ((64, 8, 'ring', 6), r'loop_window must be at most 5 .*got 6: a chunk has 4 tokens'),
        ((64, 1, 'al_gather'), 'context_transport "al_gather" does not exist; did you mean "all_gather"'),
    ],
)
def test_a_row_that_cannot_be_split_is_refused_in_one_line(args, says):
  with pytest.raises(UserError, match=says) as error:
    context.check(*args)
  assert '\n' not in str(error.value)


def test_a_row_that_can_be_split_is_accepted():
  for ways, window in WINDOW.items():
    context.check(T, ways, 'ring', window, HALO)
  context.check(63, 1, 'all_gather', 64)
