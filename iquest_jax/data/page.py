"""The report of a preparation: what came in, what was dropped by which rule, what came out, and samples to read.

As tables in the terminal, and as one HTML page that needs no network.
"""

import collections
import dataclasses
import html
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iquest_jax.data.funnel import Funnel
from iquest_jax.data.inspect import visible
from iquest_jax.run_folder import write_whole
from iquest_jax.text.tokenizer import SPECIAL, TAGS

# The order in which documents pass the steps of a corpus.
_STEPS = ('synthesis', 'read', 'clean', 'quality', 'make', 'verify', 'decontaminate', 'deduplicate')
_TERMINAL_LANGUAGES, _TERMINAL_CONTAMINATED = 4, 5


@dataclasses.dataclass(frozen=True)
class Source:
  """The training rows of a source in a stage.

  Attributes:
    rows_share, loss_share: of the rows that the stage draws, and of what it learns.
    epochs: how often its rows are drawn.
    checks: documents that were checked, by check.
    drops: documents left out, by rule.
    languages: tokens by language.
    samples: texts of examples, with their special tokens.
  """

  stage: str
  name: str
  examples: int
  rows: int
  tokens: int
  rows_share: float
  loss_share: float
  epochs: float
  checks: Mapping[str, int]
  drops: Mapping[str, int]
  languages: Mapping[str, int]
  samples: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Preparation:
  """What a report shows.

  Attributes:
    funnels: (input, step, funnel), in the order in which documents pass.
    duplicates: {kind: {'clusters', 'documents' in them}}.
    contaminated: {'document', 'problem', 'evidence'} of some.
    languages: characters of files by language.
    sources: of all stages that were prepared.
  """

  funnels: Sequence[tuple[str, str, Funnel]]
  duplicates: Mapping[str, Mapping[str, int]]
  contaminated: Sequence[Mapping[str, str]]
  languages: Mapping[str, int]
  sources: Sequence[Source]

  @property
  def stages(self) -> dict[str, list[Source]]:
    grouped: dict[str, list[Source]] = {}
    for source in self.sources:
      grouped.setdefault(source.stage, []).append(source)
    return grouped

  @property
  def found_duplicates(self) -> dict[str, Mapping[str, int]]:
    """`duplicates` without the kinds that have none."""
    return {kind: counts for kind, counts in self.duplicates.items() if counts['documents']}

  @property
  def inputs(self) -> list[str]:
    return list(dict.fromkeys(given for given, _, _ in self.funnels))

  def steps(self, given: str) -> list[tuple[str, Funnel]]:
    """(step, funnel) of an input."""
    return [(step, funnel) for name, step, funnel in self.funnels if name == given]

  def totals(self) -> dict[str, int]:
    """The headline: name -> number."""
    step = lambda wanted: [funnel for _, name, funnel in self.funnels if name == wanted]
    last = step(_STEPS[-1])
    return {
        'documents read': sum(funnel.read for funnel in step('read')),
        'kept': sum(funnel.kept for funnel in last),
        'held out': sum(funnel.seen['held out'] for funnel in last),
        'duplicates': sum(funnel.drops.total() for funnel in last),
        'contaminated': sum(funnel.drops.total() for funnel in step('decontaminate')),
        'tokens in rows': sum(source.tokens for source in self.sources),
    }


def preparation(report: Mapping[str, Any], manifests: Iterable[Mapping[str, Any]]) -> Preparation:
  """What to show of the report of a corpus and the manifests of the stages prepared from it."""
  funnels = []
  for key, funnel in report.get('funnels', {}).items():
    given, _, step = key.rpartition(': ')
    funnels.append((given, step, Funnel.from_json(funnel)))
  place = {step: number for number, step in enumerate(_STEPS)}
  funnels.sort(key=lambda one: (one[0], place.get(one[1], len(_STEPS)), one[1]))
  return Preparation(
      funnels,
      report.get('duplicates', {}),
      report.get('contaminated', ()),
      _falling(report.get('languages', {})),
      [source for manifest in manifests for source in _sources(manifest)],
  )


def _sources(manifest: Mapping[str, Any]) -> Iterable[Source]:
  for name, splits in sorted(manifest['sources'].items()):
    segments, shares = splits['train']['segments'], manifest['shares'][name]
    total = lambda field: sum(segment[field] for segment in segments)
    added = lambda field: _falling(_added(segment[field] for segment in segments))
    samples = next((segment['samples'] for segment in segments if segment['samples']), [])
    yield Source(
        manifest['stage'], name, total('examples'), total('rows'), total('tokens'), shares['rows'], shares['loss_weight'],
        shares['epochs'], added('checks'), added('drops'), added('languages'), samples,
    )  # fmt: skip


def _added(counts: Iterable[Mapping[str, int]]) -> collections.Counter:
  return sum(map(collections.Counter, counts), collections.Counter())


def _falling(counts: Mapping[str, int]) -> dict[str, int]:
  """Counts, the largest first."""
  return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def tables(report: Preparation, console: Console) -> None:
  """Prints the report in short; samples only if it is of one stage."""
  console.print()
  table = _table('What came in', 'input, step', '>in', '>dropped', '>out', 'by rule')
  for given in report.inputs:
    steps = report.steps(given)
    table.add_row(Text(visible(given), 'bold'))
    for step, funnel in steps:
      dropped = funnel.read - funnel.kept
      # Between the first step and the last, those that dropped something.
      if dropped or step in (steps[0][0], steps[-1][0]):
        rules = ', '.join(f'{rule} {count:,}' for rule, count in _falling(funnel.drops).items())
        table.add_row(Text(visible(f'  {step}')), f'{funnel.read:,}', f'{dropped:,}' if dropped else '',
                      f'{funnel.kept:,}', Text(visible(rules), 'dim'))  # fmt: skip
  console.print(table)
  seen = _added(funnel.seen for _, _, funnel in report.funnels)
  if seen:
    console.print(Text(' also ' + ', '.join(f'{what} {count:,}' for what, count in _falling(seen).items()), 'dim'))
  if duplicates := report.found_duplicates:
    table = _table('Duplicates', 'kind', '>clusters', '>documents')
    for kind, counts in duplicates.items():
      table.add_row(kind, f'{counts["clusters"]:,}', f'{counts["documents"]:,}')
    console.print(table)
  if report.contaminated:
    table = _table('Contaminated', 'problem', 'document', 'evidence')
    for found in report.contaminated[:_TERMINAL_CONTAMINATED]:
      table.add_row(*(Text(visible(found[field])) for field in ('problem', 'document', 'evidence')))
    console.print(table)
  for stage, sources in report.stages.items():
    columns = (
        'source', '>examples', '>rows', '>tokens', '>of rows', '>of loss', '>epochs', 'languages', 'checked, dropped',
    )  # fmt: skip
    table = _table(stage, *columns)
    for source in sources:
      languages = _languages(source, _TERMINAL_LANGUAGES)
      notes = [*source.checks.items(), *((f'- {rule}', count) for rule, count in source.drops.items())]
      noted = ', '.join(f'{note} {count:,}' for note, count in notes)
      table.add_row(source.name, f'{source.examples:,}', f'{source.rows:,}', f'{source.tokens:,}',
                    f'{source.rows_share:.1%}', f'{source.loss_share:.1%}', f'{source.epochs:.1f}',
                    Text(visible(languages), 'dim'), Text(visible(noted), 'dim'))  # fmt: skip
    console.print(table)
  if len(report.stages) == 1:
    for source in report.sources:
      console.print(Text(f'\nSamples of {source.name}', 'bold'))
      for number, sample in enumerate(source.samples, 1):
        line = Text(f' {number:2} ', 'dim')
        console.print(line.append(' '.join(visible(sample).split()), 'default'), no_wrap=True, overflow='ellipsis')


def _table(title: str, *columns: str) -> Table:
  """A table; a column whose name begins with > holds numbers."""
  table = Table(title=title, title_justify='left', title_style='bold', box=box.SIMPLE_HEAD, pad_edge=False)
  for column in columns:
    justify = 'right' if column.startswith('>') else 'left'
    # The first column names things and stays on one line; the last may be long.
    table.add_column(column.lstrip('>'), justify=justify, overflow='fold', no_wrap=column != columns[-1])
  return table


def _languages(source: Source, most: int | None = None) -> str:
  """Shares of a source's tokens by language; '' if no language is known."""
  known = list(source.languages.items())[:most] if source.languages.keys() - {'other'} else []
  return ', '.join(f'{name} {_share(count, source.tokens)}' for name, count in known)


def _share(part: int, whole: int) -> str:
  return f'{part / max(whole, 1):.0%}'


def write(report: Preparation, path: pathlib.Path) -> pathlib.Path:
  """Writes the page; returns its path."""
  write_whole(path, page(report))
  return path


def page(report: Preparation) -> str:
  """The report as one HTML page."""
  tiles = ''.join(f'<div><dt>{_escape(name)}</dt><dd>{_short(count)}</dd></div>' for name, count in report.totals().items())
  sections = [
      ('funnel', 'What came in, what was dropped', _funnels(report)),
      ('duplicates', 'Duplicates', _duplicates(report)),
      ('contaminated', 'Contaminated documents', _contaminated(report)),
      ('languages', 'Languages', _bars(report.languages, 'language', 'characters of files')),
      ('sources', 'Rows by source', ''.join(_stage(stage, sources) for stage, sources in report.stages.items())),
      ('samples', 'Samples', ''.join(_samples(source) for source in report.sources)),
  ]
  sections = [section for section in sections if section[2]]
  links = ''.join(f'<a href="#{id}">{title}</a>' for id, title, _ in sections)
  body = ''.join(f'<section id="{id}"><h2>{title}</h2>{content}</section>' for id, title, content in sections)
  return (
      '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Preparation</title>'
      '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
      f'<style>{_STYLE}</style></head><body><header><h1>Preparation</h1><dl>{tiles}</dl><nav>{links}</nav></header>'
      f'<main>{body}</main></body></html>\n'
  )


def _funnels(report: Preparation) -> str:
  parts = []
  for given in report.inputs:
    steps = report.steps(given)
    most, rows = max(max(funnel.read for _, funnel in steps), 1), []
    for step, funnel in steps:
      dropped = funnel.read - funnel.kept
      cells = f'<td>{funnel.read:,}</td><td>{dropped:,}</td><td>{funnel.kept:,}</td>'
      cells += f'<td>{_bar(funnel.kept / most, funnel.read / most)}</td>'
      rows.append(f'<tr><th scope="row">{_escape(step)}</th>{cells}</tr>')
      notes = [(f'− {rule}', count) for rule, count in _falling(funnel.drops).items()]
      notes += [(what, count) for what, count in _falling(funnel.seen).items()]
      for (note, count), kind in zip(notes, ['drop'] * len(funnel.drops) + ['seen'] * len(funnel.seen)):
        cells = f'<td></td><td>{count:,}</td><td></td>' if kind == 'drop' else f'<td></td><td></td><td>{count:,}</td>'
        rows.append(f'<tr class="note"><th scope="row">{_escape(note)}</th>{cells}<td></td></tr>')
    head = '<th>step</th><th>in</th><th>dropped</th><th>out</th><th aria-label="share"></th>'
    parts.append(_scrolled(f'<h3>{_escape(given)}</h3>', head, rows, 'funnel'))
  return ''.join(parts)


def _duplicates(report: Preparation) -> str:
  rows = [
      f'<tr><th scope="row">{_escape(kind)}</th><td>{counts["clusters"]:,}</td><td>{counts["documents"]:,}</td></tr>'
      for kind, counts in report.found_duplicates.items()
  ]  # fmt: skip
  note = '<p>Of each cluster of exact or near copies the best document is kept.</p>'
  return _scrolled(note, '<th>kind</th><th>clusters</th><th>documents in them</th>', rows, 'narrow') if rows else ''


def _contaminated(report: Preparation) -> str:
  rows = [
      f'<tr><th scope="row">{_escape(found["problem"])}</th><td class="text">{_escape(found["document"])}</td>'
      f'<td class="text wide">{_escape(found["evidence"])}</td></tr>'
      for found in report.contaminated
  ]  # fmt: skip
  note = f'<p>Dropped, since they overlap with evaluation sets; {len(rows):,} of {report.totals()["contaminated"]:,}.</p>'
  head = '<th>problem</th><th class="text">document</th><th class="text">evidence</th>'
  return _scrolled(note, head, rows, 'stacked') if rows else ''


def _stage(stage: str, sources: Sequence[Source]) -> str:
  rows = []
  for source in sources:
    counts = f'<td>{source.examples:,}</td><td>{source.rows:,}</td><td>{source.tokens:,}</td>'
    shares = ''.join(f'<td class="share">{share:.1%}{_bar(share)}</td>' for share in (source.rows_share, source.loss_share))
    shares += f'<td>{source.epochs:.1f}</td>'
    rows.append(f'<tr><th scope="row">{_escape(source.name)}</th>{counts}{shares}</tr>')
    notes = [(f'✓ {check}', count) for check, count in source.checks.items()]
    for note, count in [*notes, *((f'− {rule}', count) for rule, count in source.drops.items())]:
      rows.append(f'<tr class="note"><th scope="row">{_escape(note)}</th><td>{count:,}</td>{"<td></td>" * 5}</tr>')
    if languages := _languages(source):
      rows.append(f'<tr class="note"><td class="text wide" colspan="7">{_escape(languages)}</td></tr>')
  names = ('source', 'examples', 'rows', 'tokens', 'share of rows', 'share of loss', 'epochs')
  head = ''.join(f'<th>{name}</th>' for name in names)
  return _scrolled(f'<h3>{_escape(stage)}</h3>', head, rows)


def _bars(counts: Mapping[str, int], name: str, unit: str) -> str:
  total, most = sum(counts.values()), max(counts.values(), default=1)
  rows = [
      f'<tr><th scope="row">{_escape(key)}</th><td>{count:,}</td><td>{_share(count, total)}</td>'
      f'<td>{_bar(count / max(most, 1))}</td></tr>'
      for key, count in counts.items()
  ]  # fmt: skip
  return _scrolled('', f'<th>{name}</th><th>{unit}</th><th>share</th><th aria-label="share"></th>', rows) if rows else ''


def _samples(source: Source) -> str:
  if not source.samples:
    return ''
  texts = ''.join(f'<li><pre>{_marked(sample)}</pre></li>' for sample in source.samples)
  title = f'{_escape(source.name)} <small>{_escape(source.stage)}, {len(source.samples)}</small>'
  return f'<details><summary>{title}</summary><ol>{texts}</ol></details>'


def _scrolled(before: str, head: str, rows: Sequence[str], kind: str = '') -> str:
  table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
  return f'{before}<div class="scrolled" tabindex="0">{table}</div>'


def _short(count: int) -> str:
  for unit, name in ((10**12, 'T'), (10**9, 'B'), (10**6, 'M')):
    if count >= 10 * unit:
      return f'{count / unit:,.1f} {name}'
  return f'{count:,}'


def _bar(share: float, whole: float | None = None) -> str:
  """A bar of a share in [0, 1], in front of one of a larger share."""
  behind = f'<i style="width:{100 * whole:.2f}%"></i>' if whole is not None else ''
  return f'<span class="bar" aria-hidden="true">{behind}<b style="width:{100 * share:.2f}%"></b></span>'


def _escape(text: str) -> str:
  return html.escape(visible(text))


_SPECIAL = re.compile('|'.join(re.escape(html.escape(token)) for token in (*SPECIAL, *TAGS)))


def _marked(text: str) -> str:
  return _SPECIAL.sub(lambda match: f'<mark>{match[0]}</mark>', _escape(text))


_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5a6675;--line:#dde3ea;--paper:#fff;--card:#f5f7fa;--bar:#2f6fde;
--behind:#f0b5a5;--mark:#8a2be2;--mark-paper:#f1e8fc}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9f0;--soft:#98a5b5;--line:#2c3642;--paper:#12171e;--card:#1a212b;
--bar:#5b94f5;--behind:#7a4336;--mark:#d3adff;--mark-paper:#2e2140}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem clamp(1rem,4vw,3rem) 4rem;max-width:76rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:1.7rem;margin:.3rem 0 1rem}
h2{font-size:1.25rem;margin:2.8rem 0 .8rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.6rem 0 .4rem}
p,small{color:var(--soft)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.7rem,1fr));gap:.7rem;margin:0}
dl div{background:var(--card);border-radius:.6rem;padding:.7rem .9rem}
dt{color:var(--soft);font-size:.85rem}
dd{margin:0;font-size:1.2rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin-top:1.1rem;font-size:.95rem}
a{color:var(--bar);text-decoration:none}
a:hover,a:focus-visible{text-decoration:underline}
.scrolled{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.93rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .8rem .35rem 0;text-align:right;vertical-align:top;white-space:nowrap}
tbody tr:not(.note){border-top:1px solid var(--line)}
th:first-child,.text{text-align:left}
thead th{color:var(--soft);font-weight:500}
tbody th{font-weight:600}
.wide{white-space:normal;min-width:16rem;overflow-wrap:anywhere;color:var(--soft)}
.note th,.note td{padding-top:.05rem;padding-bottom:.05rem;font-size:.86rem;font-weight:400;color:var(--soft)}
.note th:first-child,.note .wide{padding-left:1.1rem}
.funnel th:first-child{width:34%;white-space:normal}
.funnel td:nth-child(-n+4){width:11%}
.funnel td:last-child{min-width:7rem;padding-right:0}
.narrow{max-width:34rem}
@media(max-width:40rem){.funnel :is(th,td):last-child,.stacked thead{display:none}
.stacked :is(tr,th,td){display:block;white-space:normal;overflow-wrap:anywhere;text-align:left}
.stacked :is(th,td){padding:.1rem 0}.stacked tr{padding:.5rem 0}}
.bar{display:block;position:relative;height:.5rem;margin-top:.45rem;min-width:4rem}
.share .bar{width:5rem;height:.3rem;margin:.1rem 0 0 auto}
.bar i,.bar b{position:absolute;left:0;top:0;bottom:0;border-radius:.25rem}
.bar i{background:var(--behind)}
.bar b{background:var(--bar)}
details{border-top:1px solid var(--line);padding:.5rem 0}
h2+details{border-top:0}
summary{cursor:pointer;font-weight:600}
summary small{font-weight:400}
ol{padding-left:1.6rem;color:var(--soft)}
pre{margin:.4rem 0 1rem;padding:.8rem 1rem;background:var(--card);color:var(--ink);border-radius:.5rem;overflow:auto;
max-height:26rem;white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;tab-size:4;
font:.84rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
mark{background:var(--mark-paper);color:var(--mark);border-radius:.2rem;padding:0 .15em}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--paper:#fff;--card:#f4f4f4;--bar:#444;--behind:#ccc;--mark:#000;
--mark-paper:#ddd}body{max-width:none;padding:0;font-size:11px}nav{display:none}pre{max-height:none}
.scrolled{overflow:visible}tr{break-inside:avoid}h2,h3{break-after:avoid}
details::details-content{content-visibility:visible;block-size:auto}.bar b,.bar i,mark{print-color-adjust:exact}}
"""
