"""Configurations: one `ml_collections.ConfigDict` per stage, its hash, and the difference between two.

A configuration holds only numbers and names. This module imports no jax, so that commands start fast.
"""

import hashlib
import json
from typing import Any

from ml_collections import ConfigDict

from iquest_jax.errors import UserError, check_name

# How a stage may transform the parameters of its parent: not at all, or by the fold (model/fold.py).
TRANSFORMS = ('', 'dense_to_loop')
# Same names as in model/fold.py, which imports jax.
FOLD_RULES = ('copy', 'stride', 'mean')


def from_stage(stage: str, carry: tuple[str, ...] = ('params',), transform: str = '') -> ConfigDict:
  """How a stage starts: its parent stage, what it takes from it, and how it transforms the parameters.

  Args:
    stage: name of the parent stage; '' starts the chain (from an imported checkpoint if there is one, else random).
    carry: checkpoint items that are taken over: 'params', or 'params' and 'optimizer'.
    transform: '' keeps the parameters; 'dense_to_loop' folds a dense parent into the looped model (model/fold.py).

  Raises:
    UserError: a value is not allowed.
  """
  if transform not in TRANSFORMS:
    raise UserError(f'config: init.transform must be "" or "dense_to_loop", got "{transform}"')
  if 'params' not in carry or set(carry) - {'params', 'optimizer'}:
    raise UserError(f'config: init.carry must be ("params",) or ("params", "optimizer"), got {carry}')
  if transform and 'optimizer' in carry:
    raise UserError(
        f'config: init.carry must be ("params",) with init.transform "{transform}", got {carry}: the moments of the dense '
        'model do not fit the looped one'
    )
  return ConfigDict({'stage': stage, 'carry': tuple(carry), 'transform': transform})


def check_start(init: ConfigDict) -> None:
  """Raises UserError unless a stage can start from `init`, any field of which may have been overridden."""
  from_stage(init.stage, init.carry, init.transform)
  if init.transform and 'fold' not in init:
    raise UserError(f'config: init.transform must be "" except in loop_adapt, got "{init.transform}"')
  if 'fold' in init:
    check_name('config: init.fold', init.fold, FOLD_RULES)


def to_json(config: ConfigDict) -> str:
  """Canonical JSON of a configuration: sorted keys, tuples as lists."""
  return json.dumps(config.to_dict(), sort_keys=True, indent=1)


def config_hash(config: ConfigDict) -> str:
  """SHA-256 (hex) of the canonical JSON; equal if and only if all values are equal."""
  return hashlib.sha256(to_json(config).encode()).hexdigest()


def flatten(config: ConfigDict) -> dict[str, Any]:
  """Leaves by dotted path: {'train.steps': 10, ...}."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      flat.update({f'{key}.{inner}': leaf for inner, leaf in flatten(value).items()})
    else:
      flat[key] = value
  return flat


def diff(left: ConfigDict, right: ConfigDict) -> list[tuple[str, Any, Any]]:
  """Leaves that differ, as (dotted path, left value, right value) sorted by path; '-' stands for a missing leaf."""
  flat_left, flat_right = flatten(left), flatten(right)
  pairs = [(key, flat_left.get(key, '-'), flat_right.get(key, '-')) for key in sorted(flat_left | flat_right)]
  return [(key, a, b) for key, a, b in pairs if a != b]
