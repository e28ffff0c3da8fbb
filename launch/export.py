"""Exchange checkpoints with other libraries, in the Hugging Face layout: config.json and safetensors.

  python -m launch.export from_hf MODEL --workdir=DIR --stage=NAME
  python -m launch.export to_hf --workdir=DIR --stage=NAME --out=MODEL
  python -m launch.export logits MODEL --tokens=tokens.npy --out=logits.npy

MODEL is a folder.

from_hf imports MODEL as the start of a stage. It never replaces a checkpoint: name a stage that has
none. It needs host memory for two copies of the float32 parameters (320 GB for 40b).

to_hf exports the newest checkpoint of a stage. It needs host memory for two copies of the largest
leaf, which is one weight of all layers (90 GB for 40b), and for a shard of 5 GB.

logits runs MODEL, to compare implementations. It reads int32 tokens [B, T], one document per row,
and writes float32 logits [B, T, V].
"""

import dataclasses
import io
import pathlib

from absl import flags

from experiments import chain
from iquest_jax.errors import UserError, check_name
from iquest_jax.model import sizes
from iquest_jax.run_folder import write_whole
from launch import command, devices

flags.declare_key_flag('workdir')
flags.DEFINE_string('stage', '', 'Stage that from_hf writes or to_hf reads.')
flags.DEFINE_string('out', '', 'Folder that to_hf writes, or .npy file that logits writes.')
flags.DEFINE_string('tokens', '', 'The .npy file that logits reads: int32 [B, T].')
flags.DEFINE_string('dtype', 'float32', 'Type of the tensors that to_hf writes: float32 or bfloat16.')

FLAGS = flags.FLAGS


# Flags that each sub-command needs; dtype alone has a default.
_NEEDS = {'from_hf': ('workdir', 'stage'), 'to_hf': ('workdir', 'stage', 'out', 'dtype'), 'logits': ('tokens', 'out')}


def main(argv: list[str]) -> None:
  commands = {'from_hf': _from_hf, 'to_hf': _to_hf, 'logits': _logits}
  name, operands = command.subcommand(argv, commands)
  for flag in ('workdir', 'stage', 'out', 'tokens', 'dtype'):
    if flag in _NEEDS[name] and not FLAGS[flag].value:
      raise UserError(f'{name}: --{flag} is missing; see python -m launch.export --help')
    if flag not in _NEEDS[name] and FLAGS[flag].present:
      raise UserError(f'{name}: --{flag} does not apply to this sub-command; see python -m launch.export --help')
  if 'stage' in _NEEDS[name]:
    check_name('--stage: stage', FLAGS.stage, chain.PARENTS)
  commands[name](*operands)


def _from_hf(model: str) -> None:
  """Saves the model in the folder `model` as the stage's checkpoint of step 0, its shape in the lineage."""
  _stay_on_the_host()
  from iquest_jax.checkpoint import lineage
  from iquest_jax.checkpoint.store import Checkpoints
  from iquest_jax.convert import hf

  checkpoints = Checkpoints(command.run_folder().stage(FLAGS.stage))
  if checkpoints.steps():
    raise UserError(f'from_hf: {checkpoints.folder} already holds checkpoints; choose another --workdir or --stage')
  shape, params = hf.from_hf(model)
  checkpoints.clear_leftovers()
  name = pathlib.Path(model).resolve().name
  checkpoints.save(0, params, None, lineage.imported(FLAGS.stage, _size(shape), name, dataclasses.asdict(shape)))
  del params  # the checkpoint's writer has its own copy
  checkpoints.close()
  lineage.write(checkpoints.stage, checkpoints.lineage(0))
  print(f'{model} -> {checkpoints.folder}/0')


def _to_hf() -> None:
  """Exports the stage's newest checkpoint, one leaf at a time."""
  _stay_on_the_host()
  from iquest_jax.checkpoint.restore import trained_as
  from iquest_jax.checkpoint.store import Checkpoints
  from iquest_jax.convert import hf

  checkpoints = Checkpoints(command.run_folder().stage(FLAGS.stage))
  model, step = trained_as(checkpoints.lineage()), checkpoints.latest_step()

  def leaves():
    checkpoints.verify(step)
    yield from checkpoints.leaves(step)

  hf.to_hf(model, leaves(), FLAGS.out, FLAGS.dtype)
  print(f'{checkpoints.stage.path} -> {FLAGS.out}')


def _logits(model: str) -> None:
  """Runs the model one row at a time, so that memory holds the activations of one."""
  import numpy as np

  try:
    tokens = np.load(FLAGS.tokens, allow_pickle=False)
    if not isinstance(tokens, np.ndarray):
      raise ValueError('it holds several arrays')
  except (OSError, ValueError) as error:
    raise UserError(f'logits: --tokens={FLAGS.tokens} is not a .npy file of numbers ({error})') from error
  if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in 'iu':
    kind = f'{tokens.dtype} {list(tokens.shape)}'
    raise UserError(f'logits: --tokens={FLAGS.tokens} must be int32 [B, T], one document per row, got {kind}')

  import jax
  import jax.numpy as jnp

  from iquest_jax.convert import hf
  from iquest_jax.model.transformer import Transformer

  devices.log_devices()
  shape, params = hf.from_hf(model)
  if tokens.min() < 0 or tokens.max() >= shape.vocab:
    raise UserError(f'logits: tokens must be below the vocabulary size of {model}, {shape.vocab}; '
                    f'they range from {tokens.min()} to {tokens.max()}')  # fmt: skip
  module = Transformer(shape, 'float32')

  @jax.jit
  def row(params, tokens_1T):
    positions = jnp.arange(tokens_1T.shape[1], dtype=jnp.int32)[None]
    return module.apply({'params': params}, tokens_1T, jnp.ones_like(positions), positions, method='logits')

  params = jax.device_put(params)
  # By default accelerators multiply float32 at reduced precision.
  with jax.default_matmul_precision('highest'):
    logits = np.concatenate([np.asarray(row(params, one[None])) for one in tokens.astype(np.int32)])
  content = io.BytesIO()
  np.save(content, logits)
  try:
    write_whole(FLAGS.out, content.getvalue())
  except OSError as error:
    raise UserError(f'logits: cannot write {FLAGS.out}: {error.strerror}; choose another --out') from error


def _stay_on_the_host() -> None:
  """Converting needs no accelerator: it waits for none, and the parameters need not fit on one."""
  import jax

  jax.config.update('jax_platforms', 'cpu')


def _size(model: sizes.ModelConfig) -> str:
  """Name of the published size with this shape, else 'imported'; --exp.model fields train such a model."""
  return next((name for name, known in sizes.SIZES.items() if known == model), 'imported')


if __name__ == '__main__':
  command.run(main, operands=True)
