"""The policy loss written out in float64 numpy from trajectories, as the papers print it; and a model that is a table.

The oracle knows nothing of rows, packing or masks: it walks over trajectories and their sampled tokens.
"""

import math
import types

import jax.numpy as jnp
import numpy as np

from iquest_jax.rl.types import Trajectory, Turn

V, D = 17, 4


def _apply(variables, tokens, segment_ids, positions):
  """A token's hidden state is its embedding; the diagnostic is the mean token."""
  return variables['params']['embedding'][tokens], {'loop_gate': jnp.mean(tokens.astype(jnp.float32), keepdims=True)[0]}


TABLE = types.SimpleNamespace(apply=_apply, config=types.SimpleNamespace(loop_window=3))


def make_params(seed=0):
  random = np.random.default_rng(seed)
  draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
  return {'embedding': draw(V, D), 'head': draw(D, V)}


def logp(params, token, target):
  """float64 log-probability of a token after another under the table."""
  logits = params['embedding'][token].astype(np.float64) @ params['head'].astype(np.float64)
  return logits[target] - math.log(np.sum(np.exp(logits)))


def at_temperature(params, temperature):
  """Parameters whose logits are divided by a temperature."""
  return {**params, 'head': params['head'] / temperature}


def logps(params, trajectory):
  """{position of a sampled token: its float64 log-probability}."""
  tokens = trajectory.tokens
  return {at: logp(params, tokens[at - 1], tokens[at]) for at, flag in enumerate(trajectory.sampled) if flag}


def make_trajectories(params, count=5, *, noise=0.3, seed=1, most=4):
  """Trajectories of one to three turns with observations between them; the sampler is off by `noise`."""
  random = np.random.default_rng(seed)
  ids = lambda low, high: tuple(random.integers(0, V, random.integers(low, high)).tolist())
  made = []
  for sample in range(count):
    prompt, parts = ids(1, 4), [(ids(1, most), ids(0, 3)) for _ in range(random.integers(1, 4))]
    zeros = tuple(Turn(tokens, (0.0,) * len(tokens), observed) for tokens, observed in parts)
    exact = logps(params, Trajectory('p', sample, 0, prompt, zeros, 'stop', ''))
    drawn = iter([np.float32(value + noise * random.standard_normal()).item() for value in exact.values()])
    turns = tuple(Turn(tokens, tuple(next(drawn) for _ in tokens), observed) for tokens, observed in parts)
    made.append(Trajectory('p', sample, 0, prompt, turns, 'stop', ''))
  return made


def policy_loss(params, trajectories, advantages, options, *, old, reference, loss_agg, length_divisor=None):
  """float64 loss.

  Args:
    old, reference: per trajectory, what `logps` returns; fixed numbers.
  """
  losses, params = [], at_temperature(params, options.temperature)
  for trajectory, advantage, old_of, reference_of in zip(trajectories, advantages, old, reference):
    new = logps(params, trajectory)
    sampler = {at: trajectory.logps[at] for at in new}
    mean_ratio = math.exp(sum(new[at] - old_of[at] for at in new) / len(new))
    losses.append([])
    for at in new:
      ratio = mean_ratio if options.ratio == 'sequence' else math.exp(new[at] - old_of[at])
      clipped = min(max(ratio, 1 - options.clip_low), 1 + options.clip_high)
      gain = min(ratio * advantage, clipped * advantage)
      if options.dual_clip is not None and advantage < 0:
        gain = max(gain, options.dual_clip * advantage)
      if options.sampler_is_threshold is not None:
        gain *= min(math.exp(old_of[at] - sampler[at]), options.sampler_is_threshold)
      kl = math.exp(reference_of[at] - new[at]) - (reference_of[at] - new[at]) - 1
      losses[-1].append(-gain + options.kl_coef * kl)
  if loss_agg == 'token_mean':
    return sum(map(sum, losses)) / sum(map(len, losses))
  if loss_agg == 'seq_mean':
    return sum(sum(each) / len(each) for each in losses) / len(losses)
  return sum(sum(each) / length_divisor for each in losses) / len(losses)


def differences(function, params, step=1e-5):
  """The gradient of a float64 function of parameters, by central differences."""
  wide = {name: leaf.astype(np.float64) for name, leaf in params.items()}
  grads = {name: np.zeros_like(leaf) for name, leaf in wide.items()}
  for name, leaf in wide.items():
    for index in np.ndindex(leaf.shape):
      kept = leaf[index]
      leaf[index] = kept + step
      above = function(wide)
      leaf[index] = kept - step
      grads[name][index] = (above - function(wide)) / (2 * step)
      leaf[index] = kept
  return grads
