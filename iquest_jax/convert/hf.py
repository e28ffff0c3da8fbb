"""Published checkpoints (Hugging Face layout), import and export, a few tensors in memory at a time.

Every header is checked before any data is read: a loop checkpoint relabelled as a dense one would run once through the
layers and still write fluent text, so a mismatch of architecture and tensors is refused.
"""

import json
import pathlib
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from iquest_jax import hosts
from iquest_jax.checkpoint.stream import Source
from iquest_jax.convert import files, hf_config, names, tokenizer_files
from iquest_jax.errors import UserError, check_name
from iquest_jax.model.sizes import ModelConfig
from iquest_jax.text.tokenizer import Tokenizer


def from_hf(model_dir: str | pathlib.Path) -> tuple[ModelConfig, dict[str, Any]]:
  """(ModelConfig, parameters) of a published checkpoint; as `sources`, but nested dicts of float32 numpy arrays."""
  model, leaves = sources(model_dir)
  return model, jax.tree.map(lambda leaf: leaf.read(0, leaf.shape[leaf.axis]), leaves)


def sources(model_dir: str | pathlib.Path) -> tuple[ModelConfig, dict[str, Any]]:
  """Opens a published checkpoint, dense or looped.

  Args:
    model_dir: folder with config.json and model.safetensors, or shards with their index.

  Returns:
    (ModelConfig, sources): parameters in the shapes of `Transformer` as nested dicts of Source.

  Raises:
    UserError: a missing or unreadable file, an unknown architecture, an option this model does not compute, or tensors
      that are not exactly those of the architecture; a source raises it where a file has changed since.
  """
  model_dir = pathlib.Path(model_dir)
  model = hf_config.read(model_dir / 'config.json')
  tensors, stored = names.tensors(model), files.find(model_dir)
  shapes = {name: tensor.published_shape for name, tensor in tensors.items()}
  if model.loop_variant == 'rescaled':
    shapes |= {names.GATE_NORM.format(n=layer): (model.d_model,) for layer in range(model.layers)}
  _check_names(model_dir, model, shapes.keys(), stored.keys())
  for name, shape in shapes.items():
    stored[name].check(shape)
  of_leaf: dict[str, list[str]] = {}
  for name, tensor in tensors.items():
    of_leaf.setdefault(tensor.ours, []).append(name)
  leaves = {
      ours: _source(ours, shape, [(tensors[name], stored[name]) for name in of_leaf[ours]])
      for ours, shape in names.leaf_shapes(model).items()
  }
  if model.loop_variant == 'rescaled':
    leaves[names.GATE_WEIGHT] = _with_gate_norm(leaves[names.GATE_WEIGHT], stored)
  return model, flax.traverse_util.unflatten_dict(leaves, sep='/')


def to_hf(
    model: ModelConfig,
    pieces: Iterable[tuple[str, int, np.ndarray]],
    out_dir: str | pathlib.Path,
    dtype: str = 'float32',
    architecture: str = '',
    tokenizer: Tokenizer | None = None,
) -> None:
  """Writes a checkpoint under the published names; the folder appears atomically.

  Of several processes, each writes its own of the files, and the first everything else; all call this together.

  Args:
    pieces: (path, start, piece) of every parameter of `Transformer`, float32, as Checkpoints.pieces cuts them along
      names.AXES; those that `readers` gives to this process suffice.
    out_dir: must not exist; more than files.SHARD_BYTES of tensors are split into shards with an index.
    dtype: 'float32' keeps every bit of the parameters; 'bfloat16' rounds to nearest, and keeps every bit of weights
      that were imported from bfloat16 (but which NaN it was).
    architecture: 'llama' names a dense model so, for libraries that do not know IQuestCoderForCausalLM.
    tokenizer: written too, with its chat template; None writes weights only.

  Raises:
    UserError: the folder exists or cannot be written, the model has no published format, the tokenizer has ids that it
      does not know, or other parameters are given.
  """
  out_dir = pathlib.Path(out_dir)
  check_name('export: dtype', dtype, files.DTYPES)
  config = hf_config.of(model, dtype, architecture)
  if tokenizer:
    tokenizer_files.check_size('export', tokenizer, model)
  if out_dir.exists():
    raise UserError(f'export: {out_dir} exists; choose another --out or remove it')
  partial, first = out_dir.with_name(out_dir.name + '.partial'), jax.process_index() == 0
  hosts.barrier('export checked')
  try:
    if first:
      # A killed export leaves one.
      shutil.rmtree(partial, ignore_errors=True)
      partial.mkdir(parents=True)
    hosts.barrier('export made')
    _write_tensors(partial, model, pieces, dtype)
    hosts.barrier('export written')
    if first:
      if tokenizer:
        config |= tokenizer_files.ids(tokenizer)
        tokenizer_files.write(partial, tokenizer, model)
      (partial / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
      partial.rename(out_dir)
  except Exception as error:
    shutil.rmtree(partial, ignore_errors=True)
    if isinstance(error, OSError):
      raise UserError(f'export: cannot write {out_dir}: {error}; choose another --out or make room') from error
    raise


def readers(model: ModelConfig, dtype: str) -> Callable[[str, int, int], list[int]]:
  """(path, start, stop) of a piece to the processes whose files hold some of it, for Checkpoints.pieces."""
  tensors = names.tensors(model)
  whose = files.writers({name: tensor.published_shape for name, tensor in tensors.items()}, files.DTYPES[dtype])
  writer = {(tensor.ours, tensor.layer): whose[name] for name, tensor in tensors.items()}

  def of_piece(ours, start, stop):
    if (ours, None) in writer:
      return [writer[ours, None]]
    return sorted({writer.get((ours, layer), 0) for layer in range(start, stop)})

  return of_piece


def _source(ours: str, shape: tuple[int, ...], stored: list[tuple[names.Tensor, files.Stored]]) -> Source:
  """Leaf `ours`, from one tensor per layer, or from rows of a single one."""
  axis = names.AXES[ours]

  def read(start, stop):
    out = np.empty((*shape[:axis], stop - start, *shape[axis + 1 :]), np.float32)
    if stored[0][0].layer is None:
      stored[0][0].adopt(stored[0][1].rows(start, stop), out)
    else:
      for (tensor, where), layer in zip(stored[start:stop], out, strict=True):
        tensor.adopt(where.rows(), layer)
    return out

  return Source(shape, axis, read)


def _with_gate_norm(weight: Source, stored: dict[str, files.Stored]) -> Source:
  """Gate weights of LoopCoder-v2 for a gate that reads what its layer reads: hidden states after the layer's norm.

  Theirs reads the same hidden states after a norm of its own; both divide by the same root mean square, so that the
  weights can take the ratio of the two scales.
  """

  def read(start, stop):
    piece = weight.read(start, stop)
    for layer, gate_HD in zip(range(start, stop), piece):
      own, layers = (stored[name.format(n=layer)] for name in (names.GATE_NORM, names.INPUT_NORM))
      with np.errstate(divide='ignore', invalid='ignore'):
        gate_HD *= own.rows().astype(np.float32) / layers.rows().astype(np.float32)
      if not np.isfinite(gate_HD).all():
        raise UserError(f'{own.path}: {own.name} cannot be merged into the gate: {layers.name} has zeros')
    return piece

  return Source(weight.shape, weight.axis, read)


def _check_names(model_dir: pathlib.Path, model: ModelConfig, wanted, stored) -> None:
  """Raises UserError unless the tensors are exactly those of the architecture."""
  gates = any(name.startswith(names.GATES) for name in stored)
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
  for what, wrong in {'is missing': wanted - stored, 'is unexpected': stored - wanted}.items():
    if wrong:
      more = f'(and {len(wrong) - 1} more)'
      raise UserError(f'{model_dir}: tensor {min(wrong)} {what} {more}; fix config.json or the files')


def _write_tensors(folder: pathlib.Path, model: ModelConfig, pieces, dtype_name: str) -> None:
  """Writes every tensor that this process is to write, in the order of the pieces."""
  tensors, shapes, dtype = names.tensors(model), names.leaf_shapes(model), files.DTYPES[dtype_name]
  whose, process = readers(model, dtype_name), jax.process_index()
  published = {(tensor.ours, tensor.layer): name for name, tensor in tensors.items()}
  shards = files.Shards(folder, {name: tensor.published_shape for name, tensor in tensors.items()}, dtype)
  missing, read = list(dict.fromkeys(tensor.ours for tensor in tensors.values())), 0

  def refuse(ours, got):
    raise UserError(f'export: parameter {ours} must be {shapes.get(ours, "absent")}, got {got}')

  def pass_over(ours, start):
    """Takes as read what other processes write, up to row `start` of `ours`."""
    nonlocal read
    rest = lambda: (missing[0], read, shapes[missing[0]][names.AXES[missing[0]]])
    while missing and missing[0] != ours and process not in whose(*rest()):
      missing.pop(0)
      read = 0
    if missing and missing[0] == ours and read < start and process not in whose(ours, read, start):
      read = start

  try:
    for ours, start, piece in pieces:
      if ours not in missing:
        refuse(ours, piece.shape)
      pass_over(ours, start)
      if ours != missing[0]:
        refuse(missing[0], f'{read} of its rows' if read else 'none')
      axis, wanted = names.AXES[ours], shapes[ours]
      length = piece.shape[axis]
      if start != read or read + length > wanted[axis] or piece.shape != (*wanted[:axis], length, *wanted[axis + 1 :]):
        refuse(ours, f'{piece.shape} at {start}')
      stacked = (ours, None) not in published
      for layer, array in enumerate(piece, start) if stacked else [(None, piece)]:
        name = published[ours, layer]
        if process not in whose(ours, layer or 0, (layer or 0) + 1):
          continue
        for rows in tensors[name].publish(array, dtype):
          shards.append(name, rows)
      read += length
      if read == wanted[axis]:
        missing.pop(0)
        read = 0
      del piece, array, rows  # before the next is read
    pass_over('', 0)
    if missing:
      refuse(missing[0], f'{read} of its rows' if read else 'none')
    shards.finish()
  finally:
    shards.close()
