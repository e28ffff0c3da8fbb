"""Names of TPU slices. Imports no jax."""

import dataclasses
import math
import re

from iquest_jax import hardware
from iquest_jax.errors import UserError

# Shapes that libtpu 0.0.42 has, hosts of 2 x 2 chips; Cloud names v5p slices by cores (two a chip), the others by chips.
_SHAPES = {
    'v5p': ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '8x8x4', '8x8x8', '8x8x16', '8x16x16'),
    'v6e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
    'v5e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
}
_CORES = {'v5p': 2, 'v6e': 1, 'v5e': 1}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice: `name` as libtpu takes it ('v5p:8x8x4'), and how many chips it has."""

  name: str
  chips: int

  @property
  def generation(self) -> str:
    return self.name.partition(':')[0]

  @property
  def chip(self) -> hardware.Chip:
    return hardware.CHIPS[self.generation]


def _all() -> dict[str, Slice]:
  found = {}
  for generation, shapes in _SHAPES.items():
    for shape in shapes:
      slice_ = Slice(f'{generation}:{shape}', math.prod(map(int, shape.split('x'))))
      found[slice_.name] = slice_
      found[f'{generation}-{slice_.chips * _CORES[generation]}'] = slice_
  return found


SLICES = _all()


def find(name: str) -> Slice:
  """The slice of a shape ('v5p:8x8x4') or Cloud name ('v5p-512', 'v5litepod-256').

  Raises:
    UserError: it does not exist; those that do are listed.
  """
  wanted = re.sub('^v5litepod-', 'v5e-', name)
  if wanted not in SLICES:
    listed = ', '.join(f'{cloud} ({found.name})' for cloud, found in SLICES.items() if cloud != found.name)
    raise UserError(f'topology: "{name}" does not exist; there are {listed}')
  return SLICES[wanted]
