"""Exchange with published checkpoints (Hugging Face layout: config.json and safetensors).

  python -m launch.export from_hf MODEL --workdir=DIR --stage=NAME    imports MODEL as the start of a stage
  python -m launch.export to_hf --workdir=DIR --stage=NAME --out=MODEL    writes a stage's newest checkpoint
  python -m launch.export logits MODEL --tokens=tokens.npy --out=logits.npy    runs MODEL, for comparisons

MODEL is a folder. An import never replaces a checkpoint: give a stage that has none. to_hf writes float32, or bfloat16
with --dtype=bfloat16. An import reads tensor by tensor and saves a copy: the host holds the float32 parameters twice
(320 GB for 40b). to_hf holds the largest leaf, all layers of one weight, twice (90 GB for 40b), and a shard of 5 GB. logits
takes int32 tokens [B, T], one document a row, and writes float32 [B, T, V].
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from iquest_jax.errors import UserError, nearest
from iquest_jax.model import sizes
from iquest_jax.run_folder import StageFolder
from launch import command

flags.declare_key_flag('workdir')
flags.DEFINE_string('stage', '', 'Stage whose run folder is written (from_hf) or read (to_hf).')
flags.DEFINE_string('out', '', 'What to_hf (a folder) or logits (a .npy file) writes.')
flags.DEFINE_string('tokens', '', 'A .npy file, int32 [B, T], that logits reads.')
flags.DEFINE_string('dtype', 'float32', 'Type of the tensors to_hf writes: float32 or bfloat16.')

FLAGS = flags.FLAGS


class _Command(NamedTuple):
  """A sub-command: what runs it, whether it takes MODEL, and the flags it needs and may have."""

  run: Callable[..., None]
  takes_model: bool
  needs: tuple[str, ...]
  may_have: tuple[str, ...] = ()


def main(argv: list[str]) -> None:
  commands = {
      'from_hf': _Command(_from_hf, True, ('workdir', 'stage')),
      'to_hf': _Command(_to_hf, False, ('workdir', 'stage', 'out'), ('dtype',)),
      'logits': _Command(_logits, True, ('tokens', 'out')),
  }
  name = argv[1] if len(argv) > 1 else ''
  if name not in commands:
    raise UserError(f'export: sub-command "{name}" does not exist{nearest(name, commands)}')
  chosen, operands = commands[name], argv[2:]
  if len(operands) != chosen.takes_model:
    wanted = 'one folder, MODEL' if chosen.takes_model else 'no folder besides its flags'
    raise UserError(f'export {name}: takes {wanted}; got {" ".join(operands) or "none"}')
  for flag in ('workdir', 'stage', 'out', 'tokens', 'dtype'):
    if flag in chosen.needs and not FLAGS[flag].value:
      raise UserError(f'export {name}: --{flag} is missing; see python -m launch.export --help')
    if flag not in chosen.needs + chosen.may_have and FLAGS[flag].present:
      raise UserError(f'export {name}: --{flag} has no meaning here; see python -m launch.export --help')
  if 'stage' in chosen.needs:
    command.check_stage(FLAGS.stage)
  chosen.run(*operands)


def _from_hf(source: str) -> None:
  """Writes a checkpoint at step 0 of the stage's run folder; its lineage keeps the model's shape."""
  _stay_on_the_host()
  from iquest_jax.checkpoint import lineage
  from iquest_jax.checkpoint.store import Checkpoints
  from iquest_jax.convert import hf

  checkpoints = Checkpoints(_folder())
  if checkpoints.steps():
    raise UserError(f'export from_hf: {checkpoints.folder} holds checkpoints; choose another --workdir or --stage')
  model, params = hf.from_hf(source)
  checkpoints.clear_leftovers()
  name = pathlib.Path(source).resolve().name
  checkpoints.save(0, params, None, lineage.imported(FLAGS.stage, _size(model), name, dataclasses.asdict(model)))
  del params  # the checkpoint's writer has its own
  checkpoints.close()
  lineage.write(_folder(), checkpoints.lineage(0))
  print(f'{source} -> {checkpoints.folder}/0')


def _to_hf() -> None:
  """Reads the stage's newest checkpoint, one leaf at a time."""
  _stay_on_the_host()
  from iquest_jax.checkpoint.restore import trained_as
  from iquest_jax.checkpoint.store import Checkpoints
  from iquest_jax.convert import hf

  checkpoints = Checkpoints(_folder())
  model, step = trained_as(checkpoints.lineage()), checkpoints.latest_step()

  def leaves():
    checkpoints.verify(step)
    yield from checkpoints.leaves(step)

  hf.to_hf(model, leaves(), FLAGS.out, FLAGS.dtype)
  print(f'{_folder().path} -> {FLAGS.out}')


def _logits(source: str) -> None:
  """One row at a time, so that memory holds the logits of one."""
  import numpy as np

  try:
    tokens = np.load(FLAGS.tokens, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise UserError(f'export logits: --tokens={FLAGS.tokens} is not a .npy file of numbers ({error})') from error
  if not isinstance(tokens, np.ndarray) or tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in 'iu':
    raise UserError(f'export logits: --tokens={FLAGS.tokens} is not int32 [B, T], one document a row')

  import jax
  import jax.numpy as jnp

  from iquest_jax.convert import hf
  from iquest_jax.model.transformer import build

  model, params = hf.from_hf(source)
  if tokens.min() < 0 or tokens.max() >= model.vocab:
    raise UserError(f'export logits: tokens go from {tokens.min()} to {tokens.max()}; {source} has {model.vocab}')
  module = build(model, 'float32')

  @jax.jit
  def row(params, tokens_1T):
    positions = jnp.arange(tokens_1T.shape[1], dtype=jnp.int32)[None]
    return module.apply({'params': params}, tokens_1T, jnp.ones_like(positions), positions, method='logits')

  params = jax.device_put(params)
  # Accelerators multiply float32 with fewer bits unless told.
  with jax.default_matmul_precision('highest'):
    logits = np.concatenate([np.asarray(row(params, one[None])) for one in tokens.astype(np.int32)])
  partial = FLAGS.out + '.partial'
  try:
    with open(partial, 'wb') as file:
      np.save(file, logits)
    os.replace(partial, FLAGS.out)
  except OSError as error:
    raise UserError(f'export logits: cannot write {FLAGS.out}: {error.strerror}; choose another --out') from error


def _stay_on_the_host() -> None:
  """Converting moves bytes: no accelerator is waited for, and parameters need not fit on one."""
  import jax

  jax.config.update('jax_platforms', 'cpu')


def _folder() -> StageFolder:
  return command.run_folder().stage(FLAGS.stage)


def _size(model: sizes.ModelConfig) -> str:
  """The published size of this shape; one of its own is trained by setting --exp.model fields."""
  return next((name for name, known in sizes.SIZES.items() if known == model), 'imported')


if __name__ == '__main__':
  command.run(main, operands=True)
