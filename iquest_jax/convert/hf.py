"""Published checkpoints (Hugging Face layout), import and export: one table of names, safetensors files, config.json.

An import holds the parameters in memory once, an export one leaf and one shard. Every header is checked before any data is
read: a loop checkpoint relabelled as a dense one would run once through the layers and still write fluent text, so a
mismatch of architecture and tensors is refused.

Legend: L layers, D model width, F ffn width, H query heads, G key/value heads, K head size, V vocabulary.
"""

import collections
import contextlib
import json
import math
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any, NamedTuple

import flax.traverse_util
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from iquest_jax.checkpoint.restore import abstract_params
from iquest_jax.convert import hf_config
from iquest_jax.errors import UserError, check_name
from iquest_jax.model.sizes import ModelConfig

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
SHARD_BYTES = 5 * 10**9
DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16)}
# Every value of these is exact in float32.
_READABLE = ('F32', 'BF16', 'F16')


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
    _Name('layers/attention_norm/scale', 'model.layers.{n}.input_layernorm.weight', 0),
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
    _Name('layers/attention/gate_weight', 'model.gate_projections.{n}.weight', 0),
    _Name('layers/attention/gate_bias', 'model.gate_projections.{n}.bias', 0),
)


class _Tensor(NamedTuple):
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

  def publish(self, leaf: np.ndarray, dtype: np.dtype) -> np.ndarray:
    array = (leaf if self.layer is None else leaf[self.layer]).astype(dtype)
    # safetensors writes memory as it is laid out, so it would silently store a transposed view wrong.
    return np.ascontiguousarray(array.reshape(self.published_shape[::-1]).T if self.inputs else array)

  def adopt(self, array: np.ndarray) -> np.ndarray:
    return array.T.reshape(self.shape) if self.inputs else array


def from_hf(model_dir: str | pathlib.Path) -> tuple[ModelConfig, dict[str, Any]]:
  """Reads a published checkpoint, dense or looped.

  Args:
    model_dir: folder with config.json and model.safetensors, or shards with their index.

  Returns:
    (ModelConfig, params): params as nested dicts of float32 numpy arrays in the shapes of `Transformer`.

  Raises:
    UserError: a missing or unreadable file, an unknown architecture, an option this model does not compute, or tensors
      that are not exactly those of the architecture.
  """
  model_dir = pathlib.Path(model_dir)
  model = hf_config.read(model_dir / 'config.json')
  shapes = _leaf_shapes(model)
  tensors = _tensors(model, shapes)
  with contextlib.ExitStack() as stack:
    owners = _owners(model_dir, stack)
    _check_names(model_dir, model, tensors, owners)
    for name, tensor in tensors.items():
      _check_tensor(name, tensor, *owners[name])
    leaves = {ours: np.empty(shape, np.float32) for ours, shape in shapes.items()}
    for name, tensor in tensors.items():
      index = ... if tensor.layer is None else tensor.layer
      leaves[tensor.ours][index] = tensor.adopt(owners[name][1].get_tensor(name))
  return model, flax.traverse_util.unflatten_dict(leaves, sep='/')


def to_hf(
    model: ModelConfig, leaves: Iterable[tuple[str, np.ndarray]], out_dir: str | pathlib.Path, dtype: str = 'float32'
) -> None:
  """Writes a checkpoint under the published names; the folder appears atomically.

  Args:
    leaves: (path, float32 array) of every parameter of `Transformer`; in order of path, so that shards fill one by one.
    out_dir: must not exist; more than SHARD_BYTES of tensors are split into shards with an index.
    dtype: 'float32' keeps every bit of the parameters; 'bfloat16' rounds to nearest, and keeps every bit of weights
      that were imported from bfloat16.

  Raises:
    UserError: the folder exists or cannot be written, the model has no published format, or other leaves are given.
  """
  out_dir = pathlib.Path(out_dir)
  check_name('export: dtype', dtype, DTYPES)
  if model.loops > 1 and model.loop_variant != 'released':
    raise UserError(
        f'export: loop_variant "{model.loop_variant}" has no published format; only "released" loops can be exported'
    )
  if out_dir.exists():
    raise UserError(f'export: {out_dir} exists; choose another --out or remove it')
  shapes, partial = _leaf_shapes(model), out_dir.with_name(out_dir.name + '.partial')
  try:
    # A killed export leaves one.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_shards(partial, shapes, _tensors(model, shapes), leaves, DTYPES[dtype])
    hf_config.write(partial / 'config.json', model, dtype)
    partial.rename(out_dir)
  except Exception as error:
    shutil.rmtree(partial, ignore_errors=True)
    if isinstance(error, (OSError, SafetensorError)):
      raise UserError(f'export: cannot write {out_dir}: {error}; choose another --out or make room') from error
    raise


def _leaf_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
  """{'head': (D, V), ...}: the shape of every parameter."""
  leaves = flax.traverse_util.flatten_dict(abstract_params(model), sep='/')
  return {ours: leaf.shape for ours, leaf in leaves.items()}


def _tensors(model: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> dict[str, _Tensor]:
  """Every published tensor of a model by its name, in the order of writing: leaf by leaf."""
  tensors = {}
  for name in sorted(_NAMES + (_GATES if model.loops > 1 else ()), key=lambda name: name.ours.split('/')):
    stacked = '{n}' in name.theirs
    for layer in range(model.layers) if stacked else (None,):
      tensors[name.theirs.format(n=layer)] = _Tensor(name.ours, layer, shapes[name.ours][stacked:], name.inputs)
  return tensors


def _weight_files(model_dir: pathlib.Path) -> list[pathlib.Path]:
  """The files that hold the tensors: those in the index, if one exists."""
  index = model_dir / INDEX
  if not index.exists():
    return [model_dir / SINGLE]
  try:
    names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{index}: not an index of shards ({error}); fetch the file again') from error
  # A name with folders in it would read outside the checkpoint.
  for name in names:
    if not isinstance(name, str) or pathlib.PurePath(name).name != name:
      raise UserError(f'{index}: shard "{name}" is not a file name; fetch the file again')
  return [model_dir / name for name in names]


def _owners(model_dir: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, tuple[pathlib.Path, Any]]:
  """{tensor name: (path, open file)}; files are memory-mapped, so a tensor is read on request.

  Raises:
    UserError: a file is missing or damaged, or two files hold the same tensor.
  """
  owners = {}
  for path in _weight_files(model_dir):
    try:
      file = stack.enter_context(safe_open(path, framework='numpy'))
    except (OSError, SafetensorError) as error:
      raise UserError(f'{path}: missing or damaged ({error}); fetch the file again') from error
    for name in file.keys():
      if name in owners:
        both = f'{owners[name][0].name} and {path.name}'
        raise UserError(f'{model_dir}: tensor {name} is in both {both}; fetch the files again')
      owners[name] = path, file
  return owners


def _check_names(model_dir: pathlib.Path, model: ModelConfig, tensors, owners) -> None:
  """Raises UserError unless the tensors are exactly those of the architecture."""
  gates = any(name.startswith('model.gate_projections.') for name in owners)
  if gates and model.loops == 1:
    raise UserError(
        f'{model_dir}: config.json names a dense architecture, but the files hold gate tensors: a loop checkpoint '
        'relabelled as dense; fix its architectures, model_type (iquestloopcoder), loop_num and loop_window_size'
    )
  if not gates and model.loops > 1:
    raise UserError(
        f'{model_dir}: config.json names the loop architecture, but the files hold no gate tensors; import a dense '
        'checkpoint as IQuestCoderForCausalLM and fold it by the stage loop_adapt'
    )
  differences = {'is missing': tensors.keys() - owners.keys(), 'is unexpected': owners.keys() - tensors.keys()}
  for what, wrong in differences.items():
    if wrong:
      raise UserError(f'{model_dir}: tensor {min(wrong)} {what} (and {len(wrong) - 1} more); fix config.json or the files')


def _check_tensor(name: str, tensor: _Tensor, path: pathlib.Path, file) -> None:
  """Raises UserError unless shape and type in the header are those of the architecture."""
  header = file.get_slice(name)
  shape = tuple(header.get_shape())
  if shape != tensor.published_shape:
    raise UserError(f'{path}: tensor {name} must be {tensor.published_shape} by config.json, got {shape}; fix one of them')
  if header.get_dtype() not in _READABLE:
    raise UserError(f'{path}: tensor {name} must be one of {", ".join(_READABLE)}, got {header.get_dtype()}')


def _write_shards(
    folder: pathlib.Path,
    shapes: dict[str, tuple[int, ...]],
    tensors: dict[str, _Tensor],
    leaves: Iterable[tuple[str, np.ndarray]],
    dtype: np.dtype,
) -> None:
  """Writes each shard as soon as its tensors are complete, and an index if there are several shards."""
  weight_map, missing = _weight_map(tensors, dtype), dict(shapes)
  full, filling = collections.Counter(weight_map.values()), collections.defaultdict(dict)
  for ours, leaf in leaves:
    leaf, wanted = np.asarray(leaf), missing.pop(ours, None)  # a view of an array on the CPU
    if leaf.shape != wanted:
      raise UserError(f'export: parameter {ours} must be {wanted or "absent"}, got {leaf.shape}')
    for name, tensor in tensors.items():
      if tensor.ours == ours:
        file = weight_map[name]
        filling[file][name] = tensor.publish(leaf, dtype)
        if len(filling[file]) == full[file]:
          # transformers requires this mark of PyTorch's layout: matrices as [outputs, inputs].
          save_file(filling.pop(file), folder / file, metadata={'format': 'pt'})
    del leaf  # before the next is read
  for ours, wanted in missing.items():
    raise UserError(f'export: parameter {ours} must be {wanted}, got none')
  if len(full) > 1:
    total = sum(math.prod(tensor.shape) for tensor in tensors.values()) * dtype.itemsize
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def _weight_map(tensors: dict[str, _Tensor], dtype: np.dtype) -> dict[str, str]:
  """The file of each tensor: one, or shards of at most SHARD_BYTES; a larger tensor gets a shard of its own."""
  shards, room = [[]], SHARD_BYTES
  for name, tensor in tensors.items():
    size = math.prod(tensor.shape) * dtype.itemsize
    if size > room and shards[-1]:
      shards.append([])
      room = SHARD_BYTES
    shards[-1].append(name)
    room -= size
  if len(shards) == 1:
    return dict.fromkeys(shards[0], SINGLE)
  file_name = f'model-{{:05d}}-of-{len(shards):05d}.safetensors'.format
  return {name: file_name(number) for number, names in enumerate(shards, 1) for name in names}
