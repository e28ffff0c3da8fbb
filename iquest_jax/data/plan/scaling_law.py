"""The multilingual scaling law: fitted to measured losses, and what it predicts for a size, a budget and a mixture.

  L = A N^-aN + B D^-aD + Linf                                         one language; N and D in billions
  L = A N^-aN(p) + B Dx^-aD(p) + Linf(p),  Dx = D (1 + gamma sum_{i != j} p_i p_j tau_ij)    as printed, for a mixture p
  L_i(N, Deff_i),  Deff_i = max(D_i + gamma sum_j tau_ij D_j, D_i / 2)                       ours, for each language i of it

In the printed form the exponents and Linf are means over the languages, weighted by p. It is degenerate: Linf(p) is
linear, so its minimum puts everything on the language of the lowest Linf, C#. A plan therefore minimises the mean of the
third form. gamma is unpublished (1.0 unless given); so are A and B of the printed form, for which those of the mean surface
stand in.

Source: arXiv 2512.13472, sections on the law and on transfer. # ours: Deff, its bound, and gamma = 1.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from iquest_jax.data.plan import published
from iquest_jax.errors import UserError, check_name

# (N, D, loss): billions of parameters, billions of tokens, nats per token.
Points = Sequence[tuple[float, float, float]]

# A fit needs at least so many sizes, and token counts: three parameters of the law belong to each.
_FEWEST = 3
# Exponents among which a fit finds its start; the other three parameters follow from them by linear least squares.
_EXPONENTS = np.geomspace(0.03, 4.0, 36)


@dataclasses.dataclass(frozen=True)
class Surface:
  """The loss of one language, `a n^-a_n + b d^-a_d + floor` in nats per token; n and d in billions, any array shapes."""

  a: float
  a_n: float
  b: float
  a_d: float
  floor: float

  def loss(self, n, d):
    """Loss of n billion parameters trained on d billion tokens."""
    return self.a * np.power(n, -self.a_n) + self.b * np.power(d, -self.a_d) + self.floor

  def slope(self, d):
    """Derivative of the loss in d."""
    return -self.a_d * self.b * np.power(d, -self.a_d - 1)


def fit(points: Points, name: str = 'losses') -> Surface:
  """The surface of least squared errors, unweighted, in float64.

  Starts from the best pair of exponents of a grid, so the result does not depend on a guess.

  Raises:
    UserError: too few points, a number that is not positive and finite, or losses that do not fall with size and tokens;
      the line begins with `name`.
  """
  from scipy import optimize

  values = np.asarray(points, np.float64).reshape(-1, 3)
  if not np.isfinite(values).all() or (values <= 0).any():
    raise UserError(f'{name}: sizes, tokens and losses must be positive and finite; correct or remove the others')
  n, d, loss = values.T
  for what, given in (('sizes', n), ('token counts', d)):
    if (found := len(np.unique(given))) < _FEWEST:
      raise UserError(f'{name}: a fit needs at least {_FEWEST} {what}, got {found}; measure more')
  a_n, a_d = (grid.ravel() for grid in np.meshgrid(_EXPONENTS, _EXPONENTS))
  terms = np.stack([n**-a_n[:, None], d**-a_d[:, None], np.ones((len(a_n), len(n)))], axis=-1)  # [starts, points, 3]
  linear = np.linalg.pinv(terms) @ loss
  errors = np.square(np.squeeze(terms @ linear[..., None], -1) - loss).sum(axis=1)

  def residuals(x):
    return Surface(*x).loss(n, d) - loss

  def jacobian(x):
    powers_n, powers_d = n ** -x[1], d ** -x[3]
    columns = [powers_n, -x[0] * np.log(n) * powers_n, powers_d, -x[2] * np.log(d) * powers_d, np.ones_like(n)]
    return np.stack(columns, axis=1)

  best = np.argmin(errors)
  start = (linear[best, 0], a_n[best], linear[best, 1], a_d[best], linear[best, 2])
  tight = dict(method='lm', xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=10_000)
  surface = Surface(*map(float, optimize.least_squares(residuals, start, jacobian, **tight).x))
  if min(surface.a, surface.a_n, surface.b, surface.a_d) <= 0:
    raise UserError(f'{name}: the losses do not fall with size and tokens, so the law does not fit; check or measure them')
  return surface


def read_points(path: str | os.PathLike) -> dict[str, list[tuple[float, float, float]]]:
  """{language: its points} of a JSON file {"N": sizes, "D": token counts, "points": {language: [[loss, per D], per N]}}.

  Raises:
    UserError: the file cannot be read, is not JSON, or lacks or adds numbers.
  """
  try:
    content = json.loads(pathlib.Path(path).read_text())
    sizes, tokens = [float(n) for n in content['N']], [float(d) for d in content['D']]
    tables = {name: [[float(loss) for loss in row] for row in table] for name, table in content['points'].items()}
  except OSError as error:
    raise UserError(f'{path}: {error.strerror}') from None
  except (ValueError, KeyError, TypeError, AttributeError):
    way_out = '{"N": [...], "D": [...], "points": {language: [[a loss per D], a row per N]}}'
    raise UserError(f'{path}: is not a file of measured losses; it must be JSON of the form {way_out}') from None
  for name, table in tables.items():
    if len(table) != len(sizes) or any(len(row) != len(tokens) for row in table):
      raise UserError(f'{path}: "{name}" must have {len(sizes)} rows of {len(tokens)} losses, one row per N')
  return {
      name: [(n, d, loss) for n, row in zip(sizes, table) for d, loss in zip(tokens, row)] for name, table in tables.items()
  }


@dataclasses.dataclass(frozen=True)
class Law:
  """What is known of each language, and of what languages do for each other.

  Attributes:
    surfaces: {language: its Surface}.
    mean: the surface of the languages' mean losses; the printed form takes A and B from it.
    transfer: {target: {helper: tau}}, fractions; 0 where nothing is said.
    gamma: how much transfer counts; unpublished.
  """

  surfaces: Mapping[str, Surface]
  mean: Surface
  transfer: Mapping[str, Mapping[str, float]]
  gamma: float = 1.0

  def __post_init__(self):
    if not 0 <= self.gamma < float('inf'):
      raise UserError(f'--gamma must be at least 0 and finite, got {self.gamma}')

  @classmethod
  def published(cls, gamma: float = 1.0) -> 'Law':
    """The law of the seven languages of the paper."""
    surfaces = {name: Surface(*values) for name, values in published.SURFACES.items()}
    return cls(surfaces, surfaces.pop(published.AVERAGE), published.TRANSFER, gamma)

  @classmethod
  def fitted(cls, points: Mapping[str, Points], gamma: float = 1.0) -> 'Law':
    """The law of measured losses, {language: points} as `read_points` gives them, with the published transfer.

    Raises:
      UserError: see `fit`; also if `points` names no language.
    """
    languages = {name: values for name, values in points.items() if name != published.AVERAGE}
    if not languages:
      raise UserError('losses: no language is given; measure at least one')
    every = points.get(published.AVERAGE) or [point for values in languages.values() for point in values]
    surfaces = {name: fit(values, f'losses: "{name}"') for name, values in languages.items()}
    return cls(surfaces, fit(every, 'losses: their mean'), published.TRANSFER, gamma)

  def check(self, languages: Iterable[str]) -> None:
    """Raises UserError for a language without a surface; names the nearest."""
    for name in languages:
      check_name('scaling law: language', name, self.surfaces)

  def tau(self, languages: Sequence[str]) -> np.ndarray:
    """[target, helper]: transfer among these languages; 0 on the diagonal and where none was measured."""
    return np.array([
        [self.transfer.get(target, {}).get(helper, 0.0) if helper != target else 0.0 for helper in languages]
        for target in languages
    ])  # fmt: skip

  def losses(self, n: float, d: float, mixture: Mapping[str, float]) -> dict[str, float]:
    """{language: its loss, nats per token} after d billion tokens in these shares (adding to 1), by the form that is ours.

    A language without a share, to which none transfers, has an infinite loss.

    Args:
      n: billions of parameters.

    Raises:
      UserError: a language the law does not know.
    """
    self.check(mixture)
    names = list(mixture)
    own = d * np.array([mixture[name] for name in names], np.float64)
    effective = np.maximum(own + self.gamma * self.tau(names) @ own, own / 2)
    with np.errstate(divide='ignore'):
      return {name: float(self.surfaces[name].loss(n, tokens)) for name, tokens in zip(names, effective)}

  def loss(self, n: float, d: float, mixture: Mapping[str, float]) -> float:
    """Mean over the languages of `losses`, each counting alike: what a plan minimises."""
    return float(np.mean(list(self.losses(n, d, mixture).values())))

  def printed(self, n: float, d: float, mixture: Mapping[str, float]) -> float:
    """Loss of a mixture by the law as printed, nats per token; as `losses`."""
    self.check(mixture)
    names, p = list(mixture), np.array(list(mixture.values()), np.float64)
    mean = lambda field: float(p @ [getattr(self.surfaces[name], field) for name in names])
    shared = d * (1 + self.gamma * p @ self.tau(names) @ p)
    return float(Surface(self.mean.a, mean('a_n'), self.mean.b, mean('a_d'), mean('floor')).loss(n, shared))
