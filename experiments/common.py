"""What every experiment shares: the arguments that ride on --exp=NAME:..., and the sections with their defaults."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from experiments import chain, meshes
from iquest_jax.config import from_stage
from iquest_jax.errors import UserError, nearest
from iquest_jax.model import sizes


@dataclasses.dataclass(frozen=True)
class Arguments:
  """`size=14b,tiny,topology=v5p-256`: which model, at which scale, on which slice."""

  size: str = '40b'
  topology: str = 'v5p-512'

  @property
  def tiny(self) -> bool:
    return self.size.startswith('tiny')

  def pick(self, full: Any, tiny: Any) -> Any:
    """The number for this scale; `full` may be a dict by size (40b_loop reads 40b).

    Every `tiny` number is ours: such that two cores take well under two minutes for a stage and its loss falls.
    """
    if self.tiny:
      return tiny
    return full[self.size.removesuffix('_loop')] if isinstance(full, dict) else full


def arguments(text: str) -> Arguments:
  """Parses the part of --exp after the colon; the word `tiny` shrinks the chosen size to its tiny kind."""
  values, tiny = {}, False
  for part in filter(None, (text or '').split(',')):
    key, separator, value = part.partition('=')
    if part == 'tiny':
      tiny = True
    elif key in ('size', 'topology') and separator:
      values[key] = value
    else:
      raise UserError(f'argument "{part}" of --exp does not exist{nearest(key, ("size=", "tiny", "topology="))}')
  chosen = Arguments(**values)
  if tiny:
    chosen = dataclasses.replace(chosen, size='tiny_loop' if chain.is_loop(chosen.size) else 'tiny')
  sizes.get(chosen.size)
  return chosen


def steps(tokens: float, batch_rows: int, context: int) -> int:
  """Optimizer steps that see `tokens` tokens."""
  return round(tokens / (batch_rows * context))


def base(stage: str, run: Arguments) -> ConfigDict:
  """Everything a stage has; the experiment fills in what is the stage's own."""
  config = ConfigDict()
  config.stage = stage
  config.size = run.size
  config.seed = 0  # ours: any
  config.model = dataclasses.asdict(sizes.get(run.size))
  config.init = from_stage(chain.parent(stage, run.size))

  config.data = ConfigDict()
  config.data.rows_dir = ''  # '' is <workdir>/rows/<stage>
  config.data.buckets = (0.0, 1.0)  # documents are dealt into [0, 1) by a hash; a stage takes an interval

  config.train = ConfigDict()
  config.train.dtype = run.pick(full='bfloat16', tiny='float32')
  config.train.loss_chunk = 1024  # ours: logits of 1024 positions of a row exist at a time, 0.3 GB at vocab 76,800
  config.train.z_loss = 1e-4  # ours: keeps the log-partition near 0; the usual weight

  config.optim = ConfigDict()
  config.optim.b1 = 0.9  # ours: the usual AdamW of language models, as the four below
  config.optim.b2 = 0.95
  config.optim.eps = 1e-8
  config.optim.weight_decay = 0.1
  config.optim.clip_norm = 1.0
  config.optim.moment_dtype = 'float32'

  config.checkpoint = ConfigDict()
  config.checkpoint.every = run.pick(full=200, tiny=80)  # ours: 40b_loop at 128k loses at most about four hours
  config.checkpoint.keep = 2  # ours: the newest, and one more should that be damaged

  config.eval = ConfigDict()
  config.eval.every = run.pick(full=1000, tiny=100)  # ours: at full size below a hundredth of the steps between
  config.eval.rows = run.pick(full=64, tiny=8)  # ours: held-out rows of each source

  config.log = ConfigDict()
  config.log.every = run.pick(full=10, tiny=5)  # ours: some minutes at full size, about a second at tiny
  return config


def schedule(kind: str, peak: float, warmup: float, decay: float, floor: float) -> dict[str, Any]:
  """The learning-rate section: fractions are of the stage's steps (train/optim.py draws the curve).

  # ours: all these numbers, in every stage, since the report names curves and no values. Warm-ups of a hundredth or so
  and floors of a tenth are the usual ones; what else a stage chooses it says.
  """
  return {'schedule': kind, 'peak_lr': peak, 'warmup': warmup, 'decay': decay, 'floor': floor}


def finish(config: ConfigDict, run: Arguments) -> ConfigDict:
  """Places the stage on its mesh and freezes the set of keys."""
  meshes.place(config, run.size, run.topology)
  config.lock()
  return config
