"""The section of mixtures: what each stage learns from, and the decisions of its closed loop."""

from collections.abc import Iterable, Sequence

from iquest_jax.report import charts, curves
from iquest_jax.report.chain import Chain, Decision, Stage
from iquest_jax.report.charts import Line
from iquest_jax.report.markup import COLOURS, NONE, details, escape, legend, note, percent, short, stacked, table

_DECISIONS = 40  # the last ones are listed


def mixture(chain: Chain) -> str:
  """Shares of rows and of loss by source; decisions of a closed loop."""
  used = [name for stage in chain.stages for where in [stage, *stage.decisions] for name in _names(where)]
  names = list(dict.fromkeys(used))
  colour = {name: number % COLOURS for number, name in enumerate(names)}
  parts = []
  for stage in chain.started:
    if not stage.sources and not stage.decisions:
      if not stage.learns_by_reward:
        parts.append(f'<h3>{escape(stage.name)}</h3>' + note('Its rows have no manifest here.'))
      continue
    parts.append(f'<h3>{escape(stage.name)}</h3>')
    if stage.sources:
      parts.append(_shares(stage, colour))
    if stage.decisions:
      parts.append(_decisions(stage.decisions, colour))
  return ''.join(parts) or note('No rows have been prepared.')


def _names(where: Stage | Decision) -> Iterable[str]:
  return where.weights if isinstance(where, Decision) else where.sources


def _shares(stage: Stage, colour: dict[str, int]) -> str:
  stack = ''
  for what, field in (('rows', 'rows_share'), ('loss', 'loss_share')):
    shares = [(name, getattr(source, field) or 0.0, colour[name]) for name, source in stage.sources.items()]
    if any(share for _, share, _ in shares):
      stack += f'<div class="stacked"><span>{what}</span>{stacked(shares)}</div>'
  rows = []
  for name, source in stage.sources.items():
    epochs = NONE if source.epochs is None else f'{source.epochs:.2g}'
    cells = percent(source.rows_share), percent(source.loss_share), epochs
    counts = f'{source.examples:,}', f'{source.rows:,}', short(source.tokens)
    rows.append((f'<i class="key f{colour[name]}"></i>{escape(name)}', *cells, *counts))
  return stack + table(('source', 'of rows', 'of loss', 'epochs', 'examples', 'rows', 'tokens'), rows)


def _decisions(decisions: Sequence[Decision], colour: dict[str, int]) -> str:
  names = list(dict.fromkeys(name for decision in decisions for name in decision.weights))
  points = lambda name: [(decision.step, decision.weights[name]) for decision in decisions if name in decision.weights]
  drawn = charts.chart('Shares of rows', [Line(name, points(name), colour[name], dots=True) for name in names])
  rows = [
      (
          f'{decision.step:,}',
          escape(', '.join(f'{name} {share:.1%}' for name, share in decision.weights.items())),
          escape(', '.join(f'{name} {reason}' for name, reason in decision.reasons.items())),
      )
      for decision in decisions[-_DECISIONS:]
  ]
  title = f'Decisions of the closed loop <small>{len(decisions):,}</small>'
  body = drawn + legend([(name, colour[name]) for name in names], 'l')
  shares = f'<div class="cards">{curves.card("Share of rows", "closed loop", body)}</div>' if drawn else ''
  return shares + details(title, table(('step', '<rows from there on', '<because'), rows, 'wrapped'))
