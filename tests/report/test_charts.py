"""Charts and trees are drawn where their values say."""

import math
import random
import re

import numpy as np
import pytest

from iquest_jax.report import charts, tree
from iquest_jax.report.charts import Line
from iquest_jax.report.tree import Node


def path_of(svg, colour=0):
  """Coordinates [n, 2] of a drawn line."""
  (drawn,) = re.findall(rf'<path class="line l{colour}(?: faint)?" d="M([^"]*)"', svg)
  return np.array([[float(value) for value in point.split()] for point in drawn.split('L')])


def grid_of(svg):
  """{label: height of its grid line}."""
  found = re.findall(r'd="M[\d.]+ ([\d.]+)H[^/]*/><text [^>]*text-anchor="end">([^<]*)<', svg)
  return {float(label): float(height) for height, label in found}


def test_points_lie_where_the_grid_says():
  points = [(10 * step, 2.0 + math.sin(step)) for step in range(50)]
  svg = charts.chart('x', [Line('a', points)])
  drawn, grid = path_of(svg), grid_of(svg)
  assert len(grid) >= 3
  slope, start = np.polyfit(list(grid.values()), list(grid), 1)
  np.testing.assert_allclose(slope * drawn[:, 1] + start, [y for _, y in points], atol=0.01)
  np.testing.assert_allclose(np.diff(drawn[:, 0]), np.full(49, (drawn[-1, 0] - drawn[0, 0]) / 49), atol=0.11)


def test_two_lines_share_their_axes():
  svg = charts.chart('x', [Line('a', [(0, 1.0), (10, 3.0)], 0), Line('b', [(5, 3.0), (10, 1.0)], 1)])
  one, other = path_of(svg, 0), path_of(svg, 1)
  assert one[0, 1] == other[1, 1] and one[1, 1] == other[0, 1] and one[0, 1] > one[1, 1]
  assert other[0, 0] == pytest.approx((one[0, 0] + one[1, 0]) / 2, abs=0.11)


def test_stages_are_bands_of_equal_width_named_in_order():
  svg = charts.chart('x', [Line('a', [(0.0, 1.0), (3.0, 2.0)])], bands=('one', 'two', 'three'))
  bands = [
      (float(x), float(wide))
      for x, wide in re.findall(r'<rect class="band b\d" x="([\d.]+)" y="10" width="([\d.]+)"', svg)
  ]
  assert len(bands) == 3 and max(wide for _, wide in bands) - min(wide for _, wide in bands) < 0.11
  assert svg.index('one') < svg.index('two') < svg.index('three')
  assert path_of(svg)[0, 0] == bands[0][0] and path_of(svg)[1, 0] == pytest.approx(sum(bands[2]), abs=0.11)


def test_many_points_become_means_of_neighbours_and_keep_the_last():
  points = [(step, random.Random(step).random()) for step in range(10_007)]
  thinned = charts.thinned(points, 100)
  assert len(thinned) <= 101 and thinned[-1] == points[-1]
  size = math.ceil(len(points) / 100)
  np.testing.assert_allclose(thinned[3], np.mean(points[3 * size : 4 * size], axis=0))
  assert charts.thinned(points[:100], 100) == points[:100]


def test_one_spike_does_not_flatten_a_chart():
  low, high = charts.value_range([1.0 + step / 1000 for step in range(1000)] + [1e6])
  assert 1.0 >= low > 0.8 and 2.0 < high < 2.3
  drawn = path_of(charts.chart('x', [Line('a', [*((step, 1.0 + step / 300) for step in range(230)), (230, 1e6)])]))
  assert drawn[:, 1].min() >= 9.9


@pytest.mark.parametrize('values', [[0.0], [3.0, 3.0], [-2.0], [1e-12, 2e-12], [1e300, -1e300], [0, 1e-320]])
def test_any_finite_values_can_be_drawn(values):
  svg = charts.chart('x', [Line('a', list(enumerate(values)), dots=True)])
  assert 'nan' not in svg and 'inf' not in svg and np.isfinite(path_of(svg)).all()


@pytest.mark.parametrize(('low', 'high'), [(0.37, 0.71), (0, 6.9), (-0.06, 0.01), (1e-7, 3e-7), (12, 99_000)])
def test_ticks_are_round_evenly_spaced_and_inside(low, high):
  found = charts.ticks(low, high, 5)
  assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high
  steps = np.diff(found)
  np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
  mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
  assert min(abs(mantissa - round_one) for round_one in (1, 2, 2.5, 5)) < 1e-4


def test_a_chart_without_points_is_nothing():
  assert charts.chart('x', [Line('a', [])]) == '' == charts.chart('x', [])


def boxes(svg):
  """(x, y) of the boxes, in order of the nodes."""
  return [(float(x), float(y)) for x, y in re.findall(r'<rect class="box \w*" x="([\d.]+)" y="([\d.]+)"', svg)]


def nodes(*parents):
  return [Node(name, parent, ['steps'], 'abc', '', 'done') for name, parent in parents]


@pytest.mark.parametrize('across', [True, False])
def test_a_stage_stands_after_its_parent_and_branches_stand_apart(across):
  chain = nodes(('a', ''), ('b', 'a'), ('c', 'b'), ('d', 'b'), ('e', 'd'))
  svg = tree.tree('x', chain, across)
  ahead = 0 if across else 1
  a, b, c, d, e = boxes(svg)
  assert a[ahead] < b[ahead] < c[ahead] == d[ahead] < e[ahead]
  assert abs(c[1 - ahead] - d[1 - ahead]) > (tree.TALL if across else tree.WIDE)
  assert d[1 - ahead] == e[1 - ahead]
  assert b[1 - ahead] == pytest.approx((c[1 - ahead] + d[1 - ahead]) / 2, abs=0.1)
  assert svg.count('class="edge"') == 4


def test_a_stage_that_names_itself_or_an_unknown_parent_is_drawn():
  svg = tree.tree('x', nodes(('a', 'b'), ('b', 'a'), ('c', 'c'), ('d', 'gone')), True)
  assert len(set(boxes(svg))) == 4
