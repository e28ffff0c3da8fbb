"""Pieces of HTML as text. Whatever comes from a file goes through `escape`; everything else here is markup already."""

import html
from collections.abc import Iterable, Sequence

# Characters that would control a terminal or turn the direction of writing are shown as symbols.
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}
_VISIBLE |= dict.fromkeys(
    [*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)], 0xFFFD
)

COLOURS = 12  # of the style sheet
NONE = '<span class="none">–</span>'


def escape(text: str) -> str:
  return html.escape(str(text).translate(_VISIBLE))


def short(count: float) -> str:
  """A count in at most six characters: 9,999, 12.3k, 4.5M, 10T."""
  for unit, name in ((10**12, 'T'), (10**9, 'B'), (10**6, 'M'), (10**3, 'k')):
    if abs(count) >= (unit if unit > 10**3 else 10**4):
      return f'{count / unit:.3g}{name}'
  return f'{count:,.0f}'


def figure(value: float | None, digits: int = 4) -> str:
  """A measured value with so many significant digits."""
  if value is None:
    return NONE
  value = value or 0.0  # no minus zero
  if value and not 1e-3 <= abs(value) < 1e5:
    return f'{value:.2e}'
  return f'{value:.{digits}g}'


def percent(share: float | None, digits: int = 1) -> str:
  return NONE if share is None else f'{100 * share:.{digits}f} %'


def duration(seconds: float) -> str:
  """Seconds in words of at most two units."""
  if seconds < 99.5:
    return f'{seconds:.0f} s' if seconds >= 9.95 else f'{seconds:.2g} s'
  minutes = round(seconds / 60)
  if minutes < 60:
    return f'{minutes} min'
  if minutes < 48 * 60:
    return f'{minutes // 60} h {minutes % 60:02} min'
  return f'{minutes / 1440:.1f} days'


def note(text: str) -> str:
  """A line in the place of what is not there; `text` is markup."""
  return f'<p class="gap">{text}</p>'


def tag(text: str, kind: str = '') -> str:
  """A small label; `text` is not markup."""
  return f'<span class="tag {kind}">{escape(text)}</span>'


def _width(share: float) -> str:
  return f'style="width:{100 * min(max(share, 0.0), 1.0):.2f}%"'


def bar(share: float, whole: float = 0.0) -> str:
  """A bar of a share in [0, 1], in front of one of a larger share."""
  behind = f'<i {_width(whole)}></i>' if whole else ''
  return f'<span class="bar" aria-hidden="true">{behind}<b {_width(share)}></b></span>'


def stacked(shares: Iterable[tuple[str, float, int]]) -> str:
  """Shares side by side: (name, share in [0, 1], number of the colour)."""
  part = lambda name, share, colour: (
      f'<i class="f{colour}" {_width(share)} title="{escape(name)} {100 * share:.1f} %"></i>'
  )
  return f'<div class="stack" aria-hidden="true">{"".join(part(*one) for one in shares)}</div>'


def legend(names: Iterable[tuple[str, int]], kind: str = 'f') -> str:
  """Names with the numbers of their colours; kind f for areas, l for lines."""
  entries = ''.join(f'<span><i class="{kind}{colour}"></i>{escape(name)}</span>' for name, colour in names)
  return f'<p class="legend">{entries}</p>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = '') -> str:
  """A table of markup; the first cell of a row names it. A column whose name begins with < holds text, others numbers."""
  styles = [' class="text"' if name.startswith('<') else '' for name in columns]
  head = ''.join(f'<th scope="col"{style}>{name.lstrip("<")}</th>' for name, style in zip(columns, styles))
  body = ''
  for first, *rest in rows:
    cells = ''.join(f'<td{style}>{cell}</td>' for cell, style in zip(rest, styles[1:]))
    body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
  drawn = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
  return f'<div class="scrolled" tabindex="0">{drawn}</div>'


def details(summary: str, body: str, kind: str = '') -> str:
  return f'<details class="{kind}"><summary>{summary}</summary>{body}</details>'
