"""Metrics read back exactly, a resumed run cuts them back, and a run whose loss is not finite stops."""

import functools
import json
import time
import types

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iquest_jax import hardware
from iquest_jax.errors import RunStopped
from iquest_jax.model import sizes
from iquest_jax.run_folder import StageFolder
from iquest_jax.train import metrics
from iquest_jax.train.events import Events


def write_steps(run_dir, restored, steps):
  writer = metrics.Writer(StageFolder(run_dir), restored, writes=True)
  if restored == 0:
    writer.write('eval', 0, {'loss': 9.0})
  for step in steps:
    writer.write('train', step, {'loss': 1 / step, 'loss_by_source': {'code': 0.1 * step}, 'loop_gate': [0.5]})
    if step % 2 == 0:
      writer.write('eval', step, {'loss': 2 / step})
  writer.close()


def test_records_read_back_exactly_and_events_show_them(tmp_path):
  write_steps(tmp_path, 0, range(1, 4))
  records = metrics.read(StageFolder(tmp_path))
  assert [(r['kind'], r['step']) for r in records] == [
      ('eval', 0), ('train', 1), ('train', 2), ('eval', 2), ('train', 3)
  ]  # fmt: skip
  assert records[-1]['loss'] == 1 / 3
  events = EventAccumulator(str(tmp_path / 'events')).Reload()
  assert {'train/loss', 'train/loss_by_source/code', 'train/loop_gate/0', 'eval/loss'} <= set(events.Tags()['scalars'])
  assert [e.step for e in events.Scalars('train/loss')] == [1, 2, 3]


def test_events_are_whole_where_a_disk_takes_them_in_parts(tmp_path):
  class Slow:
    def __init__(self, file):
      self.write, self.fileno, self.close = lambda data: file.write(data[:7]), file.fileno, file.close

  writer = Events(tmp_path, purge_step=0)
  writer._file = Slow(writer._file)
  writer.add({'loss': 1.0, 'lr': 2.0}, 1)
  writer.close()
  events = EventAccumulator(str(tmp_path)).Reload()
  assert [events.Scalars(name)[0].value for name in ('loss', 'lr')] == [1.0, 2.0]


def test_events_of_a_resumed_run_follow_the_earlier_ones_where_the_clock_was_put_back(tmp_path, monkeypatch):
  for now, step, loss in ((2e9, 1, 1.0), (2e9 + 60, 2, 2.0), (1.9e9, 2, 20.0), (1.9e9 + 1, 3, 30.0)):
    monkeypatch.setattr(time, 'time', lambda now=now: now)
    writer = Events(tmp_path, purge_step=step)
    writer.add({'loss': loss}, step)
    writer.close()
  found = EventAccumulator(str(tmp_path)).Reload().Scalars('loss')
  assert [(event.step, event.value) for event in found] == [(1, 1.0), (2, 20.0), (3, 30.0)]


def test_a_resumed_run_cuts_back_to_its_checkpoint_and_evaluates_again(tmp_path):
  write_steps(tmp_path, 0, range(1, 6))
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"kind": "train", "st')  # a kill in the middle of a line
  metrics.Writer(StageFolder(tmp_path), restored_step=4, writes=True).close()
  kept = [(r['kind'], r['step']) for r in metrics.read(StageFolder(tmp_path))]
  assert kept[-3:] == [('eval', 2), ('train', 3), ('train', 4)]


def test_a_run_that_starts_over_keeps_no_records(tmp_path):
  write_steps(tmp_path, 0, range(1, 6))
  metrics.Writer(StageFolder(tmp_path), restored_step=0, writes=True).close()
  assert metrics.read(StageFolder(tmp_path)) == []


def test_other_processes_write_nothing(tmp_path):
  writer = metrics.Writer(StageFolder(tmp_path), 0, writes=False)
  writer.write('train', 1, {'loss': 1.0})
  writer.close()
  assert list(tmp_path.iterdir()) == []


def test_held_out_loss_needs_two_evaluations(tmp_path):
  write_steps(tmp_path, 0, [1])
  assert metrics.held_out(StageFolder(tmp_path)) is None
  write_steps(tmp_path, 0, range(1, 5))
  assert metrics.held_out(StageFolder(tmp_path)) == ('loss', 9.0, 0.5)


def reporter(tmp_path, log_every=1, layers_every=50, done=0):
  log = {'every': log_every, 'layers_every': layers_every}
  config = ConfigDict({'stage': 'anneal', 'train': {'steps': 100}, 'log': log})
  writer = metrics.Writer(StageFolder(tmp_path), 0, writes=True)
  bar = metrics.Progress('anneal', 0, 100, shows=False)
  return metrics.Reporter(config, sizes.get('tiny'), ('code', 'facts'), ('embedder', 'mlp_0-3'), writer, bar, done)


def step_metrics(loss, in_a_row):
  one = {name: jnp.float32(1) for name in ('grad_norm', 'lr', 'skipped', 'tokens', 'pairs', 'local_pairs')}
  return one | {
      'loss_S': jnp.array([loss, 0.0]), 'weight_S': jnp.array([2.0, 0.0]), 'skipped_in_a_row': jnp.int32(in_a_row),
      'z_loss': jnp.float32(0.25), 'layer_grad_norms': jnp.array([3.0, loss]), 'layer_update_ratios': jnp.array([0.5, 2.0]),
  }  # fmt: skip


def test_a_resumed_run_has_completed_the_steps_before_it(tmp_path):
  report = reporter(tmp_path, done=7)
  assert report.completed == 7
  report.note(8, step_metrics(1.0, 0), 0.0, 0.0)
  report.flush()
  assert report.completed == 8


def test_three_skipped_updates_in_a_row_stop_the_run_with_step_and_sources(tmp_path):
  report = reporter(tmp_path)
  now = time.monotonic()
  for step, in_a_row in ((1, 1), (2, 2), (3, 0), (4, 1), (5, 2)):
    report.note(step, step_metrics(np.nan, in_a_row), now, now)
  report.note(6, step_metrics(np.nan, 3), now, now)
  with pytest.raises(RunStopped, match=r'3 updates in a row, the last at step 6 \(sources of its batch: code\)'):
    report.flush()
  assert [r['step'] for r in metrics.read(StageFolder(tmp_path))] == [1, 2, 3, 4, 5, 6]


def test_a_skipped_update_is_recorded_whatever_the_interval(tmp_path):
  report = reporter(tmp_path, log_every=10)
  now = time.monotonic()
  report.note(3, step_metrics(1.0, 0), now, now)
  report.note(4, step_metrics(np.nan, 1), now, now)
  report.flush()
  assert [r['step'] for r in metrics.read(StageFolder(tmp_path))] == [4]


def test_layer_groups_and_z_loss_have_an_interval_of_their_own_and_come_with_a_skipped_update(tmp_path):
  report = reporter(tmp_path, log_every=2, layers_every=3)
  now = time.monotonic()
  for step in range(1, 9):
    report.note(step, step_metrics(1.0, int(step == 8)), now, now)
  report.note(100, step_metrics(1.0, 0), now, now)  # the last
  report.flush()
  records = metrics.read(StageFolder(tmp_path))
  assert [record['step'] for record in records] == [2, 3, 4, 6, 8, 100]
  named = [record for record in records if 'layer_grad_norms' in record]
  assert [record['step'] for record in named] == [3, 6, 8, 100] == [r['step'] for r in records if 'z_loss' in r]
  assert named[0]['layer_grad_norms'] == {'embedder': 3.0, 'mlp_0-3': 1.0} and named[0]['z_loss'] == 0.25
  assert named[0]['layer_update_ratios'] == {'embedder': 0.5, 'mlp_0-3': 2.0}


def reporter_with_clock(tmp_path, monkeypatch, ends):
  """A reporter whose steps end at these times."""
  monkeypatch.setattr(metrics, 'time', types.SimpleNamespace(monotonic=functools.partial(next, iter(ends))))
  return reporter(tmp_path)


def test_overlapping_steps_are_timed_from_the_end_of_the_step_before(tmp_path, monkeypatch):
  report = reporter_with_clock(tmp_path, monkeypatch, [10.0, 15.0, 30.0])
  report.note(1, step_metrics(1.0, 0), asked=0.0, ready=2.0)
  report.note(2, step_metrics(1.0, 0), asked=2.5, ready=3.0)  # its batch is ready while step 1 runs
  report.note(3, step_metrics(1.0, 0), asked=15.0, ready=20.0)  # its batch is late, and the device waits for it
  report.flush()
  records = metrics.read(StageFolder(tmp_path))
  assert [record['step_seconds'] for record in records] == [8.0, 5.0, 10.0]
  assert [record['data_seconds'] for record in records] == [2.0, 0.5, 5.0]
  assert [record['tokens_per_second'] for record in records] == [1 / 8, 1 / 5, 1 / 10]


def test_mfu_counts_forward_and_backward_as_three_passes_on_all_devices(tmp_path, monkeypatch):
  monkeypatch.setattr(hardware, 'peak_flops', lambda kind: 1e9)
  report = reporter_with_clock(tmp_path, monkeypatch, [4.0])
  counts = {'tokens': jnp.float32(700), 'pairs': jnp.float32(9000), 'local_pairs': jnp.float32(5000)}
  report.note(1, step_metrics(1.0, 0) | counts, asked=0.0, ready=2.0)
  report.flush()
  (record,) = metrics.read(StageFolder(tmp_path))
  # tiny: 4 layers of width 128 and 384, 4 heads and 2 key-value heads of 32, vocabulary 1024; two operations per weight.
  layer_weights = 128 * 32 * (4 + 2 + 2 + 4) + 3 * 128 * 384
  forward = 2 * 700 * (4 * layer_weights + 128 * 1024) + 4 * 9000 * 4 * 32 * 4
  assert record['mfu'] == pytest.approx(3 * forward / 2.0 / (8 * 1e9), rel=1e-6)


def test_a_source_without_weight_is_left_out_of_the_losses():
  losses = metrics.losses(np.array([3.0, 0.0, 1.0]), np.array([2.0, 0.0, 2.0]), ('a', 'b', 'c'))
  assert losses == {'loss': 1.0, 'loss_by_source': {'a': 1.5, 'c': 0.5}}


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 9), st.floats(0.5, 9)), min_size=1, max_size=5), st.integers(0, 5))
def test_the_headline_of_held_out_rows_weighs_sources_as_the_stage_learns_them(sources, empty):
  """Against a weighted mean in float64; the count of held-out rows of a source plays no part."""
  share, mean, weight = np.asarray(sources, np.float64).T
  weight = np.where(np.arange(len(weight)) == empty, 0, weight)  # a source without held-out weight
  names = [f'source {index}' for index in range(len(sources))]
  shares = {name: {'loss_weight': float(part), 'rows': 0.0} for name, part in zip(names, share)}
  found = metrics.held_out_losses(mean * weight, weight, shares)
  known = (weight > 0) & (share > 0)
  expected = np.average(mean[known], weights=share[known]) if share[known].sum() > 1e-6 else None
  if expected is not None:
    assert found['loss'] == pytest.approx(expected)
    assert metrics.held_out_losses(7 * mean * weight, 7 * weight, shares)['loss'] == pytest.approx(expected)
  assert set(found['loss_by_source']) == {name for name, one in zip(names, weight) if one > 0}


def test_shares_are_one_line():
  shares = {'code': {'loss_weight': 0.4, 'rows': 0.352}, 'facts': {'loss_weight': 0.6, 'rows': 0.648}}
  line = 'share of the loss (of the rows): code 40.0% (35.2%), facts 60.0% (64.8%)'
  assert metrics.describe_shares(shares) == line


def test_each_record_is_one_line_of_json(tmp_path):
  write_steps(tmp_path, 0, range(1, 3))
  for line in (tmp_path / 'metrics.jsonl').read_text().splitlines():
    assert json.loads(line)['kind'] in ('train', 'eval')


def test_a_bar_shows_time_left_and_held_out_loss_between_rare_updates(monkeypatch):
  monkeypatch.setattr('sys.stderr.isatty', lambda: True, raising=False)
  now = [0.0]
  bar = metrics.Progress('anneal', 0, 100, shows=True)
  (task,) = bar._bar.tasks
  bar._bar.get_time = task._get_time = lambda: now[0]
  bar.held_out(0, 9.25)
  for step in (10, 20, 30):
    now[0] += 563.0
    bar.update(step, 'loss 1.000')
  assert task.time_remaining == pytest.approx(70 * 56.3, rel=0.5)
  assert task.fields['news'] == 'loss 1.000  held out 9.250'
  bar.close()
