"""Exchange checkpoints with other libraries, in the Hugging Face layout: config.json, safetensors, tokenizer.

  python -m launch.export from_hf MODEL --workdir=DIR --stage=NAME
  python -m launch.export to_hf --workdir=DIR --stage=NAME --out=MODEL
  python -m launch.export logits MODEL --tokens=tokens.npy --out=logits.npy

MODEL is a folder.

from_hf imports MODEL as the start of a stage, and its tokenizer.json as the tokenizer of the chain. It
never replaces a checkpoint or a tokenizer: name a stage that has no checkpoint.

to_hf exports the newest checkpoint of a stage with all that other tools need: shards, config.json,
generation_config.json, tokenizer.json and tokenizer_config.json with the chat template. mlx-lm loads
it; transformers loads dense models (older than 5.24: with --architecture=llama) and has no loop.

Both read, convert and write a few layers at a time. Started on every host of a pod or cluster, each
host reads and writes its own part; on one host of a TPU pod alone, set JAX_PLATFORMS=cpu.

logits runs MODEL, to compare implementations. It reads int32 tokens [B, T], one document per row,
and writes float32 logits [B, T, V]. It holds the parameters in memory once.
"""

import dataclasses
import io
import pathlib

from absl import flags, logging

from experiments import chain
from iquest_jax.errors import UserError, check_name
from iquest_jax.model import sizes
from iquest_jax.run_folder import write_whole
from iquest_jax.text.tokenizer import Tokenizer
from launch import command, devices

flags.declare_key_flag('workdir')
flags.DEFINE_string('stage', '', 'Stage that from_hf writes or to_hf reads.')
flags.DEFINE_string('out', '', 'Folder that to_hf writes, or .npy file that logits writes.')
flags.DEFINE_string('tokens', '', 'The .npy file that logits reads: int32 [B, T].')
flags.DEFINE_string('dtype', 'float32', 'Type of the tensors that to_hf writes: float32 or bfloat16.')
flags.DEFINE_string('architecture', '', 'llama: to_hf calls a dense model LlamaForCausalLM.')

FLAGS = flags.FLAGS


# Flags that each sub-command needs, and those of to_hf that have a default.
_NEEDS = {'from_hf': ('workdir', 'stage'), 'to_hf': ('workdir', 'stage', 'out'), 'logits': ('tokens', 'out')}
_OPTIONS = ('dtype', 'architecture')


def main(argv: list[str]) -> None:
  commands = {'from_hf': _from_hf, 'to_hf': _to_hf, 'logits': _logits}
  name, operands = command.subcommand(argv, commands)
  for flag in ('workdir', 'stage', 'out', 'tokens', *_OPTIONS):
    if flag in _NEEDS[name] and not FLAGS[flag].value:
      raise UserError(f'{name}: --{flag} is missing; see python -m launch.export --help')
    applies = flag in _NEEDS[name] or (name == 'to_hf' and flag in _OPTIONS)
    if FLAGS[flag].present and not applies:
      raise UserError(f'{name}: --{flag} does not apply to this sub-command; see python -m launch.export --help')
  if 'stage' in _NEEDS[name]:
    check_name('--stage: stage', FLAGS.stage, chain.PARENTS)
  commands[name](*operands)


def _from_hf(model: str) -> None:
  """Saves the model in the folder `model` as the stage's checkpoint of step 0, its shape in the lineage."""
  _stay_on_the_hosts()
  import jax

  from iquest_jax.checkpoint import lineage
  from iquest_jax.checkpoint.store import Checkpoints
  from iquest_jax.convert import hf, tokenizer_files

  run_folder, folder = command.run_folder(), pathlib.Path(model)
  checkpoints = Checkpoints(run_folder.stage(FLAGS.stage))
  if checkpoints.steps():
    raise UserError(f'from_hf: {checkpoints.folder} already holds checkpoints; choose another --workdir or --stage')
  shape, sources = hf.sources(folder)
  tokenizer = tokenizer_files.read(folder, shape)
  if not tokenizer:
    logging.info('%s has no tokenizer.json: no tokenizer is imported', model)
  elif run_folder.tokenizer.exists():
    if Tokenizer.load(run_folder.tokenizer).fingerprint != tokenizer.fingerprint:
      raise UserError(
          f'from_hf: {run_folder.tokenizer} is another tokenizer than that of {model}, which its parameters need; '
          'choose another --workdir'
      )
  elif jax.process_index() == 0:
    tokenizer.save(run_folder.tokenizer)
  checkpoints.clear_leftovers()
  name = folder.resolve().name
  started = lineage.imported(FLAGS.stage, _size(shape), name, dataclasses.asdict(shape))
  checkpoints.save_streamed(0, sources, started)
  lineage.write(checkpoints.stage, checkpoints.lineage(0))
  if jax.process_index() == 0:
    print(f'{model} -> {checkpoints.folder}/0')


def _to_hf() -> None:
  """Exports the stage's newest checkpoint, and the tokenizer of its chain."""
  _stay_on_the_hosts()
  import jax

  from iquest_jax.checkpoint.restore import trained_as
  from iquest_jax.checkpoint.store import Checkpoints
  from iquest_jax.convert import hf, names

  run_folder = command.run_folder()
  checkpoints = Checkpoints(run_folder.stage(FLAGS.stage))
  model, step = trained_as(checkpoints.lineage()), checkpoints.latest_step()
  tokenizer = Tokenizer.load(run_folder.tokenizer) if run_folder.tokenizer.exists() else None
  if not tokenizer:
    logging.info('%s has no tokenizer: the export holds none', run_folder.path)

  def pieces():
    checkpoints.verify(step)
    yield from checkpoints.pieces(step, names.AXES, hf.readers(model, FLAGS.dtype))

  hf.to_hf(model, pieces(), FLAGS.out, FLAGS.dtype, FLAGS.architecture, tokenizer)
  if jax.process_index() == 0:
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


def _stay_on_the_hosts() -> None:
  """Joins the hosts. Converting needs no accelerator: it waits for none, and the parameters need not fit on one."""
  import jax

  jax.config.update('jax_platforms', 'cpu')
  devices.join_hosts()


def _size(model: sizes.ModelConfig) -> str:
  """Name of the published size with this shape, else 'imported'; --exp.model fields train such a model."""
  return next((name for name, known in sizes.SIZES.items() if known == model), 'imported')


if __name__ == '__main__':
  command.run(main, operands=True)
