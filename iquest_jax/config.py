"""What a configuration is: one `ml_collections.ConfigDict` per stage, its hash, its difference to another.

Only numbers and names live in a configuration; this module imports no jax, so that command lines answer at once.
"""

import hashlib
import json
from typing import Any

from ml_collections import ConfigDict

from iquest_jax.errors import UserError, nearest

# How parameters may change on the way from a parent: not at all, or by the fold (model/fold.py).
TRANSFORMS = ('', 'dense_to_loop')
# Names of model/fold.py, which imports jax.
FOLD_RULES = ('copy', 'stride', 'mean')


def from_stage(stage: str, carry: tuple[str, ...] = ('params',), transform: str = '') -> ConfigDict:
  """How a stage starts: which stage it follows, what it carries over, and how the parameters change on the way.

  Args:
    stage: name of the parent stage; '' starts the chain (an imported checkpoint if there is one, else random).
    carry: checkpoint items carried over: 'params', or 'params' and 'optimizer'.
    transform: '' keeps the parameters; 'dense_to_loop' folds a dense parent into the looped model (model/fold.py).
  """
  if transform not in TRANSFORMS:
    raise UserError(f'config: init.transform is "{transform}"; it is "" or "dense_to_loop"')
  if 'params' not in carry or set(carry) - {'params', 'optimizer'}:
    raise UserError(f'config: init.carry is {carry}; it holds "params" and may hold "optimizer"')
  if transform and 'optimizer' in carry:
    raise UserError(f'config: init.carry is {carry}; moments are of the dense model and "{transform}" makes another')
  return ConfigDict({'stage': stage, 'carry': tuple(carry), 'transform': transform})


def check_start(init: ConfigDict) -> None:
  """Raises UserError unless `init`, of which any field may be overridden, is what a stage can start by."""
  from_stage(init.stage, init.carry, init.transform)
  if init.transform and 'fold' not in init:
    raise UserError(f'config: init.transform is "{init.transform}", which is for loop_adapt; it is "" here')
  if 'fold' in init and init.fold not in FOLD_RULES:
    raise UserError(f'config: init.fold "{init.fold}" does not exist{nearest(init.fold, FOLD_RULES)}')


def to_json(config: ConfigDict) -> str:
  """Canonical JSON of a configuration: sorted keys, tuples as lists."""
  return json.dumps(config.to_dict(), sort_keys=True, indent=1)


def config_hash(config: ConfigDict) -> str:
  """SHA-256 (hex) of the canonical JSON: equal if and only if every number is equal."""
  return hashlib.sha256(to_json(config).encode()).hexdigest()


def flatten(config: ConfigDict) -> dict[str, Any]:
  """{'train.steps': 10, ...}: leaves by dotted path."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      flat.update({f'{key}.{inner}': leaf for inner, leaf in flatten(value).items()})
    else:
      flat[key] = value
  return flat


def diff(left: ConfigDict, right: ConfigDict) -> list[tuple[str, Any, Any]]:
  """Leaves that differ, as (dotted path, left value, right value), sorted by path; a missing leaf shows as '-'."""
  flat_left, flat_right = flatten(left), flatten(right)
  keys = sorted(flat_left.keys() | flat_right.keys())
  pairs = [(key, flat_left.get(key, '-'), flat_right.get(key, '-')) for key in keys]
  return [(key, a, b) for key, a, b in pairs if a != b]
