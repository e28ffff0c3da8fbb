"""Names of TPU slices, and what libtpu says of their chips. Imports no jax until it is asked for chips."""

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


_CHIPS_PER_HOST = 4


@dataclasses.dataclass(frozen=True)
class Slice:
  """A TPU slice, or several equal ones that a network joins.

  Attributes:
    shape: of one slice, as libtpu names it ('v5p:8x8x4').
    chips: of all slices.
    slices: how many.
  """

  shape: str
  chips: int
  slices: int = 1

  @property
  def name(self) -> str:
    return self.shape if self.slices == 1 else self.cloud_name

  @property
  def generation(self) -> str:
    return self.shape.partition(':')[0]

  @property
  def cloud_name(self) -> str:
    one = f'{self.generation}-{self.chips // self.slices * (2 if self.generation == "v5p" else 1)}'
    return one if self.slices == 1 else f'{one}x{self.slices}'

  @property
  def chip(self) -> hardware.Chip:
    return hardware.CHIPS[self.generation]

  @property
  def hosts(self) -> int:
    return max(1, self.chips // _CHIPS_PER_HOST)

  def of_host(self) -> 'Slice':
    """The chips of one host as a slice of their own."""
    return min((each for each in _SLICES if each.generation == self.generation), key=lambda each: each.chips)

  def devices(self) -> list:
    """The chips as jax devices that can be compiled for; needs libtpu."""
    from jax.experimental import topologies

    several = {'num_slices': self.slices} if self.slices > 1 else {}
    return topologies.get_topology_desc(platform='tpu', topology_name=self.shape, **several).devices


_SLICES = [
    Slice(f'{generation}:{shape}', math.prod(map(int, shape.split('x'))))
    for generation, shapes in _SHAPES.items()
    for shape in shapes
]


def find(name: str) -> Slice:
  """The slice with this shape ('v5p:8x8x4') or Cloud name ('v5p-512', 'v5litepod-256'), or several ('v5p-512x2').

  Raises:
    UserError: no such slice; lists those that exist.
  """
  key = re.sub('^v5litepod-', 'v5e-', name)
  several = re.fullmatch('(.*-[0-9]+)x([1-9][0-9]*)', key)
  one, slices = (several[1], int(several[2])) if several else (key, 1)
  for slice_ in _SLICES:
    if one in (slice_.name, slice_.cloud_name):
      return dataclasses.replace(slice_, chips=slice_.chips * slices, slices=slices)
  known = ', '.join(f'{slice_.cloud_name} ({slice_.name})' for slice_ in _SLICES)
  raise UserError(f'topology "{name}" does not exist; choose one of {known}, or several, as in v5p-512x2')
