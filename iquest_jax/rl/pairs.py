"""Learning from preference pairs instead of roll-outs: DPO against the parameters that the stage began with."""

import contextlib
import functools
import hashlib
import json
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax.errors import UserError
from iquest_jax.rl import batches, dpo, losses, preferences
from iquest_jax.rl.dpo import Pair, PreferenceBatch
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer
from iquest_jax.train import layer_groups, metrics
from iquest_jax.train.state import TrainState
from iquest_jax.train.step import Stage


class PairLearner:
  """One of the learners of rl/loop.py; its attributes are those of policy.PolicyLearner."""

  needs_reference, updates = True, 1

  def __init__(self, config: ConfigDict, run_folder: RunFolder, tokenizer: Tokenizer, closing: contextlib.ExitStack):
    """Reads the pairs.

    Raises:
      UserError: options or pairs do not fit.
    """
    del closing
    if 'dpo' not in config.rl:
      raise UserError(f'config: {config.stage} has no preference pairs; rl.objective "dpo" is for rl_instruct')
    self._config, self._options = config, config.rl.dpo
    if not self._options.beta > 0:
      raise UserError(f'config: rl.dpo.beta must be above 0, got {self._options.beta}')
    if self._options.pairs_per_step < 1:
      raise UserError(f'config: rl.dpo.pairs_per_step must be at least 1, got {self._options.pairs_per_step}')
    load = lambda names: preferences.load(
        [run_folder.path / name for name in names], tokenizer, context=config.data.context
    )
    train, held_out = load(self._options.pairs), load(self._options.held_out)
    self._pairs = {pair.id: pair for pair in train.pairs}
    if both := sorted(self._pairs.keys() & {pair.id for pair in held_out.pairs}):
      raise UserError(f'rl: held-out pairs must not be trained on, got {len(both)} in both sets, such as "{both[0]}"')
    for found, names in ((train, self._options.pairs), (held_out, self._options.held_out)):
      dropped = ''.join(f'; dropped: {count:,} {rule}' for rule, count in found.dropped.items())
      logging.info('%s: %d pairs%s', ', '.join(names), len(found.pairs), dropped)
    self._held_out = {
        rule: [pair for pair in held_out.pairs if held_out.rules[pair.id] == rule]
        for rule in sorted(set(held_out.rules.values()))
    }
    self.objective = functools.partial(dpo.preference_sums, beta=self._options.beta)
    ids = [[pair.id, pair.prompt, pair.chosen, pair.rejected] for pair in self._pairs.values()]
    self.data_hash = hashlib.sha256(json.dumps(ids).encode()).hexdigest()

  def begin(self, stage: Stage, mesh: Mesh, done: int, reference: Any, closing: contextlib.ExitStack) -> None:
    """Takes the parameters of the reference."""
    del done, closing
    self._stage, self._mesh, self._reference = stage, mesh, reference
    self._groups = layer_groups.names(stage.abstract.params)
    train = self._config.train
    self._micro_rows = train.batch_rows // train.accumulation
    self._logps = jax.jit(
        functools.partial(losses.batch_logps, stage.model, micro_rows=self._micro_rows, chunk=train.loss_chunk)
    )

  def learn(self, step: int, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Takes step number `step`, counted from 1: (new state, its record)."""
    began = time.monotonic()
    count = self._options.pairs_per_step
    ids = drawn(list(self._pairs), self._config.seed, (step - 1) * count, count)
    batch = self._batch([self._pairs[id] for id in ids], self._config.train.batch_rows)
    state, found = self._stage.train_step(state, batch)
    found = jax.device_get(found)
    # What FLOPs are counted from is left out.
    record = {name: value.item() for name, value in found.items() if value.ndim == 0 and name != 'local_pairs'}
    record |= metrics.by_layer(found, self._groups)
    return state, record | {'pairs': len(ids), 'timing': {'update_seconds': time.monotonic() - began}}

  def pass_over(self, step: int) -> None:
    """Needs no note."""

  def evaluate(self, state: TrainState) -> dict[str, Any]:
    """Shares of the held-out pairs, of all and by rule, and the mean margin.

    `accuracy`: the chosen answer has gained on the rejected one since the stage began; `likelier`: it is the likelier one.
    """
    began, by_rule = time.monotonic(), {}
    for rule, pairs in self._held_out.items():
      # As many pairs as a micro-batch has rows: they fit, and every batch has the same shape.
      parts = [pairs[first : first + self._micro_rows] for first in range(0, len(pairs), self._micro_rows)]
      sums = [self._stage.eval_step(state.params, self._batch(part, self._micro_rows)) for part in parts]
      total = jax.tree.map(lambda *values: float(sum(values)), *(one.totals for one in jax.device_get(sums)))
      by_rule[re.sub(r'\W+', '_', rule)] = total | {'pairs': len(pairs)}
    sum_of = lambda name: sum(total[name] for total in by_rule.values())
    figures = {name: sum_of(name) / sum_of('pairs') for name in ('accuracy', 'likelier', 'margin')}
    for name in ('accuracy', 'likelier'):
      figures[f'{name}_by_rule'] = {rule: total[name] / total['pairs'] for rule, total in by_rule.items()}
    return figures | {'pairs': sum_of('pairs'), 'timing': {'eval_seconds': time.monotonic() - began}}

  def _batch(self, pairs: Sequence[Pair], unit: int) -> PreferenceBatch:
    rows = dpo.preference_rows(pairs, context=self._config.data.context, unit=unit)
    batch = batches.place(PreferenceBatch, rows, self._mesh)
    return batch.replace(reference_logps=self._logps(self._reference, batch))


def drawn(ids: Sequence[str], seed: int, first: int, count: int) -> list[str]:
  """Draws first .. first + count - 1 of an endless order: each round has every id once, in an order of its own."""
  rounds = range(first // len(ids), (first + count - 1) // len(ids) + 1)
  place = lambda round: lambda id: hashlib.sha256(f'{seed}\0{round}\0{id}'.encode()).digest()
  order = [id for round in rounds for id in sorted(ids, key=place(round))]
  start = first - rounds[0] * len(ids)
  return order[start : start + count]
