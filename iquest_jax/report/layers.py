"""The section of layer groups: norms of gradients, and updates relative to what they change, at every depth; the z-loss."""

from iquest_jax.report import charts
from iquest_jax.report.chain import Chain, Stage
from iquest_jax.report.charts import Line
from iquest_jax.report.curves import card
from iquest_jax.report.markup import COLOURS, escape, legend, note

_FIELDS = {'layer_grad_norms': 'gradient norm', 'layer_update_ratios': 'update / weight'}


def layers(chain: Chain) -> str:
  """Two charts per stage, a line per layer group, and one of the z-loss where it is minimised."""
  parts = [_stage(stage) for stage in chain.started]
  if not any(parts):
    return note('No stage has reported its layer groups yet.')
  said = (
      '<p>Of the embedder, the head, and attention and MLP by groups of consecutive layers. A group whose gradients or '
      'updates leave the others is where training breaks first. The z-loss grows where logits drift.</p>'
  )
  return said + ''.join(parts)


def _stage(stage: Stage) -> str:
  cards, groups = [], []
  for field, title in _FIELDS.items():
    groups = [key.partition('/')[2] for key in stage.keys('train') if key.startswith(f'{field}/')] or groups
    lines = [
        Line(group, charts.thinned(stage.points('train', f'{field}/{group}'), 120), number % COLOURS)
        for number, group in enumerate(groups)
    ]
    if drawn := charts.chart(f'{title} of {stage.name} by layer group', lines):
      cards.append(card(title, '', drawn))
  z_loss = [Line('z-loss', charts.thinned(stage.points('train', 'z_loss'), 120), 0)]
  if drawn := charts.chart(f'z-loss of {stage.name}', z_loss):
    cards.append(card('z-loss', '', drawn))
  if not cards:
    return ''
  names = legend([(group.replace('_', ' '), number % COLOURS) for number, group in enumerate(groups)], 'l')
  return f'<h3>{escape(stage.name)}</h3>{names}<div class="cards">{"".join(cards)}</div>'
