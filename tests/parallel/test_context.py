"""Attention of split rows equals attention of whole ones: any number of devices, both transports, any packing.

Rows of T 64 in four layouts: one document; boundaries inside every halo; boundaries exactly at every chunk's edge;
documents of any length with padding at the end. The halo is shrunk to 8 rows, so that chunks are longer (context 2), as
long (4) and shorter (8) than the halo.
"""

import functools
import itertools
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
from iquest_jax.kernels.gated_attention import Halo, Ids
from iquest_jax.model import transformer
from iquest_jax.parallel import context, ring

from tests.model.small_models import QUICK

T, H, G, K = 64, 4, 2, 8
HALO = 8
WINDOW = {1: 9, 2: 9, 4: 9, 8: 5}
LAYOUTS = ('one document', 'boundary in every halo', 'boundary at every edge', 'any lengths and padding')
GRADIENTS = ('q', 'k1', 'v1', 'k2', 'v2', 'gate logits')
NAMES = ('gated', *(f'gated d {name}' for name in GRADIENTS), 'dense', *(f'dense d {name}' for name in GRADIENTS[:3]))


@pytest.fixture(autouse=True)
def _small_halo(monkeypatch):
  monkeypatch.setattr(context, 'HALO', HALO)


def ids_of(lengths) -> tuple[np.ndarray, np.ndarray]:
  """Segment ids and positions of a row of documents; what is left is padding."""
  segments, positions = np.zeros(T, np.int32), np.zeros(T, np.int32)
  for segment, (end, length) in enumerate(zip(itertools.accumulate(lengths), lengths), start=1):
    segments[end - length : end], positions[end - length : end] = segment, np.arange(length)
  return segments, positions


def layouts(ways) -> Ids:
  """[4, T] in natural order, boundaries where a row over `ways` devices has its chunks."""
  chunk = T // (2 * ways)
  inside = [chunk - 2, *[chunk] * (2 * ways - 1), 2]
  rows = [ids_of(lengths) for lengths in ([T], inside, [chunk] * 2 * ways, [3, 19, 1, 12, 16, 7])]
  return Ids(*map(np.stack, zip(*rows)))


def arrays(seed=0):
  """(q, k1, v1, k2, v2, gate logits) and the gradient of the output, of four rows."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal((4, T, *shape), np.float32)
  return [draw(H, K), *(draw(G, K) for _ in range(4)), draw(H)], draw(H, K)


def both(gated, dense, ids: Ids, order, mesh=None, dtype=jnp.float32):
  """Outputs and gradients of the gated and the dense attention, by NAMES and in natural order."""
  (args, d_out), ids = arrays(), Ids(*(x[:, order] for x in ids))
  args, d_out = [x[:, order].astype(dtype) for x in args], d_out[:, order].astype(dtype)
  args[-1] = args[-1].astype(jnp.float32)

  @functools.partial(jax.jit, compiler_options=QUICK)
  def run(args, d_out, ids):
    out, pull = jax.vjp(lambda *args: gated(*args, ids), *args)
    dense_out, dense_pull = jax.vjp(lambda *args: dense(*args, ids), *args[:3])
    return out, *pull(d_out), dense_out, *dense_pull(d_out)

  if mesh is None:
    values = run(args, d_out, ids)
  else:
    with jax.set_mesh(mesh):
      values = run(args, d_out, ids)
  return {name: np.float32(value)[:, np.argsort(order)] for name, value in zip(NAMES, values, strict=True)}


@functools.cache
def whole(ways):
  """The same on one device, by the kernels."""
  return both(
      lambda *args: kernels.gated_attention(*args[:6], args[6], args[6], WINDOW[ways]),
      lambda q, k, v, ids: kernels.attention(q, k, v, ids, ids),
      layouts(ways),
      np.arange(T),
  )


def split(ways, transport, dtype=jnp.float32, **axes):
  shape = dict.fromkeys(sharding.AXES, 1) | {'context': ways} | axes
  mesh = sharding.make_mesh(shape, jax.devices()[: int(np.prod(list(shape.values())))])
  return both(
      lambda *args: context.gated_attention(*args, WINDOW[ways], transport),
      lambda *args: context.attention(*args, transport),
      layouts(ways),
      zigzag(T, ways),
      mesh,
      dtype,
  )


def differences(left, right):
  """Largest difference of each value and row, relative to the value's largest entry: {name: [4]}."""
  largest = lambda x: np.abs(x).max(axis=tuple(range(1, x.ndim)))
  return {name: largest(left[name] - right[name]) / np.abs(left[name]).max() for name in left}


def assert_same(left, right):
  for name, by_row in differences(left, right).items():
    for layout, difference in zip(LAYOUTS, by_row):
      assert difference < 1e-5, f'{name}, {layout}: {difference:.1e}'


@pytest.mark.parametrize('transport', context.TRANSPORTS)
@pytest.mark.parametrize('ways', [2, 4, 8])
def test_split_rows_give_the_output_and_every_gradient_of_whole_rows(ways, transport):
  assert_same(whole(ways), split(ways, transport))


@pytest.mark.parametrize('transport', context.TRANSPORTS)
def test_rows_positions_and_heads_are_split_at_once(transport):
  assert_same(whole(2), split(2, transport, data=2, tensor=2))


def test_heads_and_rows_are_split_where_positions_are_whole():
  assert_same(whole(1), split(1, 'ring', fsdp=4, tensor=2))


def test_without_a_mesh_or_on_one_device_the_kernel_is_called_as_it_is():
  assert_same(whole(1), split(1, 'all_gather'))


def test_in_bfloat16_the_ring_is_no_further_from_float32_than_one_launch():
  gathered, ring_of_four = (
      {name: by_row.max() for name, by_row in differences(whole(4), split(4, transport, jnp.bfloat16)).items()}
      for transport in ('all_gather', 'ring')
  )
  for name in NAMES:
    assert 1e-4 < ring_of_four[name] < 1.5 * gathered[name] + 2e-3, f'{name}: {ring_of_four[name]}, {gathered[name]}'
  assert max(ring_of_four.values()) < 3e-2


# ---------------------------------------------------------------- Faults that must show


def _masked(halo: Halo) -> Halo:
  return halo._replace(ids=jax.tree.map(jnp.zeros_like, halo.ids))


def _turned(halo: Halo) -> Halo:
  """The halos of the two chunks of a device, exchanged in place and kept in ids."""
  turn = lambda x: jnp.roll(x, x.shape[1] // 2, axis=1)
  return halo._replace(k=turn(halo.k), v=turn(halo.v))


@pytest.mark.parametrize('transport', context.TRANSPORTS)
@pytest.mark.parametrize('fault', [_masked, _turned])
def test_a_wrong_halo_shows_wherever_a_document_crosses_a_chunk_and_nowhere_else(monkeypatch, transport, fault):
  right = context.neighbours
  monkeypatch.setattr(context, 'neighbours', lambda *args: fault(right(*args)))
  by_row = differences(whole(2), split(2, transport))['gated']
  one, inside, edge, any_lengths = by_row
  assert min(one, inside, any_lengths) > 1e-2 and edge < 1e-5


def test_the_halo_of_the_middle_chunk_is_not_counted_twice(monkeypatch):
  """Chunk n lies with chunk n - 1; a halo that repeated it would weigh its keys double."""

  def neighbours(k, v, ids, ways):
    halo, rows = right(k, v, ids, ways), HALO
    half, last = k.shape[1] // 2, jax.lax.axis_index(ring.AXIS) == ways - 1
    own = Halo(*jax.tree.map(lambda x: x[:, half - rows : half], (k, v, ids)))
    return jax.tree.map(lambda x, y: jnp.where(last, x.at[:, rows:].set(y), x), halo, own)

  right = context.neighbours
  monkeypatch.setattr(context, 'neighbours', neighbours)
  assert differences(whole(2), split(2, 'ring'))['gated'][0] > 1e-2


def test_statistics_of_a_hop_instead_of_the_row_show_in_the_gradients(monkeypatch):
  right = kernels.attention_backward

  def with_statistics_of_the_hop(q, k, v, d_out, lse, delta, q_ids, k_ids):
    out, lse = kernels.attention_with_lse(q, k, v, q_ids, k_ids)
    return right(q, k, v, d_out, lse, jnp.sum(d_out * out, axis=-1), q_ids, k_ids)

  monkeypatch.setattr(kernels, 'attention_backward', with_statistics_of_the_hop)
  found = {name: by_row.max() for name, by_row in differences(whole(2), split(2, 'ring')).items()}
  assert found['dense'] < 1e-5 and found['gated'] < 1e-5
  assert min(found[f'{kind} d {name}'] for kind in ('dense', 'gated') for name in ('q', 'k1', 'v1')) > 1e-2


# ---------------------------------------------------------------- What travels


def placed(mesh, shape, *names, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(mesh, sharding.spec(*names)))


def collectives(compiled):
  """(kind, sizes) of every collective of float arrays in a compiled program."""
  found = re.findall(r'= \(?f32\[([\d,]*)\].* (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)'
                     r'(?:-start)?\(', compiled.as_text())  # fmt: skip
  return [(kind, tuple(map(int, sizes.split(',')))) for sizes, kind in found if sizes]


@pytest.mark.parametrize('transport', context.TRANSPORTS)
def test_the_local_stream_sends_a_halo_and_the_ring_gathers_nothing(monkeypatch, transport):
  monkeypatch.undo()
  length, ways = 2048, 4
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1) | {'context': ways}, jax.devices()[:ways])
  row = ('batch', 'sequence')
  queries, gates = placed(mesh, (1, length, H, K), *row, 'heads', None), placed(mesh, (1, length, H), *row, 'heads')
  keys, ids = placed(mesh, (1, length, G, K), *row, None, None), placed(mesh, (1, length), *row, dtype=jnp.int32)

  def loss(args, ids):
    return jnp.sum(jnp.square(context.gated_attention(*args, ids, 64, transport)))

  with jax.set_mesh(mesh):
    step = jax.jit(jax.value_and_grad(loss))
    found = collectives(step.lower((queries, *[keys] * 4, gates), Ids(ids, ids)).compile())
  part, halo = (1, length // ways, G, K), (1, context.HALO, G, K)
  assert length // (2 * ways) > context.HALO
  if transport == 'ring':
    assert {size for kind, size in found if kind == 'collective-permute'} == {part, halo}
    assert not [size for kind, size in found if kind in ('all-gather', 'reduce-scatter', 'all-to-all')]
  else:
    assert {size for kind, size in found if kind == 'collective-permute'} == {halo}
    # With an axis of devices in front.
    assert [size for kind, size in found if kind == 'all-gather'] == [(ways, *part)] * 2
    assert [size for kind, size in found if kind == 'reduce-scatter'] == [(1, *part)] * 2


@pytest.mark.parametrize('chunk', [32, 512])
def test_the_loss_of_a_split_row_moves_no_hidden_states(chunk):
  length, width, vocab = 512, 16, 48
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1) | {'context': 2, 'fsdp': 2}, jax.devices()[:4])
  hidden = placed(mesh, (2, length, width), 'batch', 'sequence', None)
  targets = placed(mesh, (2, length), 'batch', 'sequence', dtype=jnp.int32)
  head = placed(mesh, (width, vocab), 'embed', 'vocab')

  def loss(hidden, head, targets):
    return sum(map(jnp.sum, target_logps(hidden, head, targets, chunk)))

  with jax.set_mesh(mesh):
    found = collectives(jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(hidden, head, targets).compile())
  moved = max(np.prod(size) for _, size in found)
  assert found and moved <= width * vocab < length // 2 * width


def test_the_backward_pass_under_remat_finds_output_and_statistics_once():
  """The ring names both itself; the output is not kept a second time, and the first ring is not run again."""
  mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1) | {'context': 2}, jax.devices()[:2])
  (q, k, v, *_), _ = arrays()
  ids = layouts(2)

  def layer(x, k, v):
    return jnp.sin(context.attention(jnp.sin(x), k, v, ids, 'ring'))

  def rings(policy):
    """How often a ring is met forward and backward, in units of one ring; and what is kept in between."""
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
def test_zigzag_gives_each_device_an_early_and_a_late_chunk_and_equal_work(ways):
  order = zigzag(T, ways)
  assert order.dtype == np.int32 and np.array_equal(np.sort(order), np.arange(T))
  assert np.array_equal(order[np.argsort(order)], np.arange(T))
  chunks = order.reshape(2 * ways, -1)[:, 0] // (T // (2 * ways))
  assert [tuple(pair) for pair in chunks.reshape(ways, 2)] == [(r, 2 * ways - 1 - r) for r in range(ways)]
  assert len(set((order + 1).reshape(ways, -1).sum(axis=1))) == 1  # a token sees as many as its position


@pytest.mark.parametrize(
    ('args', 'says'),
    [
        ((100, 4, 'ring'), 'data.context 100 does not divide by mesh.context 4 x two chunks a device = 8'),
        ((64, 2, 'ring', 18), r'loop_window 18 looks back 17 tokens.* takes 8 from its neighbour'),
        ((64, 8, 'ring', 6), r'loop_window 6 looks back 5 tokens.* takes 4 from its neighbour \(a chunk is 4'),
        ((64, 1, 'al_gather'), 'context_transport "al_gather" does not exist; did you mean "all_gather"'),
    ],
)
def test_what_does_not_fit_the_context_axis_is_refused_in_one_line(args, says):
  with pytest.raises(UserError, match=says):
    context.check(*args)


def test_what_fits_is_accepted():
  for ways, window in WINDOW.items():
    context.check(T, ways, 'ring', window)
  context.check(63, 1, 'all_gather', 64)
