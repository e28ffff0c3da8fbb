"""What the experiments share: the arguments of --exp=NAME:arguments, and every section with its defaults."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from experiments import chain, meshes
from iquest_jax.config import from_stage
from iquest_jax.errors import UserError, nearest
from iquest_jax.model import sizes

# What fine-tuned models of full size are evaluated with: the report's benchmarks of functions and of code reasoning.
BENCHMARKS = ('humaneval_plus', 'mbpp_plus', 'livecodebench', 'cruxeval_input', 'cruxeval_output')


@dataclasses.dataclass(frozen=True)
class Arguments:
  """`size=14b,topology=v5p-256` or `tiny`: which model, on which slice."""

  size: str = '40b'
  topology: str = 'v5p-512'

  @property
  def tiny(self) -> bool:
    return self.size.startswith('tiny')

  def pick(self, full: Any, tiny: Any) -> Any:
    """The value at this scale; `full` may be a dict by size, where 40b_loop takes that of 40b.

    # ours: every `tiny` value. A stage takes well under two minutes on two cores, and its loss falls.
    """
    if self.tiny:
      return tiny
    return full[self.size.removesuffix('_loop')] if isinstance(full, dict) else full


def arguments(text: str) -> Arguments:
  """Parses the part of --exp after the colon; `tiny` replaces the size by tiny or tiny_loop."""
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


def steps(config: ConfigDict, tokens: float) -> int:
  """Optimizer steps that see `tokens` tokens; set the batch and the context first."""
  return round(tokens / (config.train.batch_rows * config.data.context))


def base(stage: str, text: str) -> tuple[ConfigDict, Arguments]:
  """The sections that all stages share, to which the experiment adds its own, and its arguments parsed from `text`."""
  run, config = arguments(text), ConfigDict()
  config.stage = stage
  config.size = run.size
  config.seed = 0  # ours: any
  config.model = dataclasses.asdict(sizes.get(run.size))
  config.init = from_stage(chain.parent(stage, run.size))

  config.data = ConfigDict()
  config.data.rows_dir = ''  # '' is <workdir>/rows/<stage>
  # ours: rows on gs:// are copied into this folder on the disk of each host, which needs room for all of them
  config.data.cache_dir = ''
  config.data.buckets = (0.0, 1.0)  # a hash maps documents to [0, 1); a stage takes an interval
  # Files and repositories that are completed in the middle instead of read. Report: half of them, at five levels.
  config.data.fim = ConfigDict()
  config.data.fim.share = 0.5
  config.data.fim.spm = 0.5  # ours: how many show the suffix first, as in Bavarian et al. 2022; the report shows the other
  levels = ('characters', 'lines', 'expression', 'statement', 'function')
  config.data.fim.levels = tuple((level, 1.0) for level in levels)  # ours: equal weights

  # The report: a source's weight rises when its benchmark falls, and falls again on a plateau. It gives no numbers.
  config.data.closed_loop = ConfigDict()
  config.data.closed_loop.every = 0  # steps between decisions; 0 keeps the weights of data.mixture
  config.data.closed_loop.benchmarks = ()  # ((source, benchmark), ...): 'held_out', or the name of a suite
  config.data.closed_loop.rise = 1.25  # ours: factor on the weight when the score falls
  config.data.closed_loop.decay = 0.9  # ours: factor on the weight on a plateau, back to what data.mixture says
  config.data.closed_loop.cap = 2.0  # ours: the largest multiple of what data.mixture says; rows are prepared for it
  config.data.closed_loop.tolerance = 0.005  # ours: relative change of a score that counts as a plateau

  config.train = ConfigDict()
  config.train.dtype = run.pick(full='bfloat16', tiny='float32')
  config.train.loss_chunk = 1024  # ours: computes logits 1024 positions at a time, 0.3 GB at vocab 76,800
  config.train.z_loss = 1e-4  # ours: the usual weight; keeps the log-partition near 0
  # ((from, to), ...): steps, counted from 1, whose batches are passed over, for a batch that always breaks the run.
  config.train.skip_steps = ()

  # Each stage adds its learning rate. ours: all of its numbers, since the report names curves without values. Warm-ups of
  # about 1 % of the steps and floors of a tenth of the peak are usual; a stage explains the rest.
  config.optim = ConfigDict()
  config.optim.b1 = 0.9  # ours: the usual AdamW of language models; so are the next four
  config.optim.b2 = 0.95
  config.optim.eps = 1e-8
  config.optim.weight_decay = 0.1
  config.optim.clip_norm = 1.0
  config.optim.moment_dtype = 'float32'

  config.checkpoint = ConfigDict()
  config.checkpoint.every = run.pick(full=200, tiny=80)  # ours: 40b_loop at 128k loses at most about four hours
  config.checkpoint.milestones = ()  # steps, multiples of `every`, whose checkpoints stay beside the newest
  config.checkpoint.keep = 2  # ours: the newest, and one more in case it is damaged

  config.eval = ConfigDict()
  config.eval.every = run.pick(full=1000, tiny=100)  # ours: at full size less than 1 % of the time
  config.eval.rows = run.pick(full=64, tiny=8)  # ours: held-out rows per source
  # The chain evaluates the final checkpoint with these; iquest_jax/eval/suites.py defines them. A stage may name more.
  config.eval.suites = ('bits_per_byte',)
  config.eval.slots = run.pick(full=64, tiny=16)  # ours: answers decoded at a time

  config.log = ConfigDict()
  config.log.every = run.pick(full=10, tiny=5)  # ours: a few minutes at full size, about a second at tiny
  config.log.layers_every = run.pick(full=50, tiny=20)  # ours: norms by layer group, dozens of curves
  config.log.profile = ()  # (from, to): steps, counted from 1, of which a trace is written

  # Hardware that computes wrongly without an error; see train/health/checks.py. What the checks cost: experiments/LOG.md.
  config.health = ConfigDict()
  config.health.replicas_every = 100  # ours: steps between comparisons of what replicas hold; also before every save
  # ours: steps between two times that a micro-batch is computed on other chips as well; 0 leaves it out.
  config.health.recompute_every = run.pick(full=500, tiny=0)
  config.health.sdc_checker = True  # ours: libtpu repeats every operation of the first step of each process

  # A run without a step for so long is ended, to be started again; see train/watchdog.py.
  config.watchdog = ConfigDict()
  config.watchdog.multiple = 10.0  # ours: times the median of the last steps; a step varies by less than twice
  config.watchdog.floor_s = run.pick(full=900.0, tiny=300.0)  # ours: at least; a slow disk is not a hang
  config.watchdog.extra_s = run.pick(full=7200.0, tiny=1200.0)  # ours: more for compiling, saving and evaluating
  return config, run


def base_of_rl(stage: str, text: str) -> tuple[ConfigDict, Arguments]:
  """As `base`, without what is about rows, and with the section `rl`."""
  config, run = base(stage, text)
  config.data, suites = ConfigDict(), run.pick(full=BENCHMARKS, tiny=('small_programs',))
  config.train.z_loss = 0.0  # ours: the objective is the policy's alone
  config.eval = ConfigDict({'suites': suites, 'slots': config.eval.slots})
  config.log.every, config.log.layers_every = 1, 10

  config.rl = rl = ConfigDict()
  rl.objective = 'grpo'
  # Problem sets, as files in the run folder; rl/problems.py lists their forms.
  rl.problems = run.pick(full=('problems/rl.jsonl',), tiny=('corpus/small_programs/rl.jsonl',))
  rl.held_out = run.pick(full=('problems/held_out.jsonl',), tiny=('corpus/small_programs/held_out.jsonl',))
  rl.max_tests = 20  # report: hidden tests per problem; the reward is the fraction passed
  rl.pass_rate_window = (0.0, 1.0)  # ours: prompts whose last pass rate is outside are left out for a while
  rl.prompts_per_step = run.pick(full=64, tiny=32)  # report
  rl.group_size = run.pick(full=16, tiny=8)  # report: roll-outs per prompt
  rl.max_turns = run.pick(full=16, tiny=4)  # ours: replies of a roll-out whose prompt names tools that are executed
  rl.dynamic_sampling = True  # DAPO: groups of equal rewards are dropped and replaced
  rl.max_groups = run.pick(full=192, tiny=64)  # ours: groups that are sampled at most

  # Divides the logits of the policy. ours: at 1 a model trained for minutes fails most often by a stray token.
  rl.temperature = run.pick(full=1.0, tiny=0.5)
  rl.baseline = 'mean'  # GRPO
  # GRPO and DAPO. ours at tiny: wrong programs pass a test by luck, and dividing would make that as good as a right one.
  rl.norm_adv_by_std = run.pick(full=True, tiny=False)
  rl.loss_agg = 'token_mean'  # DAPO
  rl.ratio = 'token'  # GRPO
  rl.clip_low, rl.clip_high = 0.2, 0.28  # the report has Clip-Higher without numbers; these are DAPO's
  rl.dual_clip = 0.0  # ours: off
  rl.kl_coef = 0.0  # report: no KL term
  rl.sampler_is_threshold = 2.0  # ours: usual for truncated importance sampling; 0 turns it off
  rl.mini_batches, rl.epochs = 1, 1  # ours: one update per step, so it is on-policy

  # ours: logged if bfloat16 kernels differ, a stop if the sampler computes another model.
  rl.max_logp_difference = run.pick(full=0.1, tiny=0.01)
  # ours: roll-outs decoded at a time, per process; a slot of 96k takes 6, 11 and 32 GB, and a host of v5p has 380.
  rl.slots = run.pick(full={'7b': 32, '14b': 16, '40b': 4}, tiny=64)
  rl.graders = run.pick(full=16, tiny=2)  # ours: programs run at a time, per process
  rl.patience_s = run.pick(full=1800.0, tiny=120.0)  # ours: seconds after which a roll-out that hangs is given up
  config.watchdog.floor_s = 4 * rl.patience_s  # ours: a step waits for several rounds of roll-outs
  return config, run


def finish(config: ConfigDict, run: Arguments) -> ConfigDict:
  """Sets the mesh and locks the keys."""
  if 'rl' in config:
    # An update has as many rows as its roll-outs fill, in a unit that every slice gets.
    config.train.batch_rows *= meshes.slices(run.topology)
  meshes.place(config, run.size, run.topology)
  config.lock()
  return config
