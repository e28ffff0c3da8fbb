"""The report of a whole chain as one HTML page: no script, no network, and every text from a file shown as text."""

import pathlib

from iquest_jax.report import browser, curves, layers, lineage, mixture, scores, speed
from iquest_jax.report.chain import Chain
from iquest_jax.report.markup import duration, escape, note, short
from iquest_jax.report.style import STYLE
from iquest_jax.run_folder import write_whole

_SECTIONS = (
    ('lineage', 'Lineage', lineage.lineage),
    ('loss', 'Loss', curves.losses),
    ('rewards', 'Rewards', curves.rewards),
    ('layers', 'Layer groups', layers.layers),
    ('evaluation', 'Evaluation', scores.evaluation),
    ('mixture', 'Mixture', mixture.mixture),
    ('data', 'Data', scores.funnel),
    ('speed', 'Throughput', speed.throughput),
    ('samples', 'Sampled answers', browser.browser),
)


def write(read: Chain, path: pathlib.Path) -> pathlib.Path:
  """Writes the page; returns its path."""
  write_whole(path, page(read))
  return path


def page(read: Chain) -> str:
  """The whole page."""
  sections = [(id, title, content(read)) for id, title, content in _SECTIONS]
  links = ''.join(f'<a href="#{id}">{title}</a>' for id, title, _ in sections)
  body = ''.join(f'<section id="{id}"><h2>{title}</h2>{content}</section>' for id, title, content in sections)
  tiles = ''.join(f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>' for name, value in _tiles(read).items())
  unread = ''.join(note(escape(problem)) for problem in read.files.problems)
  name = f'{escape(read.path.name)} <small>the whole chain{f", {escape(read.size)}" if read.size else ""}</small>'
  return (
      '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
      # Nothing is loaded and nothing runs, whatever a text may hold.
      '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">'
      f'<title>{escape(read.path.name)}: report</title>'
      '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
      f'<style>{STYLE}</style></head><body><header><h1>{name}</h1><dl class="tiles">{tiles}</dl><nav>{links}</nav>{unread}'
      f'</header><main>{body}</main></body></html>\n'
  )


def _tiles(read: Chain) -> dict[str, str]:
  """The headline."""
  started = read.started
  tiles = {
      'stages finished': f'{sum(stage.finished for stage in started)} of {len(read.stages)}',
      'tokens trained on': short(sum(stage.tokens for stage in started)),
      'training time': duration(sum(stage.seconds for stage in started)),
      **scores.totals(read),
  }
  for stage in started:
    for key in curves.HELD_OUT:
      if len(points := stage.points('eval', key)) > 1:
        tiles[f'{curves.spoken(key)}, {stage.name}'] = f'{points[0][1]:.2f} → {points[-1][1]:.2f}'
        break
  return tiles
