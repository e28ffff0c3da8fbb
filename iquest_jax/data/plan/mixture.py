"""Plans the shares of languages: the mean loss over them is least, and none repeats its data too often.

The law's bound Deff_i >= D_i / 2 makes a language's loss the smaller of two convex functions of the shares. So a plan
solves one convex programme per choice of the smaller one; only languages that others hurt have a choice (Python alone).
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from iquest_jax.data.plan import published
from iquest_jax.data.plan.scaling_law import Law, Surface
from iquest_jax.errors import UserError

# Up to four passes over the same data are almost as good as new data (Muennighoff et al. 2023, arXiv 2305.16264).
EPOCHS = 4.0
# Below this part of what it starts from, a language's loss continues as a straight line: finite, convex, and never optimal.
_LEAST = 1e-3
# Nats per token by which a plan may miss the minimum, and a limit on the moves of share that lead there (it takes tens).
_TOLERANCE, _MOVES = 1e-8, 2000


@dataclasses.dataclass(frozen=True)
class Plan:
  """Shares of languages and what the law expects of them.

  Attributes:
    n, d: billions of parameters, and of tokens in all.
    shares: {language: share}; they add to 1.
    uniform: {language: share}, as even as the available tokens allow.
    losses, uniform_losses: {language: nats per token} of the two.
    epochs: {language: how often its available tokens are read}; 0 where they are unlimited.
    gap: at most so much, in nats, may the mean loss lie above the least one.
  """

  n: float
  d: float
  shares: dict[str, float]
  uniform: dict[str, float]
  losses: dict[str, float]
  uniform_losses: dict[str, float]
  epochs: dict[str, float]
  gap: float

  loss = property(lambda self: float(np.mean(list(self.losses.values()))))
  uniform_loss = property(lambda self: float(np.mean(list(self.uniform_losses.values()))))


def plan(
    law: Law, n: float, d: float, languages: Sequence[str], available: Mapping[str, float] | None = None, epochs=EPOCHS
) -> Plan:
  """The shares of these languages with the least mean loss over them.

  Args:
    n: billions of parameters.
    d: billions of tokens to train on.
    available: {language: billions of tokens there are}; unlimited where it says nothing.
    epochs: how often a token may be read.

  Raises:
    UserError: a language the law does not know or that is named twice, a number out of range, or fewer tokens than d.
  """
  names, available = list(languages), dict(available or {})
  _check(law, n, d, names, available, epochs)
  caps = np.array([min(1.0, epochs * available.get(name, math.inf) / d) for name in names])
  if caps.sum() < 1 - 1e-12:
    most = sum(epochs * available[name] for name in names)
    raise UserError(
        f'plan: {d:g} billion tokens are more than the {most:g} billion that {epochs:g} epochs of the available tokens '
        'give; lower --tokens, add languages, or raise --available or --epochs'
    )
  uniform = _even(caps)
  surfaces, tau = [law.surfaces[name] for name in names], law.gamma * law.tau(names)
  hurt = [row for row in range(len(names)) if (tau[row] < 0).any()]
  found = []
  for halved in itertools.chain.from_iterable(itertools.combinations(hurt, size) for size in range(len(hurt) + 1)):
    # [language, language]: effective tokens per token, either with transfer or by the bound.
    effective = np.eye(len(names)) + tau
    effective[list(halved)] = np.eye(len(names))[list(halved)] / 2
    found.append(_convex(surfaces, n, d, effective, uniform, caps))
  _, shares, gap = min(found, key=lambda one: one[0])
  as_dict = lambda values: dict(zip(names, map(float, values)))
  return Plan(
      n=n,
      d=d,
      shares=as_dict(shares),
      uniform=as_dict(uniform),
      losses=law.losses(n, d, as_dict(shares)),
      uniform_losses=law.losses(n, d, as_dict(uniform)),
      epochs={name: float(share * d / available[name]) if name in available else 0.0 for name, share in zip(names, shares)},
      gap=gap,
  )


def published_loss(law: Law, n: float, d: float, languages: Sequence[str]) -> float | None:
  """Mean loss that the law expects of the paper's own allocation; None unless the languages are its seven."""
  return law.loss(n, d, published.ALLOCATION) if set(languages) == set(published.ALLOCATION) else None


def _check(law: Law, n: float, d: float, names: list[str], available: Mapping[str, float], epochs: float) -> None:
  if not names:
    raise UserError(f'--languages is empty; name some of {", ".join(law.surfaces)}')
  law.check(names)
  if len(set(names)) < len(names):
    raise UserError(f'--languages names a language twice: {", ".join(names)}; name each once')
  for what, value, unit in (('--size', n, 1e9), ('--tokens', d, 1e9), ('--epochs', epochs, 1)):
    if not 0 < value < math.inf:
      raise UserError(f'{what} must be above 0 and finite, got {value * unit:g}')
  for name, tokens in available.items():
    if name not in names:
      raise UserError(f'--available: "{name}" is not among --languages; add it there or leave it out')
    if not 0 < tokens < math.inf:
      raise UserError(f'--available: the tokens of "{name}" must be above 0 and finite, got {tokens * 1e9:g}')


def _even(caps: np.ndarray) -> np.ndarray:
  """Shares [L] that add to 1, alike where the caps allow; what a cap withholds goes to the others alike."""
  shares = np.zeros_like(caps)
  for place, name in enumerate(order := np.argsort(caps, kind='stable')):
    shares[name] = min(caps[name], (1 - shares.sum()) / (len(order) - place))
  return shares


def _convex(
    surfaces: Sequence[Surface], n: float, d: float, effective: np.ndarray, start: np.ndarray, caps: np.ndarray
) -> tuple[float, np.ndarray, float]:
  """(mean loss, shares [L], gap) of one convex programme, where `effective` [L, L] maps tokens to effective tokens.

  Moves share between the pair of languages that gains most by it, as far as it gains, until no pair gains any more. The gap
  bounds how far the loss is above the minimum (the duality gap of Frank-Wolfe, Jaggi 2013).
  """
  from scipy import optimize

  least = _LEAST * d * np.maximum(effective @ start, start / 2)

  def gradient(shares):
    slopes = [surface.slope(x) for surface, x in zip(surfaces, np.maximum(d * effective @ shares, least))]
    return d * effective.T @ np.array(slopes) / len(surfaces)

  shares = start.copy()
  for _ in range(_MOVES):
    slopes = gradient(shares)
    if slopes @ (shares - _cheapest(slopes, caps)) <= _TOLERANCE:
      break
    giver = int(np.argmax(np.where(shares > 0, slopes, -np.inf)))
    taker = int(np.argmin(np.where(shares < caps, slopes, np.inf)))
    move = (np.arange(len(caps)) == taker) * 1.0 - (np.arange(len(caps)) == giver)
    most = min(shares[giver], caps[taker] - shares[taker])
    gain = lambda step, shares=shares, move=move: gradient(shares + step * move) @ move
    step = most if gain(most) <= 0 else optimize.brentq(gain, 0.0, most, xtol=1e-15, rtol=1e-14)
    shares = shares + step * move
    # Exactly at an end, so that rounding leaves no language a share it cannot have.
    shares[giver], shares[taker] = max(shares[giver], 0.0), min(shares[taker], caps[taker])
  slopes, tokens = gradient(shares), np.maximum(d * effective @ shares, least)
  loss = float(np.mean([surface.loss(n, x) for surface, x in zip(surfaces, tokens)]))
  return loss, shares, float(slopes @ (shares - _cheapest(slopes, caps)))


def _cheapest(gradient: np.ndarray, caps: np.ndarray) -> np.ndarray:
  """The shares [L] within the caps that minimise a linear function: the cheapest languages, filled up in turn."""
  shares = np.zeros_like(caps)
  for name in np.argsort(gradient, kind='stable'):
    shares[name] = min(caps[name], 1 - shares.sum())
  return shares
