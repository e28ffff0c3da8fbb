"""The law: a fit gives the drawn surfaces and any other again, predictions are the formulas, bad losses are one line."""

import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from iquest_jax.data.plan import published
from iquest_jax.data.plan.scaling_law import Law, Surface, fit, read_points
from iquest_jax.errors import UserError

POINTS = pathlib.Path(__file__).parent / 'scaling_law_points.json'
DRAWN = json.loads(POINTS.read_text())['surface_params_A_aN_B_aD_Linf']
SEVEN = list(published.ALLOCATION)
LAW = Law.published()


def parameters(surface):
  return np.array([surface.a, surface.a_n, surface.b, surface.a_d, surface.floor])


def test_the_fit_gives_the_drawn_surfaces_to_three_decimals():
  points = read_points(POINTS)
  assert len(points) == len(DRAWN) == 8 and all(len(values) == 60 for values in points.values())
  for name, values in points.items():
    assert np.abs(parameters(fit(values)) - DRAWN[name]).max() < 5e-4, name


def test_the_published_surfaces_are_the_drawn_ones():
  assert {name: tuple(values) for name, values in DRAWN.items()} == published.SURFACES


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(
        st.floats(0.02, 0.5), st.floats(0.15, 1.2), st.floats(0.5, 6.0), st.floats(0.3, 1.6), st.floats(0.05, 1.0)
    )
)  # fmt: skip
def test_losses_without_noise_give_their_surface_again(truth):
  a, a_n, b, a_d, floor = truth
  points = [(n, d, a * n**-a_n + b * d**-a_d + floor) for n in (0.1, 0.3, 1, 2, 3) for d in (2, 5, 16, 40, 64)]
  np.testing.assert_allclose(parameters(fit(points)), truth, rtol=1e-5)


def test_the_transfer_table_is_the_published_one():
  # Rows are targets: C# helps Java most, and Rust hurts Python most; nothing but Python is ever hurt.
  assert LAW.tau(['Java', 'C#']) == pytest.approx(np.array([[0.0, 0.2058], [0.0193, 0.0]]))
  assert LAW.tau(['Python', 'Rust']) == pytest.approx(np.array([[0.0, -0.0272], [0.0387, 0.0]]))
  table = LAW.tau(SEVEN)
  assert (table < 0).sum() == 5 and (table[SEVEN.index('Python')] < 0).sum() == 5
  assert round(100 * table.sum(), 2) == 158.38  # the sum of the printed table
  assert sum(published.ALLOCATION.values()) == pytest.approx(1.0, abs=1e-9)


def test_a_language_pays_for_its_own_tokens_and_gains_from_the_others():
  """Ten lines of plain floats, with gamma 2."""
  got = Law.published(gamma=2.0).losses(1.5, 40.0, {'Java': 0.75, 'C#': 0.25})
  java = 30.0 + 2.0 * 0.2058 * 10.0
  sharp = 10.0 + 2.0 * 0.0193 * 30.0
  assert got['Java'] == pytest.approx(0.12725 * 1.5**-0.47426 + 4.67777 * java**-1.20901 + 0.59958, rel=1e-12)
  assert got['C#'] == pytest.approx(0.08001 * 1.5**-0.32199 + 2.14374 * sharp**-1.3985 + 0.22055, rel=1e-12)
  assert Law.published(2.0).loss(1.5, 40.0, {'Java': 0.75, 'C#': 0.25}) == pytest.approx(sum(got.values()) / 2)


def test_what_hurts_a_language_takes_at_most_half_its_data():
  law, mixture = Law.published(gamma=100.0), {'Python': 0.5, 'Rust': 0.5}
  halved = 0.22089 * 3**-0.22086 + 2.8569 * (10.0 / 2) ** -1.26429 + 0.37606
  assert law.losses(3.0, 20.0, mixture)['Python'] == pytest.approx(halved, rel=1e-12)


def test_a_language_without_data_has_no_finite_loss():
  assert Law.published(gamma=0.0).losses(1.0, 10.0, {'Go': 1.0, 'Rust': 0.0})['Rust'] == math.inf


def test_the_printed_law_is_its_formula():
  p, n, d = {'Java': 0.6, 'C#': 0.4}, 2.0, 30.0
  shared = d * (1 + 0.6 * 0.4 * 0.2058 + 0.4 * 0.6 * 0.0193)
  a_n, a_d = 0.6 * 0.47426 + 0.4 * 0.32199, 0.6 * 1.20901 + 0.4 * 1.3985
  expected = 0.06357 * n**-a_n + 2.76975 * shared**-a_d + 0.6 * 0.59958 + 0.4 * 0.22055
  assert LAW.printed(n, d, p) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('start', range(3))
def test_the_printed_law_alone_puts_everything_on_one_language(start):
  """Why a plan does not minimise it."""
  as_mixture = lambda p: dict(zip(SEVEN, p))
  solved = optimize.minimize(
      lambda p: LAW.printed(7.6, 100.0, as_mixture(p)),
      np.random.default_rng(start).dirichlet(np.ones(7)),
      bounds=[(0, 1)] * 7,
      constraints={'type': 'eq', 'fun': lambda p: p.sum() - 1},
      options={'ftol': 1e-12},
  )
  assert as_mixture(solved.x)['C#'] > 0.9999


def test_a_language_nobody_measured_transfer_for_gets_none():
  points = {'Zig': [(n, d, 0.1 / n + 3 / d + 0.4) for n in (0.5, 1, 2) for d in (2, 4, 8)]}
  law = Law.fitted(points | {name: values for name, values in read_points(POINTS).items() if name == 'Go'})
  assert not law.tau(['Zig', 'Go']).any()
  assert law.losses(1.0, 8.0, {'Zig': 0.5, 'Go': 0.5})['Zig'] == pytest.approx(0.1 + 3 / 4 + 0.4, rel=1e-6)


GRID = [(n, d, 0.1 / n + 3 / d + 0.4) for n in (0.5, 1, 2) for d in (2, 4, 8)]


@pytest.mark.parametrize(
    'points, reason',
    [
        ([], 'at least 3 sizes, got 0'),
        (GRID[:3], 'at least 3 sizes, got 1'),
        ([point for point in GRID if point[1] < 8], 'at least 3 token counts, got 2'),
        ([*GRID, (1.0, 4.0, math.nan)], 'must be positive and finite'),
        ([*GRID, (1.0, -4.0, 1.0)], 'must be positive and finite'),
        ([(n, d, 3 - loss) for n, d, loss in GRID], 'do not fall with size and tokens'),
    ],
)
def test_losses_that_cannot_be_fitted_are_one_line(points, reason):
  with pytest.raises(UserError, match='^losses: "Zig"') as error:
    fit(points, 'losses: "Zig"')
  assert reason in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'text, reason',
    [
        ('no json', 'is not a file of measured losses'),
        ('[1, 2]', 'is not a file of measured losses'),
        ('{"N": [1], "D": [1]}', 'is not a file of measured losses'),
        ('{"N": [1], "D": ["many"], "points": {}}', 'is not a file of measured losses'),
        ('{"N": [1], "D": [1], "points": {"Go": [3]}}', 'is not a file of measured losses'),
        ('{"N": [1, 2], "D": [1], "points": {"Go": [[3]]}}', '"Go" must have 2 rows of 1 losses'),
    ],
)
def test_a_file_that_holds_no_losses_is_one_line(tmp_path, text, reason):
  path = tmp_path / 'points.json'
  path.write_text(text)
  with pytest.raises(UserError) as error:
    read_points(path)
  assert str(error.value).startswith(f'{path}: ') and reason in str(error.value) and '\n' not in str(error.value)
  with pytest.raises(UserError, match='No such file'):
    read_points(tmp_path / 'none.json')


def test_a_language_the_law_has_never_seen_is_one_line():
  with pytest.raises(UserError, match='language "Jawa" does not exist; did you mean "Java"'):
    LAW.losses(1.0, 1.0, {'Jawa': 1.0})


@pytest.mark.parametrize('gamma', [-1.0, math.inf, math.nan])
def test_gamma_must_be_a_number_that_helps(gamma):
  with pytest.raises(UserError, match='^--gamma must be at least 0 and finite, got'):
    Law.published(gamma)


def test_a_slope_is_the_derivative():
  surface = Surface(*published.SURFACES['Go'])
  numeric = (surface.loss(1.0, 10.001) - surface.loss(1.0, 9.999)) / 0.002
  assert surface.slope(10.0) == pytest.approx(numeric, rel=1e-6)
