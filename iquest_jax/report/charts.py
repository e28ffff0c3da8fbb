"""Charts of lines as inline SVG; colours are those of the page, so they follow light and dark."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from iquest_jax.report.markup import escape, figure

Points = Sequence[tuple[float, float]]
# More points than this are not told apart on any screen; the mean of neighbours is drawn.
_MOST_POINTS = 240
# Values beyond these quantiles do not set the range of a chart; a single spike would flatten it.
_LOW, _HIGH = 0.005, 0.995


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a chart: `colour` is its number on the page; `dots` marks each point, with its value to hover over."""

  name: str
  points: Points
  colour: int = 0
  dots: bool = False
  faint: bool = False


def thinned(points: Points, most: int = _MOST_POINTS) -> list[tuple[float, float]]:
  """Points, or means of neighbours if there are more than `most`; the last point stays where it is."""
  if len(points) <= most:
    return list(points)
  size = math.ceil(len(points) / most)
  mean = lambda part: (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part))
  return [mean(points[start : start + size]) for start in range(0, len(points) - 1, size)] + [points[-1]]


def value_range(values: Sequence[float]) -> tuple[float, float]:
  """The range to draw: of nearly all values, never empty."""
  ordered = sorted(values) or [0.0]
  low, high = (ordered[round(share * (len(ordered) - 1))] for share in (_LOW, _HIGH))
  if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
    low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
  margin = 0.06 * (high - low)
  # A range that reaches close to zero from above begins there, so that heights can be compared.
  return (0.0 if 0 <= low <= 0.15 * high else low - margin), high + margin


def ticks(low: float, high: float, most: int) -> list[float]:
  """Round numbers in a range, at most so many plus one."""
  step = (high - low) / max(most, 1)
  power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
  step = next((power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step * 0.999), power * 10)
  first = math.ceil(low / step - 1e-9)
  return [round(index * step, 12) for index in range(first, int(math.floor(high / step + 1e-9)) + 1)]


def chart(
    title: str,
    lines: Sequence[Line],
    width: int = 340,
    height: int = 170,
    bands: Sequence[str] = (),
    upright: bool = False,
) -> str:
  """Lines over steps; '' if none of them has a point.

  Args:
    title: what the chart shows, for those who cannot see it.
    lines: the first is drawn last, above the others.
    width, height: in units of the text's pixels; the chart scales to where it stands.
    bands: names of parts of the horizontal axis, each one unit wide, such as stages; without them it is labelled in steps.
    upright: whether these names are turned by 90 degrees.
  """
  lines = [dataclasses.replace(line, points=thinned(line.points)) for line in lines if line.points]
  if not lines:
    return ''
  low, high = value_range([y for line in lines for _, y in line.points])
  xs = [x for line in lines for x, _ in line.points]
  first, last = (0, len(bands)) if bands else (min(xs), max(max(xs), min(xs) + 1))
  marks = ticks(low, high, 4 if height < 240 else 6)
  labels = [figure(mark, 6) for mark in marks]
  left, right, top = 12 + 6.4 * max(map(len, labels), default=1), width - 10, 10
  bottom = height - (8 + 6.6 * max(map(len, bands)) if upright else 22)
  across = lambda x: left + (x - first) / (last - first) * (right - left)
  up = lambda y: top + (high - min(max(y, low), high)) / (high - low) * (bottom - top)
  parts = [_band(number, name, across, top, bottom, upright) for number, name in enumerate(bands)]
  for mark, label in zip(marks, labels):
    parts.append(f'<path class="grid" d="M{left:.1f} {up(mark):.1f}H{right}"/>')
    parts.append(_label(label, left - 6, up(mark) + 3.5, 'end'))
  for mark in [] if bands else ticks(first, last, 4):
    if mark == int(mark):
      parts.append(_label(f'{int(mark):,}', across(mark), height - 6, 'end' if across(mark) > right - 8 else 'middle'))
  parts += [_line(line, across, up) for line in reversed(lines)]
  box = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
  return f'<svg class="chart" {box}>{"".join(parts)}</svg>'


def fitting(title: str, lines: Sequence[Line], bands: Sequence[str] = ()) -> str:
  """The same chart for a wide, a middling and a narrow screen; the style sheet shows one of them."""
  wide = chart(title, lines, 1120, 300, bands)
  middle = chart(title, lines, 720, 280, bands, upright=len(bands) > 6)
  tall = chart(title, lines, 360, 300 if bands else 230, bands, upright=bool(bands))
  return f'<div class="wide">{wide}</div><div class="middle">{middle}</div><div class="tall">{tall}</div>'


def _label(text: str, x: float, y: float, anchor: str, turned: bool = False) -> str:
  turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ''
  return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'


def _band(number: int, name: str, across: Callable, top: float, bottom: float, upright: bool) -> str:
  start, end = across(number), across(number + 1)
  area = f'x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="{bottom - top:.1f}"'
  middle = (start + end) / 2
  label = (
      _label(name, middle + 3.5, bottom + 7, 'end', True) if upright else _label(name, middle, bottom + 15, 'middle')
  )
  return f'<rect class="band b{number % 2}" {area}/>{label}'


def _line(line: Line, across: Callable, up: Callable) -> str:
  """A polyline, with a dot for each point where they are asked for, or where it is the only one."""
  path = 'M' + 'L'.join(f'{across(x):.1f} {up(y):.1f}' for x, y in line.points)
  drawn = f'<path class="line l{line.colour}{" faint" if line.faint else ""}" d="{path}"/>'
  if line.dots or len(line.points) == 1:
    # So many dots at most, or they become a thick line.
    every = max(1, len(line.points) // 40)
    for x, y in [*line.points[:-1:every], line.points[-1]]:
      hint = f'<title>{escape(line.name)}: {figure(y)} at step {x:,.0f}</title>'
      drawn += f'<circle class="dot d{line.colour}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.6">{hint}</circle>'
  return drawn
