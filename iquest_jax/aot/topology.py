"""Names of TPU slices. Imports no jax."""

import dataclasses
import math
import re

from iquest_jax import hardware
from iquest_jax.errors import UserError

# Shapes that libtpu 0.0.42 knows, with hosts of 2 x 2 chips. Cloud counts v5p slices in cores, two per chip.
_SHAPES = {
    'v5p': ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '8x8x4', '8x8x8', '8x8x16', '8x16x16'),
    **dict.fromkeys(('v6e', 'v5e'), ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A TPU slice: its `name` for libtpu ('v5p:8x8x4') and its number of chips."""

  name: str
  chips: int

  @property
  def generation(self) -> str:
    return self.name.partition(':')[0]

  @property
  def cloud_name(self) -> str:
    return f'{self.generation}-{self.chips * (2 if self.generation == "v5p" else 1)}'

  @property
  def chip(self) -> hardware.Chip:
    return hardware.CHIPS[self.generation]


_SLICES = [
    Slice(f'{generation}:{shape}', math.prod(map(int, shape.split('x'))))
    for generation, shapes in _SHAPES.items()
    for shape in shapes
]


def find(name: str) -> Slice:
  """The slice with this shape ('v5p:8x8x4') or Cloud name ('v5p-512', 'v5litepod-256').

  Raises:
    UserError: no such slice; lists those that exist.
  """
  key = re.sub('^v5litepod-', 'v5e-', name)
  for slice_ in _SLICES:
    if key in (slice_.name, slice_.cloud_name):
      return slice_
  known = ', '.join(f'{slice_.cloud_name} ({slice_.name})' for slice_ in _SLICES)
  raise UserError(f'topology "{name}" does not exist; choose one of {known}')
