"""Checkpoints in pieces: the same bits as whole ones, few pieces in memory, nothing committed after an error."""

import collections
import errno
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from iquest_jax.checkpoint import fingerprint, seal, stream
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.checkpoint.stream import Source
from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder

# A layer of w is larger than a piece, one of scale smaller.
SHAPES = {'head': (8, 50), 'layers': {'scale': (6, 8), 'w': (6, 8, 40)}, 'step': ()}
AXES = {'head': 1, 'layers/scale': 0, 'layers/w': 0}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
  monkeypatch.setattr(stream, 'PIECE_BYTES', 1000)


@pytest.fixture
def values():
  rng = np.random.default_rng(0)
  draw = lambda shape: np.asarray(rng.standard_normal(shape, np.float32))
  return jax.tree.map(draw, SHAPES, is_leaf=lambda node: isinstance(node, tuple))


@pytest.fixture
def checkpoints(tmp_path):
  return Checkpoints(StageFolder(tmp_path))


def flat(tree):
  return {fingerprint.leaf_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def sources(values, watch=lambda piece: None):
  """Of all but `step`, since a Source has an axis."""

  def source(path, leaf):
    axis = AXES[fingerprint.leaf_path(path)]

    def read(start, stop):
      piece = np.take(leaf, range(start, stop), axis)
      watch(piece)
      return piece

    return Source(leaf.shape, axis, read)

  return jax.tree_util.tree_map_with_path(source, {name: leaf for name, leaf in values.items() if name != 'step'})


def joined(pieces, axes):
  """{path: leaf} from pieces, which must follow one another."""
  leaves = collections.defaultdict(list)
  for path, start, piece in pieces:
    axis = axes.get(path, 0)
    assert start == sum(earlier.shape[axis] for earlier in leaves[path])
    leaves[path].append(piece)
  join = lambda path, parts: np.concatenate(parts, axes.get(path, 0)) if parts[0].ndim else parts[0]
  return {path: join(path, parts) for path, parts in leaves.items()}


def assert_same(got, want):
  assert list(got) == list(want)
  for path in want:
    assert got[path].dtype == want[path].dtype
    np.testing.assert_array_equal(got[path], want[path])


@pytest.mark.parametrize('axes', [{}, AXES, {'head': 1, 'layers/w': 2}], ids=str)
def test_pieces_along_any_axis_make_the_leaves_that_were_saved(axes, values, checkpoints):
  checkpoints.save(1, jax.tree.map(jnp.asarray, values), None, {})
  checkpoints.wait()
  assert_same(joined(checkpoints.pieces(1, axes), axes), flat(values))


def test_each_layer_is_stored_alone_and_small_ones_are_read_together(values, checkpoints):
  checkpoints.save(1, jax.tree.map(jnp.asarray, values), None, {})
  checkpoints.wait()
  sizes = collections.defaultdict(list)
  for path, _, piece in checkpoints.pieces(1, AXES):
    sizes[path].append(piece.shape)
  assert sizes['layers/w'] == [(1, 8, 40)] * 6
  assert sizes['layers/scale'] == [(6, 8)]
  assert len(sizes['head']) == 2 and sizes['head'][0] == (8, 25)


def test_layers_are_stored_alone_however_the_parameters_are_sharded(values, checkpoints):
  mesh = Mesh(np.array(jax.devices()[:8]), ('fsdp',))
  split = {'head': P('fsdp'), 'layers': {'scale': P(None, 'fsdp'), 'w': P(None, None, 'fsdp')}, 'step': P()}
  place = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec))
  checkpoints.save(1, jax.tree.map(place, values, split), None, {})
  checkpoints.wait()
  pieces = list(checkpoints.pieces(1, AXES))
  assert_same(joined(pieces, AXES), flat(values))
  assert [piece.shape for path, _, piece in pieces if path == 'layers/w'] == [(1, 8, 40)] * 6


def test_a_streamed_checkpoint_is_one_that_was_saved_whole(values, checkpoints, tmp_path):
  params = {name: leaf for name, leaf in values.items() if name != 'step'}
  checkpoints.save_streamed(0, sources(values), {'size': 'tiny'})
  restored = checkpoints.restore_params(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params))
  assert_same(flat(jax.tree.map(np.asarray, restored)), flat(params))
  assert checkpoints.lineage()['end_fingerprint'] == fingerprint.combine(fingerprint.fingerprints(params))
  assert seal.damage(checkpoints.folder / '0', 'integrity/files.json') is None
  assert not checkpoints.has_optimizer(0)
  assert_same(joined(checkpoints.pieces(0, AXES), AXES), flat(params))


def test_at_most_two_pieces_are_in_memory_while_writing(values, checkpoints):
  alive, most = [], []

  def watch(piece):
    alive.append(weakref.ref(piece))
    most.append(sum(ref() is not None for ref in alive))

  checkpoints.save_streamed(0, sources(values, watch), {})
  assert len(alive) == 9 and max(most) == 2


def test_at_most_two_pieces_are_in_memory_while_reading(values, checkpoints):
  checkpoints.save_streamed(0, sources(values), {})
  alive, most = [], []
  for _, _, piece in checkpoints.pieces(0, AXES):
    alive.append(weakref.ref(piece))
    most.append(sum(ref() is not None for ref in alive))
    del piece
  assert len(alive) == 9 and max(most) == 1  # of those handed out; one more is being read


def test_a_source_that_fails_commits_nothing_and_the_next_save_succeeds(values, checkpoints):
  def fail_late(piece, seen=[]):  # noqa: B006
    seen.append(piece)
    if len(seen) == 7:
      raise UserError('model.safetensors: damaged')

  with pytest.raises(UserError, match='^model.safetensors: damaged$'):
    checkpoints.save_streamed(0, sources(values, fail_late), {})
  assert checkpoints.steps() == []
  checkpoints.clear_leftovers()
  assert not list(checkpoints.folder.iterdir())
  checkpoints.save_streamed(0, sources(values), {})
  assert checkpoints.steps() == [0]


def test_a_streamed_checkpoint_that_cannot_be_sealed_is_reported_in_one_line(values, checkpoints, monkeypatch):
  def refuse(_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(seal, 'to_text', refuse)
  with pytest.raises(UserError, match='checkpoints/0: this checkpoint was not saved: No space left on device; '):
    checkpoints.save_streamed(0, sources(values), {})
  assert not list(checkpoints.folder.iterdir())


def test_a_piece_that_is_not_as_trained_is_reported_after_its_leaf(values, checkpoints):
  checkpoints.save_streamed(0, sources(values), {})
  file = checkpoints.folder / '0/integrity/fingerprints.json'
  file.write_text(file.read_text().replace(fingerprint.fingerprints(values)['layers/scale'], '0' * 16))
  read = []
  with pytest.raises(UserError, match='params/layers/scale has fingerprint'):
    for path, _, _ in checkpoints.pieces(0, AXES):
      read.append(path)
  assert read == ['head', 'head', 'layers/scale']
