"""Sections of curves: losses with the boundaries of stages, rewards with their components."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from iquest_jax.report import charts, files
from iquest_jax.report.chain import Chain, Stage
from iquest_jax.report.charts import Line
from iquest_jax.report.markup import COLOURS, details, escape, figure, legend, note, tag

# What every stage reports; anything else a stage of reinforcement learning measures gets a chart of its own.
_COMMON = {
    'loss', 'grad_norm', 'lr', 'skipped', 'skipped_in_a_row', 'tokens', 'updates', 'problems', 'step_seconds',
    'data_seconds', 'tokens_per_second', 'mfu', 'z_loss',
}  # fmt: skip
_COMMON_GROUPS = ('loss_by_source/', 'loop_change/', 'loop_gate/', 'layer_grad_norms/', 'layer_update_ratios/')
# A stage is judged by the first of these that it measures on held-out problems.
HELD_OUT = ('pass_rate', 'reward_pass_rate', 'reward', 'solved', 'accuracy')


def losses(chain: Chain) -> str:
  """One chart over all stages, each equally wide, then one per stage by source."""
  stages = [
      stage
      for stage in chain.started
      if not stage.learns_by_reward and (stage.points('train', 'loss') or stage.points('eval', 'loss'))
  ]  # the loss of a policy is not a cross-entropy
  if not stages:
    return note('No stage has reported a loss yet.')
  train, held_out, bands = [], [], []
  for number, stage in enumerate(stages):
    long = max(stage.steps, 1)
    place = lambda points: [(number + step / long, loss) for step, loss in points]
    bands.append(stage.name)
    train.append(Line('loss', charts.thinned(place(stage.points('train', 'loss')), 120), 0, faint=True))
    held_out.append(Line('held-out loss', place(stage.points('eval', 'loss')), 1))
  lines = [*(line for line in held_out if line.points), *(line for line in train if line.points)]
  drawn = charts.fitting('Loss and held-out loss over all stages', lines, bands)
  said = '<p>Nats per token. Every stage is drawn equally wide; the loss steps where a stage begins on other data.</p>'
  parts = [said, legend([('training', 0), ('held out', 1)], 'l'), drawn]
  cards = []
  for stage in stages:
    sources = [key.partition('/')[2] for key in stage.keys('eval') if key.startswith('loss_by_source/')]
    lines = [
        Line(name, stage.points('eval', f'loss_by_source/{name}'), number % COLOURS, dots=True)
        for number, name in enumerate(sources)
    ]  # fmt: skip
    if drawn := charts.chart(f'Held-out loss of {stage.name} by source', lines):
      ends = [f'{points[0][1]:.2f} → {points[-1][1]:.2f}' for points in [stage.points('eval', 'loss')] if points]
      names = legend([(name, number % COLOURS) for number, name in enumerate(sources)], 'l')
      cards.append(card(stage.name, ''.join(ends), drawn + names))
  if cards:
    parts.append('<h3>Held-out loss by source</h3>' + f'<div class="cards">{"".join(cards)}</div>')
  return ''.join(parts)


def card(title: str, aside: str, body: str) -> str:
  """A small chart with its title, and a figure beside it."""
  return f'<figure><figcaption><b>{escape(title)}</b><span>{escape(aside)}</span></figcaption>{body}</figure>'


def spoken(key: str) -> str:
  """The name of a field in words: 'pass rate' of reward_pass_rate or rewards/pass_rate."""
  return re.sub('^(rewards?[_/]|timing/)', '', key).replace('_', ' ')


def rewards(chain: Chain) -> str:
  """For each stage of reinforcement learning: reward, its components, and whatever else is measured there."""
  stages = [stage for stage in chain.started if stage.learns_by_reward]
  ahead = [stage.name for stage in chain.stages if not stage.started and stage.name.startswith('rl')]
  parts = [_rewards(stage) for stage in stages]
  if not stages:
    parts.append(note('No stage of this chain learns from rewards yet.'))
  elif ahead:
    parts.append(note('Not started: ' + escape(', '.join(ahead)) + '.'))
  return ''.join(parts)


def _rewards(stage: Stage) -> str:
  main, components, others = [], {}, {}
  for kind in sorted(stage.kinds, key=lambda kind: kind != 'eval'):
    held_out = kind == 'eval'
    where = 'held out' if held_out else 'sampled'
    for key in stage.keys(kind):
      line = Line(where, stage.points(kind, key), int(held_out), dots=held_out)
      if key in HELD_OUT:
        # A reward that is the pass rate alone is drawn once.
        if line.points not in [other.points for other in main]:
          main.append(dataclasses.replace(line, name=f'{spoken(key)}, {where}', colour=len(main) % COLOURS))
      elif key.startswith('reward'):
        components.setdefault(spoken(key), []).append(line)
      elif key not in _COMMON and not key.startswith(_COMMON_GROUPS) and not key.endswith('seconds'):
        others.setdefault(spoken(key), []).append(line)
  main.sort(key=lambda line: not line.dots)  # what is held out is drawn above
  names = legend([(line.name, line.colour) for line in main], 'l')
  ends = [f'{escape(line.name)} {_change(line)}' for line in main if line.dots and len(line.points) > 1]
  parts = [f'<h3>{escape(stage.name)}</h3>', _settings(stage.rl)]
  if main:
    said = f'<p>{"; ".join(ends)}</p>' if ends else ''
    parts += [said, names, charts.fitting(f'Reward of {stage.name}', main)]
  if components or others:
    parts.append(legend([('sampled', 0), ('held out', 1)], 'l'))
  if components:
    parts.append('<h4>Components of the reward</h4>' + _small(components))
  if others:
    parts.append(details(f'Other measurements <small>{len(others)}</small>', _small(others)))
  return ''.join(parts)


def _settings(rl: Mapping[str, Any]) -> str:
  """What is learned from, and what the reward is the sum of."""
  groups, size = files.count(rl, 'prompts_per_step'), files.count(rl, 'group_size')
  weights = files.numbers(rl, 'rewards')
  counted = [f'{weight:g} × {spoken(name)}' for name, weight in weights.items() if weight]
  logged = [spoken(name) for name, weight in weights.items() if not weight]
  said = [files.text(rl, 'objective'), f'{groups:,} prompts × {size:,} roll-outs per step' if groups and size else '']
  said += [f'reward = {" + ".join(counted)}' if counted else '', f'logged only: {", ".join(logged)}' if logged else '']
  return f'<p>{escape("; ".join(filter(None, said)))}</p>' if any(said) else ''


def _change(line: Line) -> str:
  (_, first), (_, last) = line.points[0], line.points[-1]
  return tag(f'{first:.3f} → {last:.3f}', 'up' if last > first else 'down' if last < first else '')


def _small(by_name: dict[str, list[Line]]) -> str:
  cards = []
  for name, lines in by_name.items():
    points = lines[-1].points  # what is sampled, where both are measured
    ends = f'{figure(points[0][1], 3)} → {figure(points[-1][1], 3)}' if len(points) > 1 else figure(points[-1][1], 3)
    cards.append(card(name, ends, charts.chart(name, sorted(lines, key=lambda line: -line.colour), height=120)))
  return f'<div class="cards">{"".join(cards)}</div>'
