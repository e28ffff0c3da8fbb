"""The section of the lineage: which stage starts from which, with fingerprints, and where they do not agree."""

from collections.abc import Iterable

from iquest_jax.report.chain import Chain, Stage
from iquest_jax.report.curves import HELD_OUT, spoken
from iquest_jax.report.markup import NONE, details, escape, note, short, table
from iquest_jax.report.tree import Node, tree


def lineage(chain: Chain) -> str:
  """The picture, growing to the right and down, and a table of what does not fit in it."""
  nodes = [_node(chain, stage) for stage in chain.stages]
  title = 'Stages and where each starts: ' + ', '.join(
      f'{node.name} from {node.parent or "no stage"}' for node in nodes
  )
  across, down = tree(title, nodes, across=True), tree(title, nodes, across=False)
  rows = [
      (escape(stage.name), _origin(stage), escape(stage.transform) or NONE, _print(stage.start), _print(stage.end),
       escape(stage.code) or NONE)
      for stage in chain.started
  ]  # fmt: skip
  picture = (
      f'<div class="across scrolled" tabindex="0">{across}</div><div class="down scrolled" tabindex="0">{down}</div>'
  )
  head = ('stage', '<starts from', '<transform', '<first parameters', '<last parameters', '<code')
  notes = ''.join(note(line) for stage in chain.started for line in _breaks(chain, stage))
  silent = ''.join(note(escape(f'{stage.name}: {line}')) for stage in chain.started for line in stage.silent_errors)
  return picture + notes + silent + details('Fingerprints and versions', table(head, rows))


def _node(chain: Chain, stage: Stage) -> Node:
  if not stage.started:
    return Node(stage.name, stage.parent, ['not started'], '', '', 'ahead')
  steps = (
      f'{stage.steps:,} steps' if stage.finished or not stage.planned else f'{stage.steps:,} of {stage.planned:,} steps'
  )
  tokens = f' · {short(stage.tokens)} tokens' if stage.tokens and (stage.finished or not stage.planned) else ''
  chip = stage.transform or ('imported' if stage.imported else '')
  parent = stage.parent if chain.get(stage.parent) else ''
  return Node(
      stage.name, parent, [steps + tokens, _fall(stage)], stage.end, chip, 'done' if stage.finished else 'going'
  )


def _fall(stage: Stage) -> str:
  """The main figure of a stage, from its first evaluation to its last."""
  for key in (*HELD_OUT, 'loss'):
    # What is held out counts; a reward is shown even if nothing is, the loss of a policy never.
    kinds = sorted(stage.kinds, key=lambda kind: kind != 'eval') if key != 'loss' else ['eval']
    for kind in kinds:
      if points := stage.points(kind, key):
        name = 'held out' if key == 'loss' else spoken(key)
        return f'{name} {points[0][1]:.2f} → {points[-1][1]:.2f}'
  return ''


def _origin(stage: Stage) -> str:
  if stage.imported:
    return f'imported: {escape(stage.imported)}'
  if stage.parent:
    return f'{escape(stage.parent)}' + (
        f', step {stage.parent_step:,} {_print(stage.parent_fingerprint)}' if stage.parent_step else ''
    )
  return 'random parameters'


def _print(fingerprint: str) -> str:
  return f'<code>{escape(fingerprint[:16])}</code>' if fingerprint else NONE


def _breaks(chain: Chain, stage: Stage) -> Iterable[str]:
  """Where the recorded fingerprints of a stage and its parent do not agree."""
  if not stage.end:
    yield f'{escape(stage.name)}: no checkpoint yet'
  elif stage.parent_fingerprint and not stage.transform and stage.start != stage.parent_fingerprint:
    yield f'{escape(stage.name)} began with {_print(stage.start)}, not with the {_print(stage.parent_fingerprint)} it names'
  parent = chain.get(stage.parent)
  same_step = parent and parent.end and stage.parent_fingerprint and parent.saved == stage.parent_step
  if same_step and parent.end != stage.parent_fingerprint:
    name = escape(stage.name)
    yield f'{escape(stage.parent)} now ends with {_print(parent.end)}, but {name} began from another checkpoint'
