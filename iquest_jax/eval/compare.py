"""Two runs of the same problems side by side: differences with intervals paired by problem, and problems that flipped."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from iquest_jax.errors import UserError
from iquest_jax.eval.suites import BITS_PER_BYTE
from iquest_jax.sandbox.verdict import PASSED

_RESAMPLES = 4000
_CHUNK = 2_000_000  # counts drawn at a time, to bound memory


@dataclasses.dataclass(frozen=True)
class Difference:
  """A figure of two runs.

  Attributes:
    left, right: means over the problems that both have scored; bits per byte: over all rows of both.
    low, high: 95 % interval of right - left, by bootstrap over problems (rows).
    problems: how many those are.
  """

  figure: str
  left: float
  right: float
  low: float
  high: float
  problems: int


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two runs of one suite.

  Attributes:
    differences: one per figure that both have.
    gained, lost: problems of which the right run solved a larger, or smaller, share of samples.
    unpaired: problems that one of the two did not score.
  """

  suite: str
  differences: list[Difference]
  gained: list[str]
  lost: list[str]
  unpaired: int


def load(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """{suite: what is in its results.json} of a folder of suites, or of one suite.

  Raises:
    UserError: there is none, or one is damaged.
  """
  files = [path] if path.is_file() else sorted([*path.glob('results.json'), *path.glob('*/results.json')])
  if not files:
    raise UserError(f'compare: {path} has no results.json; name the folder that an evaluation wrote, see --out')
  loaded = {}
  for file in files:
    try:
      results = json.loads(file.read_text())
      loaded[results['settings']['suite']] = results
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise UserError(f'compare: {file} cannot be read ({error}); evaluate again') from None
  return loaded


def compare(left: Mapping[str, dict], right: Mapping[str, dict]) -> list[Comparison]:
  """Compares the suites that both have.

  Raises:
    UserError: they have none in common, or a suite was run on other problems.
  """
  shared = sorted(left.keys() & right.keys())
  if not shared:
    raise UserError(f'compare: no suite in common: {", ".join(sorted(left))} and {", ".join(sorted(right))}')
  return [_rows(left[name], right[name]) if name == BITS_PER_BYTE else _suite(left[name], right[name]) for name in shared]


def interval(differences: np.ndarray, weights: np.ndarray | None = None, seed: int = 0) -> tuple[float, float]:
  """95 % interval of sum(differences) / sum(weights) over problems drawn with replacement; weights are 1 by default.

  Args:
    differences: float [n], n >= 1.
    weights: float [n] or None.
  """
  count, rng = len(differences), np.random.default_rng(seed)
  weights, drawn = np.ones(count) if weights is None else weights, []
  while len(drawn) < _RESAMPLES:
    rows = min(_RESAMPLES - len(drawn), max(1, _CHUNK // count))
    times = rng.multinomial(count, np.full(count, 1 / count), size=rows)
    drawn += list((times @ differences) / (times @ weights))
  low, high = np.percentile(drawn, [2.5, 97.5])
  return float(low), float(high)


def _suite(left: dict, right: dict) -> Comparison:
  name = left['settings']['suite']
  if left['settings']['problems'] != right['settings']['problems']:
    raise UserError(f'compare: the two runs of {name} had other problems; evaluate both on the same files')
  paired = [key for key in left['results'] if key not in left['missing'] and key not in right['missing']]
  figures = dict.fromkeys(figure for key in paired for figure in left['results'][key]['figures'])
  differences = []
  for figure in figures:
    both = [(left['results'][key]['figures'], right['results'][key]['figures']) for key in paired]
    values = np.array([[one[figure], other[figure]] for one, other in both if figure in one and figure in other])
    if len(values):
      low, high = interval(values[:, 1] - values[:, 0])
      differences.append(Difference(figure, *map(float, values.mean(axis=0)), low, high, len(values)))
  solved = [(key, _solved(left['results'][key]), _solved(right['results'][key])) for key in paired]
  gained = [key for key, before, after in solved if after > before]
  lost = [key for key, before, after in solved if after < before]
  return Comparison(name, differences, gained, lost, len(left['results']) - len(paired))


def _rows(left: dict, right: dict) -> Comparison:
  """Bits per byte, of rows that are the same."""
  if left['settings']['rows'] != right['settings']['rows']:
    raise UserError(f'compare: the two runs of {BITS_PER_BYTE} had other rows; it compares checkpoints of one stage')
  differences = []
  for source, rows in left['rows'].items():
    if rows:
      one, other = np.array(rows), np.array(right['rows'][source])
      bits = np.stack([one[:, 0], other[:, 0]]) / np.log(2)
      low, high = interval(bits[1] - bits[0], one[:, 1])
      differences.append(Difference(source, *map(float, bits.sum(axis=1) / one[:, 1].sum()), low, high, len(rows)))
  return Comparison(BITS_PER_BYTE, differences, [], [], 0)


def _solved(result: Mapping[str, Any]) -> float:
  """The share of samples that passed."""
  return sum(sample['status'] == PASSED for sample in result['samples']) / len(result['samples'])


def render(comparisons: list[Comparison]) -> str:
  """The comparison as text: figures with intervals, then the problems that flipped."""
  lines = []
  for one in comparisons:
    lines.append(one.suite)
    for row in one.differences:
      change = f'{row.right - row.left:+.3f} [{row.low:+.3f}, {row.high:+.3f}]'
      lines.append(f'  {row.figure:<24} {row.left:9.3f} -> {row.right:9.3f}  {change}  ({row.problems} problems)')
    for what, keys in (('solved more by B', one.gained), ('solved more by A', one.lost)):
      if keys:
        lines.append(f'  {what}: {len(keys)}: {", ".join(keys)}')
    if one.unpaired:
      lines.append(f'  left out, since one of the two did not score them: {one.unpaired}')
  return '\n'.join(lines)
