"""Sections about scores and data: evaluation tables with the change to the parent stage, and the funnel of documents."""

from collections.abc import Mapping, Sequence

from iquest_jax.report import files
from iquest_jax.report.chain import Chain, Stage, Suite
from iquest_jax.report.markup import NONE, bar, details, escape, note, short, table, tag

# A suite whose figures are bits, of which fewer are better, and not percent.
_BITS = 'bits_per_byte'
# A suite with more figures lists them in one cell.
_COLUMNS = 5
# The order in which documents pass the steps of a corpus.
_STEPS = ('synthesis', 'read', 'clean', 'quality', 'make', 'verify', 'decontaminate', 'deduplicate')


# ---------------------------------------------------------------- Evaluation
def evaluation(chain: Chain) -> str:
  """A table per suite: a row per stage and step, with the change to the nearest stage before that was evaluated."""
  suites: dict[str, list[tuple[Stage, Suite]]] = {}
  for stage in chain.stages:
    for suite in stage.suites:
      suites.setdefault(suite.name, []).append((stage, suite))
  if not suites:
    return note('No stage has been evaluated yet.')
  ordered = sorted(suites, key=lambda name: (name == _BITS, name))
  return ''.join(_suite(chain, name, suites[name]) for name in ordered)


def _suite(chain: Chain, name: str, entries: Sequence[tuple[Stage, Suite]]) -> str:
  figures = list(dict.fromkeys(figure for _, suite in entries for figure in suite.figures))
  apart = len(figures) <= _COLUMNS
  rows, notes = [], []
  for stage, suite in entries:
    if suite.unfinished:
      notes.append(f'{escape(stage.name)}, step {suite.step:,}: not finished; {suite.unfinished:,} samples so far.')
      continue
    before, of = _before(chain, stage, suite)
    cell = lambda figure: _figure(name, suite.figures.get(figure), before.figures.get(figure) if before else None)
    cells = [cell(figure) for figure in figures]
    if not apart:
      pairs = [f'<span class="pair">{escape(figure)} <b>{cell(figure)}</b></span>' for figure in suite.figures]
      cells = [' '.join(pairs) or NONE]
    lacking = f'<span class="warn">{len(suite.missing):,}</span>' if suite.missing else '0'
    rows.append((escape(stage.name), f'{suite.step:,}', *cells, escape(of) or NONE, f'{suite.scored:,}', lacking))
  unit = 'bits per byte of held-out rows; lower is better' if name == _BITS else 'percent'
  missing = {f'{stage.name} {problem}': reason for stage, suite in entries for problem, reason in suite.missing.items()}
  body = f'<h3>{escape(name)} <small>{unit}</small></h3>'
  if rows:
    unscored = 'rows' if name == _BITS else 'problems'
    body += table(
        ('stage', 'step', *(map(escape, figures) if apart else ['<figures']), '<change to', unscored, 'missing'),
        rows,
        'sticky',
    )
  body += ''.join(map(note, notes))
  if missing:
    listed = [(escape(problem), escape(reason)) for problem, reason in list(missing.items())[:100]]
    body += details(f'Missing problems <small>{len(missing)}</small>', table(('problem', '<reason'), listed, 'wrapped'))
  return body


def _before(chain: Chain, stage: Stage, suite: Suite) -> tuple[Suite | None, str]:
  """The newest result of the same problems of the nearest stage before, and the name of that stage."""
  for ancestor in chain.ancestors(stage):
    same = [
        other
        for other in ancestor.suites
        if other.name == suite.name and other.asked == suite.asked and not other.unfinished
    ]
    if same:
      return same[-1], ancestor.name
  return None, ''


def _figure(suite: str, value: float | None, before: float | None) -> str:
  if value is None:
    return NONE
  shown = f'{value:.3f}' if suite == _BITS else f'{value:.1f}'
  if before is None:
    return shown
  change = value - before
  better = change < 0 if suite == _BITS else change > 0
  digits = 3 if suite == _BITS else 1
  if round(change, digits) == 0:
    return f'{shown} {tag("±0")}'
  return f'{shown} {tag(f"{change:+.{digits}f}".replace("-", "−"), "up" if better else "down")}'


# ---------------------------------------------------------------- Funnel
def funnel(chain: Chain) -> str:
  """What came in, what was dropped by which rule, what went out: a line per input that opens to its steps."""
  inputs: dict[str, list[tuple[str, Mapping]]] = {}
  for key, counts in files.items(chain.corpus, 'funnels').items():
    given, _, step = str(key).rpartition(': ')
    inputs.setdefault(given, []).append((step, counts))
  if not inputs:
    return note('No documents have been prepared: documents/corpus.json is missing or cannot be read.')
  place = {step: number for number, step in enumerate(_STEPS)}
  for steps in inputs.values():
    steps.sort(key=lambda one: (place.get(one[0], len(_STEPS)), one[0]))
  most = max(files.count(counts, 'read') for steps in inputs.values() for _, counts in steps) or 1
  body = ''.join(_input(given, steps, most) for given, steps in sorted(inputs.items()))
  said = '<p>Documents per input; open one for its steps and the rules that dropped them.</p>'
  head = (
      '<div class="row head"><span>input</span><span>in</span><span>dropped</span><span>out</span><span></span></div>'
  )
  return f'{said}<div class="inputs">{head}{body}</div>{_duplicates(chain)}'


def _input(given: str, steps: Sequence[tuple[str, Mapping]], most: int) -> str:
  # What is made of documents, or checked, passes beside them: its candidates did not come in as documents.
  passed = [counts for step, counts in steps if step not in ('synthesis', 'make', 'verify')] or [steps[0][1]]
  read, kept = files.count(passed[0], 'read'), files.count(passed[-1], 'kept')
  dropped = sum(sum(map(int, files.numbers(counts, 'drops').values())) for counts in passed)
  drawn = bar(kept / most, read / most)
  cells = f'<b>{escape(given)}</b><span>{read:,}</span><span>{dropped:,}</span><span>{kept:,}</span>{drawn}'
  rows = []
  for step, counts in steps:
    drops, seen = files.numbers(counts, 'drops'), files.numbers(counts, 'seen')
    falling = sorted(drops.items(), key=lambda one: (-one[1], one[0]))
    said = [f'− {rule} {int(count):,}' for rule, count in falling] + [
        f'{what} {int(count):,}' for what, count in seen.items()
    ]
    taken, left = files.count(counts, 'read'), files.count(counts, 'kept')
    rows.append((escape(step), f'{taken:,}', f'{taken - left:,}', f'{left:,}', escape(', '.join(said))))
  return details(
      f'<span class="row">{cells}</span>',
      table(('step', 'in', 'dropped', 'out', '<by rule, and what was seen'), rows, 'wrapped'),
  )


def _duplicates(chain: Chain) -> str:
  found = {
      kind: (files.count(counts, 'clusters'), files.count(counts, 'documents'))
      for kind, counts in files.items(chain.corpus, 'duplicates').items()
  }  # fmt: skip
  found = {kind: counts for kind, counts in found.items() if counts[1]}
  contaminated = files.sequence(chain.corpus, 'contaminated')
  notes = [
      f'{documents:,} {kind}s in {clusters:,} clusters of near copies' for kind, (clusters, documents) in found.items()
  ]
  if contaminated:
    notes.append(f'{len(contaminated):,} documents left out because they overlap with evaluation sets')
  return f'<p>{escape("; ".join(notes))}.</p>' if notes else ''


def totals(chain: Chain) -> Mapping[str, str]:
  """Headline numbers of the data."""
  last = [
      counts for key, counts in files.items(chain.corpus, 'funnels').items() if str(key).endswith(f': {_STEPS[-1]}')
  ]
  return {'documents': short(sum(files.count(counts, 'kept') for counts in last))} if last else {}
