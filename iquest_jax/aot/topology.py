"""Names of TPU slices. Imports no jax."""

import dataclasses
import math
import re

from iquest_jax import hardware
from iquest_jax.errors import UserError

# Shapes that libtpu 0.0.42 knows, with hosts of 2 x 2 chips. Cloud counts v5p slices in cores, two per chip.
_SHAPES = {
    'v5p': ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '8x8x4', '8x8x8', '8x8x16', '8x16x16'),
    'v6e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
    'v5e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
}
_CORES = {'v5p': 2, 'v6e': 1, 'v5e': 1}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A TPU slice: its `name` for libtpu ('v5p:8x8x4') and its number of chips."""

  name: str
  chips: int

  @property
  def generation(self) -> str:
    return self.name.partition(':')[0]

  @property
  def chip(self) -> hardware.Chip:
    return hardware.CHIPS[self.generation]


def _all() -> dict[str, Slice]:
  slices = {}
  for generation, shapes in _SHAPES.items():
    for shape in shapes:
      slice_ = Slice(f'{generation}:{shape}', math.prod(map(int, shape.split('x'))))
      slices[slice_.name] = slices[f'{generation}-{slice_.chips * _CORES[generation]}'] = slice_
  return slices


SLICES = _all()


def find(name: str) -> Slice:
  """The slice with this shape ('v5p:8x8x4') or Cloud name ('v5p-512', 'v5litepod-256').

  Raises:
    UserError: no such slice; lists those that exist.
  """
  key = re.sub('^v5litepod-', 'v5e-', name)
  if key not in SLICES:
    known = ', '.join(f'{cloud} ({slice_.name})' for cloud, slice_ in SLICES.items() if cloud != slice_.name)
    raise UserError(f'topology "{name}" does not exist; choose one of {known}')
  return SLICES[key]
