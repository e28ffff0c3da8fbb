"""Reports of a run: metrics.jsonl, TensorBoard events, a console line, a progress bar.

A record depends only on the step it describes (times and rates aside), so a run that was killed and resumed leaves the
same file as one that was not.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from rich import console as rich_console
from rich import progress

from iquest_jax import hardware, journal
from iquest_jax.checkpoint import fingerprint
from iquest_jax.errors import RunStopped
from iquest_jax.model import cost, sizes
from iquest_jax.run_folder import StageFolder
from iquest_jax.train.events import Events

# A run stops after this many updates in a row whose loss or gradient is not finite.
MAX_SKIPPED_IN_A_ROW = 3

# Fields by layer group, and all fields that are due every log.layers_every steps.
BY_LAYER = ('layer_grad_norms', 'layer_update_ratios')
RARE = (*BY_LAYER, 'z_loss')

_FLUSH_S = 60  # a record that comes so long after a flush brings the next one

# Fields that measure the machine, not the training: only in these may two runs differ.
TIMES = ('step_seconds', 'data_seconds', 'tokens_per_second', 'mfu', 'timing')


def read(folder: StageFolder) -> list[dict[str, Any]]:
  """Records of a run in order; a last line cut off by a kill is dropped."""
  return [json.loads(line) for line in journal.read(folder.metrics).splitlines()]


# What a stage measures on held-out data, by name in its records; a loss should fall, a rate should rise.
_HELD_OUT = ('loss', 'pass_rate', 'accuracy')


def held_out(folder: StageFolder) -> tuple[str, float, float] | None:
  """(name, first, last) of what a run measured on held-out data: a loss in nats per token, or a rate; None before two."""
  records = [record for record in read(folder) if record['kind'] == 'eval']
  found = [(name, record[name]) for record in records for name in _HELD_OUT if name in record]
  return (*found[0], found[-1][1]) if len(found) > 1 else None


def describe_held_out(figures: tuple[str, float, float] | None) -> str:
  """The result of `held_out` for a table, a rate in percent."""
  if figures is None:
    return '-'
  name, first, last = figures
  return f'{first:.3f} → {last:.3f}' if name == 'loss' else f'{first:.1%} → {last:.1%}'


class Writer:
  """Writes the records of a run; does nothing on processes other than the first.

  On a disk a record survives a kill of this process at once. On gs:// records wait until one comes a minute or more after
  the last flush, for an evaluation or a save: a run that resumes has those of all steps before its checkpoint.
  """

  def __init__(self, folder: StageFolder, restored_step: int, writes: bool):
    """Cuts metrics.jsonl back to `restored_step` and opens it."""
    self._writes = writes
    if not writes:
      return
    # A step is evaluated after it is saved, so the restored step is evaluated again.
    holds = lambda record: record['step'] < restored_step + (record['kind'] == 'train')
    records = [record for record in read(folder) if restored_step and holds(record)]
    self._lines = journal.Lines.begin(folder.metrics, ''.join(json.dumps(record) + '\n' for record in records).encode())
    self._events = Events(folder.events, purge_step=restored_step)

  def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
    """Appends one record; floats are written so that they read back exactly."""
    if not self._writes:
      return
    self._lines.append(json.dumps({'kind': kind, 'step': step, **values}).encode() + b'\n', sync=False)
    leaves = jax.tree_util.tree_leaves_with_path(values)
    self._events.add({f'{kind}/{fingerprint.leaf_path(path)}': value for path, value in leaves}, step)
    if kind == 'eval' or self._lines.waiting_s > _FLUSH_S:
      self.flush()

  def flush(self) -> None:
    """Stores all records, whatever happens to the machine."""
    if self._writes:
      self._lines.flush()
      self._events.flush()

  def close(self) -> None:
    if self._writes:
      self._lines.close()
      self._events.close()


class Progress:
  """A bar with loss, tokens/s and time left on a terminal; elsewhere a line per update."""

  def __init__(self, stage: str, step: int, steps: int, shows: bool):
    self._stage, self._steps, self._shows = stage, steps, shows
    self._bar, self._held_out = None, ''
    if shows and sys.stderr.isatty():
      self._bar = progress.Progress(
          progress.TextColumn('[bold]{task.description:<14}'),
          progress.BarColumn(bar_width=30),
          progress.MofNCompleteColumn(),
          progress.TextColumn('{task.fields[news]}'),
          progress.TimeRemainingColumn(),
          console=rich_console.Console(stderr=True),
          # Ten steps of a large model take minutes, so rates are averaged over an hour, not rich's half minute.
          speed_estimate_period=3600,
      )
      self._task = self._bar.add_task(stage, total=steps, completed=step, news='compiling')
      self._bar.start()

  def update(self, step: int, news: str) -> None:
    """Shows `news`, the loss and the rate in words."""
    if self._bar:
      self._bar.update(self._task, completed=step, news=news + self._held_out)
    elif self._shows:
      logging.info('%s step %d/%d  %s', self._stage, step, self._steps, news)

  def held_out(self, step: int, loss: float) -> None:
    """Shows the loss on held-out rows, beside the news until the next evaluation."""
    self._held_out = f'  held out {loss:.3f}'
    if self._bar:
      self._bar.update(self._task, news=self._held_out.strip())
    elif self._shows:
      logging.info('%s step %d/%d  held-out loss %.3f', self._stage, step, self._steps, loss)

  def close(self) -> None:
    if self._bar:
      self._bar.stop()


def losses(loss_S, weight_S, sources: tuple[str, ...]) -> dict[str, Any]:
  """{'loss': mean, 'loss_by_source': {source: mean}} of LossSums, nats per token; a source without weight is left out."""
  with np.errstate(invalid='ignore'):  # the step that skips an update reports a loss that is not finite
    by_source = {name: float(loss / weight) for name, loss, weight in zip(sources, loss_S, weight_S) if weight > 0}
    return {'loss': float(np.sum(loss_S) / max(np.sum(weight_S), 1e-9)), 'loss_by_source': by_source}


def held_out_losses(loss_S, weight_S, shares: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
  """`losses` of held-out rows, where 'loss' is the mean over sources, each by its share of what the stage learns.

  So it is the loss that the whole schedule of the mixture minimises, however many held-out rows a source has.

  Args:
    loss_S, weight_S: sums in the order of `shares`.
    shares: {source: {'loss_weight': its share}}; see Loader.shares. A source without held-out weight is left out.
  """
  by_source = losses(loss_S, weight_S, tuple(shares))['loss_by_source']
  total = sum(shares[source]['loss_weight'] for source in by_source)
  weighted = sum(shares[source]['loss_weight'] * loss for source, loss in by_source.items())
  return {'loss': weighted / max(total, 1e-9), 'loss_by_source': by_source}


def describe_shares(shares: Mapping[str, Mapping[str, float]]) -> str:
  """The shares of the sources in one line: 'share of the loss (of the rows): code 40.0% (35.2%), ...'."""
  parts = [f'{name} {share["loss_weight"]:.1%} ({share["rows"]:.1%})' for name, share in shares.items()]
  return 'share of the loss (of the rows): ' + ', '.join(parts)


def by_layer(found: Mapping[str, Any], groups: tuple[str, ...]) -> dict[str, dict[str, float]]:
  """{field of BY_LAYER: {layer group: value}} of the metrics of a step; `groups` are their names, see layer_groups.py."""
  return {field: dict(zip(groups, found[field].tolist(), strict=True)) for field in BY_LAYER}


class Reporter:
  """Turns the metrics of steps into records, one step late, so that the device never waits for the host.

  Attributes:
    completed: the last step whose metrics have arrived; at first, the step with which the run begins.
  """

  def __init__(
      self,
      config: ConfigDict,
      model: sizes.ModelConfig,
      sources: tuple[str, ...],
      groups: tuple[str, ...],
      writer: Writer,
      bar: Progress,
      done: int,
  ):
    self.completed = done
    self._config, self._model, self._sources, self._groups = config, model, sources, groups
    self._writer, self._bar = writer, bar
    peak = hardware.peak_flops(jax.devices()[0].device_kind)
    self._peak = peak and peak * jax.device_count()
    self._pending = None
    self._last_end = 0.0

  def note(self, step: int, metrics: dict[str, jax.Array], asked: float, ready: float) -> None:
    """Takes the metrics of a step just started, its number counted from 1, and reports the step before.

    Args:
      asked, ready: seconds (time.monotonic) at which the batch was requested, and at which it had arrived.
    """
    self.flush()
    self._pending = (step, metrics, asked, ready)

  def flush(self) -> None:
    """Waits for the step noted last and reports it; raises RunStopped after three updates in a row not finite."""
    if self._pending is None:
      return
    (step, metrics, asked, ready), self._pending = self._pending, None
    metrics = jax.device_get(metrics)
    end, self.completed = time.monotonic(), step
    # A step whose batch was ready early begins when the device has finished the one before.
    seconds, self._last_end = end - max(ready, self._last_end), end
    record = losses(metrics['loss_S'], metrics['weight_S'], self._sources)
    record |= {name: float(metrics[name]) for name in ('grad_norm', 'lr')}
    record |= {name: int(metrics[name]) for name in ('skipped', 'tokens')}
    record |= {name: metrics[name].tolist() for name in ('loop_change', 'loop_gate') if name in metrics}
    record |= {'step_seconds': seconds, 'data_seconds': ready - asked, 'tokens_per_second': record['tokens'] / seconds}
    if self._peak:
      useful = cost.flops(self._model, *(float(metrics[name]) for name in ('tokens', 'pairs', 'local_pairs')))
      record['mfu'] = cost.TRAIN_PASSES * useful / seconds / self._peak
    bad = int(metrics['skipped_in_a_row'])
    due = lambda every: bad or step == self._config.train.steps or step % every == 0
    if rare := due(self._config.log.layers_every):
      record |= {name: float(metrics[name]) for name in ('z_loss',) if name in metrics}
      record |= by_layer(metrics, self._groups)
    if rare or due(self._config.log.every):
      self._writer.write('train', step, record)
      self._bar.update(step, _news(record))
    if bad >= MAX_SKIPPED_IN_A_ROW:
      names = ', '.join(record['loss_by_source']) or 'none'
      raise RunStopped(
          f'{self._config.stage}: loss or gradient was not finite in {bad} updates in a row, the last at step {step} '
          f'(sources of its batch: {names}); the parameters are those of step {step - bad}'
      )


def _news(record: dict[str, Any]) -> str:
  news = f'loss {record["loss"]:.3f}  {record["tokens_per_second"]:,.0f} tokens/s'
  if 'mfu' in record:
    news += f'  MFU {100 * record["mfu"]:.1f} %'
  if not math.isfinite(record['loss']) or record['skipped']:
    news += f'  {record["skipped"]} skipped'
  return news
