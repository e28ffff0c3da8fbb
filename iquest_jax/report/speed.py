"""The section of throughput: medians per stage, and where the seconds of a step of reinforcement learning go."""

import statistics
from collections.abc import Sequence

from iquest_jax.report.chain import Chain, Stage
from iquest_jax.report.markup import NONE, bar, duration, escape, note, percent, short, table


def throughput(chain: Chain) -> str:
  """Medians of each stage; where the seconds of a step of reinforcement learning go."""
  rows, splits = [], []
  for stage in chain.started:
    kinds = [
        kind for kind in stage.kinds if stage.points(kind, 'step_seconds') or stage.points(kind, 'tokens_per_second')
    ]
    middle = lambda key: next((_median(stage.points(kind, key)) for kind in kinds if stage.points(kind, key)), None)
    rate, mfu, seconds, waits = map(middle, ('tokens_per_second', 'mfu', 'step_seconds', 'data_seconds'))
    if rate is seconds is None and not stage.seconds:
      continue
    cells = [NONE if rate is None else short(rate), percent(mfu), NONE if seconds is None else duration(seconds)]
    cells += [
        NONE if waits is None or not seconds else percent(waits / seconds),
        duration(stage.seconds) if stage.seconds else NONE,
    ]
    rows.append((escape(stage.name), *cells, escape(stage.devices) or NONE))
    if stage.learns_by_reward:
      splits += _split(stage)
  if not rows:
    return note('No stage has reported its speed yet.')
  head = ('stage', 'tokens/s', 'MFU', 'step', 'waits for data', 'in all', '<devices')
  said = '<p>Medians over the steps that were reported. MFU is known for accelerators only.</p>'
  return said + table(head, rows) + ''.join(splits)


def _median(points: Sequence[tuple[int, float]]) -> float:
  return statistics.median(value for _, value in points)


def _split(stage: Stage) -> list[str]:
  """The parts of a step: every measured duration but the whole step."""
  parts = {}
  for kind in stage.kinds:
    for key in stage.keys(kind) if kind != 'eval' else ():
      name = key.rpartition('/')[2].removesuffix('_seconds').replace('_', ' ')
      if key.endswith('_seconds') and name not in ('step', 'data', 'wall'):
        parts[name] = _median(stage.points(kind, key))
  if not parts:
    return []
  longest = max(max(parts.values()), 1e-9)
  rows = [(escape(name), duration(seconds), bar(seconds / longest)) for name, seconds in parts.items()]
  said = '<p>Medians. What runs beside something else, as grading does beside sampling, counts in full.</p>'
  return [
      f'<h3>{escape(stage.name)}: where a step goes</h3>{said}',
      table(('part', 'median', '<'), rows, 'narrow bars'),
  ]
