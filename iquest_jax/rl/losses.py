"""The policy loss of GRPO and its variants, as (sum, weight). Legend: B rows, T positions.

`loss_agg` is decided where rows are packed (rl/batches.py), so the loss here is a weighted sum over sampled tokens.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.batch import Batch
from iquest_jax.errors import UserError, check_name
from iquest_jax.kernels.cross_entropy import target_logps
from iquest_jax.rl.batches import PolicyBatch
from iquest_jax.train import step
from iquest_jax.train.losses import LossSums

RATIOS = ('token', 'sequence')
# ours: bounds a log-ratio before its exponential, which would overflow and turn the whole gradient into NaN.
_MOST = 20.0


@dataclasses.dataclass(frozen=True)
class PolicyOptions:
  """How a token's loss follows from its log-probabilities and advantage.

  Attributes:
    clip_low, clip_high: a ratio has no gradient below 1 - clip_low if the advantage is negative, nor above 1 + clip_high if
      it is positive. DAPO (arXiv 2503.14476, equation 10) has 0.2 and 0.28; GSPO about 3e-4 and 4e-4.
    ratio: 'token', or 'sequence' for the geometric mean of a trajectory's (GSPO, arXiv 2507.18071, equation 7).
    dual_clip: nor above this, which is more than 1, if the advantage is negative (arXiv 1912.09729, equation 5). None: off.
    kl_coef: factor of the KL divergence from the reference, estimated by k3 (GRPO, arXiv 2402.03300, equation 4).
    sampler_is_threshold: largest importance weight p_old / p_sampler of a token, which corrects for a sampler that computes
      other probabilities than the trainer (truncated importance sampling; fengyao.notion.site/off-policy-rl). None: off.
    temperature: of the policy; see `policy_params`.
  """

  clip_low: float = 0.2
  clip_high: float = 0.28
  ratio: str = 'token'
  dual_clip: float | None = None
  kl_coef: float = 0.0
  sampler_is_threshold: float | None = None
  temperature: float = 1.0

  @classmethod
  def of(cls, rl: ConfigDict) -> 'PolicyOptions':
    """The options of a configuration's section `rl`, where 0 turns off what is optional."""
    optional = dict(dual_clip=rl.dual_clip or None, sampler_is_threshold=rl.sampler_is_threshold or None)
    return cls(rl.clip_low, rl.clip_high, rl.ratio, kl_coef=rl.kl_coef, temperature=rl.temperature, **optional)

  def __post_init__(self):
    check_name('rl: ratio', self.ratio, RATIOS)
    threshold = self.sampler_is_threshold
    for name, allowed, fits in (
        ('clip_low', 'in (0, 1]', 0 < self.clip_low <= 1),
        ('clip_high', 'above 0', self.clip_high > 0),
        ('dual_clip', 'above 1, or None', self.dual_clip is None or self.dual_clip > 1),
        ('kl_coef', 'at least 0', self.kl_coef >= 0),
        ('sampler_is_threshold', 'above 0, or None', threshold is None or threshold > 0),
        ('temperature', 'above 0', self.temperature > 0),
    ):
      if not fits:
        raise UserError(f'rl: {name} must be {allowed}, got {getattr(self, name)}')


def policy_params(params, temperature: float):
  """Parameters whose probabilities are those of the policy: the softmax of the model's logits divided by a temperature.

  With them sampler and trainer compute the same, so the policy that is sampled is the one that is improved.
  """
  return params | {'head': params['head'] / temperature}


@flax.struct.dataclass
class MeasuredSums(LossSums):
  """LossSums with further sums, which a step reports as means.

  Attributes:
    count: what the means are over, float32: sampled tokens, or pairs.
    totals: {name: float32 sum}.
  """

  count: jax.Array
  totals: dict[str, jax.Array]

  def metrics(self) -> dict[str, jax.Array]:
    means = {name: total / jnp.maximum(self.count, 1) for name, total in self.totals.items()}
    return super().metrics() | means


def policy_sums(
    model, params, batch: PolicyBatch, num_sources: int, chunk: int, *, options: PolicyOptions
) -> tuple[MeasuredSums, dict]:
  """Loss of one (micro-)batch, an objective of train/step.py once `options` are bound; the model's diagnostics.

  Reported per sampled token: see `token_losses`.

  Raises:
    UserError: the batch lacks the log-probabilities of the reference, and kl_coef needs them.
  """
  params = policy_params(params, options.temperature)
  hidden_BTD, diagnostics = model.apply({'params': params}, batch.tokens, batch.segment_ids, batch.positions)
  logps_BT, logz_BT = target_logps(hidden_BTD, params['head'], batch.targets, chunk)
  loss_BT, measured = token_losses(logps_BT, batch, options)
  by_source = lambda rows_B: jax.ops.segment_sum(rows_B, batch.source_ids, num_sources)
  sampled_BT = batch.loss_weights > 0
  sums = MeasuredSums(
      loss_S=by_source(jnp.sum(batch.loss_weights * loss_BT, axis=1)),
      z=jnp.sum(batch.loss_weights * jnp.square(logz_BT)),
      weight_S=by_source(batch.row_weights),
      count=jnp.sum(sampled_BT, dtype=jnp.float32),
      totals={name: jnp.sum(jnp.where(sampled_BT, values_BT, 0)) for name, values_BT in measured.items()},
  )
  return sums, diagnostics


def token_losses(logps_BT, batch: PolicyBatch, options: PolicyOptions) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of each position, and what is measured there.

  loss = -w clip(r, lower, upper) A + kl_coef k3, where r = p / p_old, w = min(p_old / p_sampler, sampler_is_threshold), and
  the bounds depend on the sign of A: (-inf, 1 + clip_high] or [1 - clip_low, dual_clip]. This equals the usual minimum of
  the clipped and the unclipped product. Where nothing was sampled, loss and gradient are exactly zero.

  Args:
    logps_BT: log-probabilities of the targets under the parameters that are trained.

  Returns:
    (loss float32 [B, T], measured). Measured are float32 [B, T] each:
      entropy: -log p; its mean over what was sampled estimates the entropy of the policy.
      clipped_low, clipped_high: 1 where the ratio has no gradient because it is below, or above, its bound.
      update_kl: k3 of KL(p_old, p), how far the updates since the roll-out have moved the policy.
      logp_difference: |log p_old - log p_sampler|, how far the trainer is from the sampler.
      sampler_kl: k3 of KL(p_sampler, p_old).
      reference_kl: k3 of KL(p, p_reference), with kl_coef only.
      sampler_is_truncated: 1 where the weight is cut, with sampler_is_threshold only.
  """
  sampled_BT = batch.loss_weights > 0
  # Every difference is masked before its exponential: zero times infinity would not be zero.
  difference = lambda left, right: jnp.clip(jnp.where(sampled_BT, left - right, 0), -_MOST, _MOST)
  old_BT = jax.lax.stop_gradient(logps_BT) if batch.old_logps is None else batch.old_logps

  log_ratio_BT = difference(logps_BT, old_BT)
  update_kl_BT = _k3(log_ratio_BT)
  if options.ratio == 'sequence':
    length_BT = over_sequence(sampled_BT.astype(jnp.float32), batch.segment_ids)
    log_ratio_BT = over_sequence(log_ratio_BT, batch.segment_ids) / jnp.maximum(length_BT, 1)
  ratio_BT = jnp.exp(log_ratio_BT)

  rises_BT = batch.advantages >= 0
  lower_BT = jnp.where(rises_BT, 0, 1 - options.clip_low)
  upper_BT = jnp.where(rises_BT, 1 + options.clip_high, options.dual_clip or jnp.inf)
  low_BT, high_BT = ratio_BT < lower_BT, ratio_BT > upper_BT
  # Selected instead of clipped: at a bound that is met exactly, the gradient of clip would be cut in half.
  bounded_BT = jnp.where(low_BT, lower_BT, jnp.where(high_BT, upper_BT, ratio_BT))
  loss_BT = -bounded_BT * batch.advantages

  old_BT = jax.lax.stop_gradient(old_BT)
  mismatch_BT = difference(old_BT, batch.sampler_logps)
  measured = {
      'entropy': -logps_BT,
      'clipped_low': low_BT,
      'clipped_high': high_BT,
      'update_kl': update_kl_BT,
      'logp_difference': jnp.abs(jnp.where(sampled_BT, old_BT - batch.sampler_logps, 0)),
      'sampler_kl': _k3(mismatch_BT),
  }
  if options.sampler_is_threshold is not None:
    weight_BT = jnp.exp(mismatch_BT)
    loss_BT = loss_BT * jnp.minimum(weight_BT, options.sampler_is_threshold)
    measured['sampler_is_truncated'] = weight_BT > options.sampler_is_threshold
  if options.kl_coef:
    if batch.reference_logps is None:
      raise UserError('rl: kl_coef needs the log-probabilities of a reference; set it to 0 or compute reference_logps')
    kl_BT = _k3(difference(batch.reference_logps, logps_BT))
    loss_BT = loss_BT + options.kl_coef * kl_BT
    measured['reference_kl'] = kl_BT
  measured = {name: jax.lax.stop_gradient(values).astype(jnp.float32) for name, values in measured.items()}
  return jnp.where(sampled_BT, loss_BT, 0), measured


def _k3(log_ratio):
  """Schulman's estimator of KL(p, q) from a sample of p, where log_ratio = log q - log p: never negative, unbiased."""
  return jnp.exp(log_ratio) - log_ratio - 1


def over_sequence(values_BT, segment_ids_BT):
  """At each position the sum over its sequence, float32 [B, T]."""
  return jnp.take_along_axis(by_segment(values_BT, segment_ids_BT), segment_ids_BT, axis=1)


def by_segment(values_BT, ids_BT):
  """Sums by segment id, float32 [B, T + 1]; a row of T positions has at most T segments, and 0 is padding."""
  one_row = lambda values_T, ids_T: jax.ops.segment_sum(values_T, ids_T, values_T.shape[0] + 1)
  return jax.vmap(one_row)(values_BT, ids_BT)


def batch_logps(model, params, batch: Batch, *, micro_rows: int, chunk: int) -> jax.Array:
  """Log-probabilities of the targets, float32 [B, T]: the old ones of a batch, or those of a reference.

  Args:
    micro_rows: rows of a micro-batch, as in a step: train.batch_rows / train.accumulation.
    chunk: as in `target_logps`.
  """

  def one(micro):
    micro = step.on_mesh(micro)
    hidden_BTD, _ = model.apply({'params': params}, micro.tokens, micro.segment_ids, micro.positions)
    return target_logps(hidden_BTD, params['head'], micro.targets, chunk)[0]

  # Micro-batch m has every count-th row, so the rows of one device stay on it.
  logps = jax.lax.map(one, step.micro_batches(batch, batch.tokens.shape[0] // micro_rows))
  return sharding.constrain(jnp.moveaxis(logps, 0, 1).reshape(batch.tokens.shape), 'batch', 'sequence')
