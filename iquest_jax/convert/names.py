"""The published tensors of a model, and what each is in the parameter tree: one table for import and export.

Legend: L layers, D model width, F ffn width, H query heads, G key/value heads, K head size, V vocabulary.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import flax.traverse_util
import numpy as np

from iquest_jax.checkpoint.restore import abstract_params
from iquest_jax.model.sizes import ModelConfig

GATES = 'model.gate_projections.'
GATE_WEIGHT = 'layers/attention/gate_weight'
# LoopCoder-v2 normalises what its gate reads by a norm of its own.
GATE_NORM = GATES + '{n}.gate_norm.weight'
INPUT_NORM = 'model.layers.{n}.input_layernorm.weight'
# A matrix is transposed tile by tile, and all lines of memory that a tile touches fit the processor's cache.
_ROWS, _COLUMNS = 256, 64


class _Name(NamedTuple):
  """One tensor under both names.

  Attributes:
    ours: path in the parameter tree; below layers/ the leaf has a leading L, and `theirs` is one tensor per layer.
    theirs: published name; {n} is the layer.
    inputs: number of leading axes of ours that a matrix multiplies over; theirs is then [outputs, inputs], both
      flattened. 0: the same shape on both sides.
  """

  ours: str
  theirs: str
  inputs: int


_NAMES = (
    _Name('embedder/embedding', 'model.embed_tokens.weight', 0),
    _Name('layers/attention_norm/scale', INPUT_NORM, 0),
    _Name('layers/attention/query', 'model.layers.{n}.self_attn.q_proj.weight', 1),
    _Name('layers/attention/key', 'model.layers.{n}.self_attn.k_proj.weight', 1),
    _Name('layers/attention/value', 'model.layers.{n}.self_attn.v_proj.weight', 1),
    _Name('layers/attention/output', 'model.layers.{n}.self_attn.o_proj.weight', 2),
    _Name('layers/mlp_norm/scale', 'model.layers.{n}.post_attention_layernorm.weight', 0),
    _Name('layers/mlp/gate', 'model.layers.{n}.mlp.gate_proj.weight', 1),
    _Name('layers/mlp/up', 'model.layers.{n}.mlp.up_proj.weight', 1),
    _Name('layers/mlp/down', 'model.layers.{n}.mlp.down_proj.weight', 1),
    _Name('final_norm/scale', 'model.norm.weight', 0),
    _Name('head', 'lm_head.weight', 1),
)
_GATES = (
    _Name(GATE_WEIGHT, GATES + '{n}.weight', 0),
    _Name('layers/attention/gate_bias', GATES + '{n}.bias', 0),
)
# {path: axis along which a leaf is cut}, so that a piece is whole tensors or, of the leaves without L, rows of theirs.
AXES = {name.ours: 0 if '{n}' in name.theirs else name.inputs for name in _NAMES + _GATES}


class Tensor(NamedTuple):
  """A published tensor and its place in our tree: leaf `ours`, or the slice of one layer unless layer is None."""

  ours: str
  layer: int | None
  shape: tuple[int, ...]  # ours, without the leading L
  inputs: int

  @property
  def published_shape(self) -> tuple[int, ...]:
    if not self.inputs:
      return self.shape
    return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])

  def publish(self, array: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Contiguous rows of the published tensor, from ours or, without a layer, from a piece of ours along AXES."""
    if not self.inputs:
      yield np.ascontiguousarray(array, dtype)
      return
    matrix = array.reshape(math.prod(self.shape[: self.inputs]), -1)
    for row in range(0, matrix.shape[1], _ROWS):
      strip = matrix[:, row : row + _ROWS]
      rows = np.empty(strip.shape[::-1], dtype)
      for column in range(0, len(matrix), _COLUMNS):
        rows[:, column : column + _COLUMNS] = strip[column : column + _COLUMNS].T
      yield rows

  def adopt(self, rows: np.ndarray, out: np.ndarray) -> None:
    """Fills ours, or a piece of it along AXES, from rows of the published tensor; the inverse of `publish`."""
    if not self.inputs:
      out[...] = rows
      return
    matrix = out.reshape(math.prod(self.shape[: self.inputs]), -1)
    for row in range(0, len(rows), _COLUMNS):
      matrix[:, row : row + _COLUMNS] = rows[row : row + _COLUMNS].astype(np.float32, copy=False).T


def leaf_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
  """{'head': (D, V), ...}: the shape of every parameter."""
  leaves = flax.traverse_util.flatten_dict(abstract_params(model), sep='/')
  return {ours: leaf.shape for ours, leaf in leaves.items()}


def tensors(model: ModelConfig) -> dict[str, Tensor]:
  """Every published tensor of a model by its name, in the order of `Checkpoints.pieces`: leaf by leaf."""
  shapes, found = leaf_shapes(model), {}
  for name in sorted(_NAMES + (_GATES if model.loops > 1 else ()), key=lambda name: name.ours.split('/')):
    stacked = '{n}' in name.theirs
    for layer in range(model.layers) if stacked else (None,):
      found[name.theirs.format(n=layer)] = Tensor(name.ours, layer, shapes[name.ours][stacked:], name.inputs)
  return found
