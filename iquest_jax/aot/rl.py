"""A step of reinforcement learning on a slice that is not attached: what fits in memory together, and seconds per step.

Two programs share the chips and stay in memory side by side: the update, on the mesh of the stage, and the sampler, which
every host runs on its own chips (rl/sync.py, infer/engine.py). Both are compiled; what follows from lengths is arithmetic.
"""

import dataclasses
import functools
import math

import numpy as np
from ml_collections import ConfigDict

from iquest_jax import batch
from iquest_jax.aot import decode, estimate
from iquest_jax.aot.topology import Slice
from iquest_jax.errors import UserError
from iquest_jax.model import cost, sizes

# Assumed of a prompt, unless all is as long as allowed: a statement with its examples.
PROMPT_TOKENS = 1024
# Micro-batches of the compiled update. A real one has more, each of which costs the same.
MICRO_BATCHES = 2
_ITEM = 2  # bytes of a bfloat16


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Tokens of a roll-out, all alike: of its prompt, and of what is sampled."""

  prompt: int
  answer: int

  @property
  def total(self) -> int:
    return self.prompt + self.answer


def check(config: ConfigDict) -> None:
  """Raises UserError if a step has other programs than one update and the sampler."""
  rl = config.rl
  for name, needed in (('objective', 'grpo'), ('mini_batches', 1), ('epochs', 1), ('kl_coef', 0)):
    if rl[name] != needed:
      raise UserError(f'aot: rl.{name} must be {needed}, since a step is estimated as one update, got {rl[name]}')


def assumed(config: ConfigDict, answer_tokens: int) -> tuple[Lengths, Lengths]:
  """(roll-outs of a mean length, roll-outs as long as allowed).

  Args:
    answer_tokens: the mean; 0 for a quarter of what is allowed.

  Raises:
    UserError: answers may not be so long.
  """
  rl, room = config.rl, config.data.context - config.rl.max_tokens
  answer_tokens = answer_tokens or rl.max_tokens // 4
  if not 1 <= answer_tokens <= rl.max_tokens:
    raise UserError(f'--answer_tokens: must be in [1, rl.max_tokens = {rl.max_tokens}], got {answer_tokens}')
  return Lengths(min(PROMPT_TOKENS, room), answer_tokens), Lengths(room, rl.max_tokens)


def sampler(config: ConfigDict, slice_: Slice) -> decode.Plan:
  """How one host decodes: rl.slots of the stage's context on its own chips; prompts have the room that answers leave."""
  host = slice_.of_host()
  tensor = math.gcd(host.chips, config.model.kv_heads)
  groups = host.chips // tensor
  row = 1 << (config.data.context - config.rl.max_tokens - 1).bit_length()
  return decode.plan(config, host, -(-config.rl.slots // groups), min(row, config.data.context))


def update_batch(config: ConfigDict):
  """(the batch's class, its dtypes, rows, objective) of the update that is compiled, for aot.program."""
  import jax.numpy as jnp

  from iquest_jax.rl import batches, losses

  ints, floats = jnp.int32, jnp.float32
  dtypes = batches.PolicyBatch(
      tokens=ints, targets=ints, loss_weights=floats, segment_ids=ints, positions=ints, source_ids=ints,
      row_weights=floats, advantages=floats, sampler_logps=floats,
  )  # fmt: skip
  rows = MICRO_BATCHES * config.train.batch_rows // config.train.accumulation
  return dtypes, rows, functools.partial(losses.policy_sums, options=losses.PolicyOptions.of(config.rl))


def attended(config: ConfigDict, document: int) -> float:
  """Block pairs that attention visits in rows packed with documents of this length, over those of a row of one document.

  Of the device of a row that visits most, since the others wait for it. The rule is that of gated_attention.block_pairs.
  """
  context, ways = config.data.context, config.mesh.context
  order = batch.zigzag(context, ways)
  one = functools.partial(_visited, order.reshape(ways, -1), order)
  return max(one(document)) / max(one(context))


def _visited(parts, order, document: int) -> list[int]:
  """The pairs that each device visits of a row in this order, which its documents fill as far as they go."""
  packed = len(order) // document * document
  blocks = lambda places, size: places.reshape(-1, size)
  k_first, k_last = (end(blocks(order, estimate.BLOCK_K), axis=1) for end in (np.min, np.max))
  counts = []
  for part in parts:
    q_first, q_last = (end(blocks(part, estimate.BLOCK_Q), axis=1)[:, None] for end in (np.min, np.max))
    # What follows the last document is padding, which sees nothing.
    q_last, q_seen, k_seen = np.minimum(q_last, packed - 1), q_first < packed, k_first < packed
    same_or_later = np.minimum(k_last, packed - 1) // document >= q_first // document
    counts.append(int(np.sum((k_first <= q_last) & same_or_later & q_seen & k_seen)))
  return counts


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes per chip of each phase of a step, and slots per host that would fit.

  Attributes:
    phases: update, roll-out and sync, each with all that stays in memory meanwhile.
    fits: whether all of it stays within the HBM of a chip.
    slots: per host, beside the training state.
    offloaded: per host, with the training state on the host during roll-outs and the sampler gone during the update.
    state_bytes: of the training state per chip.
    host_bytes: of a host's memory for the training state of its chips.
  """

  phases: dict[str, float]
  fits: bool
  slots: int
  offloaded: int
  state_bytes: int
  host_bytes: int


def memory(config: ConfigDict, slice_: Slice, measures: dict[str, dict], plan: decode.Plan) -> Memory:
  """What is in memory together: the compiler's peaks, and parameters and caches as calculated."""
  chip, params = slice_.chip, cost.num_params(plan.model)
  needed = lambda name: measures[name]['needed_bytes' if 'refused' in measures[name] else 'peak_bytes'] or math.inf
  slots = plan.groups * plan.slots
  weights, slot = _ITEM * params / plan.tensor, plan.slot_bytes / plan.tensor
  cache, state = plan.slots * slot, measures['update'].get('argument_bytes', 0)
  decoding = max(needed('decode'), needed('prefill'))
  # The sampler keeps its old parameters until it has the new ones, of which the trainer first makes a cast copy.
  mesh = config.mesh
  synced = 2 * weights + _ITEM * params / (mesh.fsdp * mesh.context * mesh.tensor)
  phases = {'update': needed('update') + weights + cache, 'roll-out': state + decoding, 'sync': state + synced + cache}
  refused = any('refused' in measure for measure in measures.values())
  # What stays free in the fullest phase holds further slots, as many in every group of chips.
  further = lambda fullest: 0 if fullest == math.inf else math.floor((chip.hbm_bytes - fullest) / slot)
  return Memory(
      phases=phases,
      fits=not refused and max(phases.values()) <= chip.hbm_bytes,
      slots=max(0, slots + plan.groups * further(max(phases.values()))),
      offloaded=max(0, slots + plan.groups * further(max(decoding, synced + cache))),
      state_bytes=state,
      host_bytes=state * plan.slice_.chips,
  )


@dataclasses.dataclass(frozen=True)
class Step:
  """One step, estimated for roll-outs of one length.

  Attributes:
    lengths: the assumption.
    waves: times that a host fills its slots.
    rows: of the update.
    rollout, prefill, update, sync: seconds. `rollout` is without `prefill`.
    flops: useful ones of the update, counted by documents.
    mfu: of the update.
  """

  lengths: Lengths
  waves: int
  rows: int
  rollout: float
  prefill: float
  update: float
  sync: float
  flops: float
  mfu: float

  @property
  def seconds(self) -> float:
    return self.rollout + self.prefill + self.update + self.sync


def rollouts_of_a_host(config: ConfigDict, slice_: Slice) -> int:
  """A host samples every n-th group, all of its roll-outs."""
  return -(-config.rl.prompts_per_step // slice_.hosts) * config.rl.group_size


def step(
    config: ConfigDict, slice_: Slice, measures: dict[str, dict], plan: decode.Plan, bundles: dict, lengths: Lengths
) -> Step:
  """The estimate of a step in which no group is dropped and grading keeps up with decoding."""
  from iquest_jax.rl.batches import padded_rows

  chip, model, rl = slice_.chip, sizes.ModelConfig(**config.model.to_dict()), config.rl
  mine, slots = rollouts_of_a_host(config, slice_), plan.groups * plan.slots
  # Of the decode step, attention alone reads what a slot has filled; on average half of the answer.
  decoding = estimate.parts(measures['decode'], plan.slice_, bundles)[0]
  filled = (lengths.prompt + lengths.answer / 2) / plan.size
  a_token = sum(decoding.values()) - (1 - filled) * decoding['kernels']
  a_row = sum(estimate.parts(measures['prefill'], plan.slice_, bundles)[0].values())

  everything = rl.prompts_per_step * rl.group_size
  rows = padded_rows(-(-everything // (config.data.context // lengths.total)), config.train.batch_rows)
  share = attended(config, lengths.total)
  an_update = sum(estimate.parts(measures['update'], slice_, bundles, attended=share)[0].values())
  micro_batches = rows * config.train.accumulation / config.train.batch_rows
  # Scaled as a whole, the optimizer and the network between slices included: an upper bound.
  update = an_update * micro_batches / MICRO_BATCHES
  pairs = cost.visible_pairs(lengths.total), cost.visible_pairs(lengths.total, model.loop_window)
  flops = cost.TRAIN_PASSES * everything * cost.flops(model, lengths.total, *pairs)
  # A chip receives its part of the sampler's parameters over one ring, two links; then both copies are read and compared.
  weights = _ITEM * cost.num_params(model) / plan.tensor
  return Step(
      lengths=lengths,
      waves=-(-mine // slots),
      rows=rows,
      rollout=-(-mine // slots) * lengths.answer * a_token,
      prefill=-(-mine // plan.groups) * a_row * min(1, (1 << (lengths.prompt - 1).bit_length()) / plan.row),
      update=update,
      sync=weights / (2 * chip.link_bandwidth) + 2 * weights / chip.hbm_bandwidth,
      flops=flops,
      mfu=flops / (update * slice_.chips * chip.peak_flops),
  )
