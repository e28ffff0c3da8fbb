"""Configurations: one `ml_collections.ConfigDict` per stage, its hash, and the difference between two.

A configuration holds only numbers and names. This module imports no jax, so that commands start fast.
"""

import hashlib
import json
import math
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from iquest_jax.errors import UserError, check_name

# How a stage may transform the parameters of its parent: not at all, or by the fold (model/fold.py).
TRANSFORMS = ('', 'dense_to_loop')
# Same names as in model/fold.py, which imports jax.
FOLD_RULES = ('copy', 'stride', 'mean')
# The benchmark of data.closed_loop that is a source's own held-out loss; all others are suites of eval/suites.py.
HELD_OUT = 'held_out'


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


def check_closed_loop(config: ConfigDict, sources: Collection[str]) -> None:
  """Raises UserError unless data.closed_loop is off or fits the intervals of the stage and these sources of its mixture."""
  loop, where = config.data.closed_loop, 'config: data.closed_loop'
  if loop.every < 0:
    raise UserError(f'{where}.every must be at least 0, got {loop.every}; 0 turns it off')
  if not loop.every:
    return
  pairs = loop.benchmarks
  if not isinstance(pairs, tuple) or not all(
      isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in pairs
  ):
    raise UserError(f'{where}.benchmarks must be ((source, benchmark), ...), got {pairs!r}')
  names = [source for source, _ in pairs]
  if not names or len(set(names)) < len(names):
    raise UserError(f'{where}.benchmarks must name at least one source, and each once, got {", ".join(names) or "none"}')
  for source in names:
    check_name(f'{where}.benchmarks: source', source, sources)
  for name, holds, allowed in (
      ('rise', 1 < loop.rise < math.inf, 'above 1 and finite'),
      ('decay', 0 < loop.decay < 1, 'between 0 and 1'),
      ('cap', 1 < loop.cap < math.inf, 'above 1 and finite'),
      ('tolerance', 0 <= loop.tolerance < 1, 'at least 0 and below 1'),
  ):
    if not holds:
      raise UserError(f'{where}.{name} must be {allowed}, got {loop[name]}')
  for benchmark in sorted({benchmark for _, benchmark in pairs}):
    section = 'eval' if benchmark == HELD_OUT else 'checkpoint'
    if (step := config[section].every) < 1 or loop.every % step:
      what = f'{where}.every must be a multiple of {section}.every = {step}, at which "{benchmark}" can be measured'
      raise UserError(f'{what}, got {loop.every}')


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
