"""The picture of the lineage as inline SVG: a tree of boxes that grows to the right, or down on a narrow screen."""

import dataclasses
from collections.abc import Sequence

from iquest_jax.report.markup import escape


@dataclasses.dataclass(frozen=True)
class Node:
  """A box of the lineage: its parent is the name of another, '' for none; `lines` stand below its name."""

  name: str
  parent: str
  lines: Sequence[str]
  print: str
  chip: str
  state: str


WIDE, TALL = 156, 88  # of a box


def tree(title: str, nodes: Sequence[Node], across: bool) -> str:
  """Nodes as a tree that grows to the right, or down."""
  names = {node.name for node in nodes}
  depth, lane = {}, {}
  children = {node.name: [other for other in nodes if other.parent == node.name] for node in nodes}

  def place(node: Node, level: int, free: float) -> float:
    """Gives a node and what follows it a depth and a lane; returns the next free lane."""
    depth[node.name] = level
    start = free
    for child in children[node.name]:
      if child.name not in depth:
        free = place(child, level + 1, free)
    below = [lane[child.name] for child in children[node.name] if depth[child.name] == level + 1 and child.name in lane]
    lane[node.name] = sum(below) / len(below) if below else start
    return max(free, start + 1)

  free = 0.0
  for node in nodes:
    if node.parent not in names and node.name not in depth:
      free = place(node, 0, free)
  for node in nodes:  # what is left names itself among its own ancestors
    if node.name not in depth:
      free = place(node, 0, free)
  gap_x, gap_y = (26, 22) if across else (14, 30)
  where = {}
  for node in nodes:
    column, row = (depth[node.name], lane[node.name]) if across else (lane[node.name], depth[node.name])
    where[node.name] = (6 + column * (WIDE + gap_x), 12 + row * (TALL + gap_y))
  parts = [_edge(where[node.parent], where[node.name], across) for node in nodes if node.parent in where]
  parts += [_box(node, *where[node.name]) for node in nodes]
  width = max(x for x, _ in where.values()) + WIDE + 6
  height = max(y for _, y in where.values()) + TALL + 8
  box = f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}"'
  size = f'max-width:{width:.0f}px;min-width:{min(width, 320):.0f}px'
  return f'<svg class="tree" style="{size}" {box}>{"".join(parts)}</svg>'


def _edge(start: tuple[float, float], end: tuple[float, float], across: bool) -> str:
  if across:
    x, y, u, v = start[0] + WIDE, start[1] + TALL / 2, end[0], end[1] + TALL / 2
    middle = (x + u) / 2
    return f'<path class="edge" d="M{x:.1f} {y:.1f}C{middle:.1f} {y:.1f} {middle:.1f} {v:.1f} {u:.1f} {v:.1f}"/>'
  x, y, u, v = start[0] + WIDE / 2, start[1] + TALL, end[0] + WIDE / 2, end[1]
  middle = (y + v) / 2
  return f'<path class="edge" d="M{x:.1f} {y:.1f}C{x:.1f} {middle:.1f} {u:.1f} {middle:.1f} {u:.1f} {v:.1f}"/>'


def _box(node: Node, x: float, y: float) -> str:
  text = lambda line, at, kind: f'<text class="{kind}" x="{x + 12:.1f}" y="{y + at:.1f}">{escape(line)}</text>'
  parts = [f'<rect class="box {node.state}" x="{x:.1f}" y="{y:.1f}" width="{WIDE}" height="{TALL}" rx="9"/>']
  parts += [f'<circle class="state {node.state}" cx="{x + WIDE - 14:.1f}" cy="{y + 19:.1f}" r="4"/>']
  parts += [text(_cut(node.name, 16), 23, 'title')]
  parts += [text(_cut(line, 24), 41 + 15 * number, 'small') for number, line in enumerate(node.lines[:2])]
  parts += [text(node.print[:16], 77, 'print')]
  if node.chip:
    chip = _cut(node.chip, 22)
    wide = 12 + 5.7 * len(chip)
    parts.append(f'<rect class="chip" x="{x + 10:.1f}" y="{y - 9:.1f}" width="{wide:.1f}" height="16" rx="8"/>')
    parts.append(
        f'<text class="chipped" x="{x + 10 + wide / 2:.1f}" y="{y + 2.5:.1f}" text-anchor="middle">{escape(chip)}</text>'
    )
  return ''.join(parts)


def _cut(text: str, most: int) -> str:
  return text if len(text) <= most else text[: most - 1] + '…'
