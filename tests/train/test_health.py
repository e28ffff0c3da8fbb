"""When the checks of hardware run, what a finding says, and that a healthy machine never has one."""

import collections
import json
import types
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from iquest_jax.errors import SilentError
from iquest_jax.run_folder import StageFolder
from iquest_jax.train.health import checker, checks
from iquest_jax.train.health.checker import Checker
from iquest_jax.train.health.replicas import Difference
from iquest_jax.train.session import Session

from tests.train import faulty


class Recorded(checks.Health):
  """Health whose checks are recorded, and find what they are given."""

  def __init__(self, folder, **found):
    self._config = ConfigDict({'stage': 'anneal', 'health': {'replicas_every': 4, 'recompute_every': 6}})
    self._settings, self._folder = self._config.health, StageFolder(epath.Path(folder))
    self._checked = self._compared = None
    self._hosts, self.ran = ['tpu-0', 'tpu-1'], []

    def check(name):
      return lambda *arguments: self.ran.append((name, arguments[-1])) or found.get(name, [])

    self._replicas = types.SimpleNamespace(differences=check('replicas'))
    self._recompute = types.SimpleNamespace(differences=check('recompute'), places=8)


class State(int):
  """Of a step."""

  params = property(lambda self: self)


def test_checks_run_at_the_start_at_their_intervals_and_before_a_save(tmp_path):
  health = Recorded(tmp_path)
  for done in (12, *range(12, 25)):  # before the first evaluation, and before the first step
    health.between(done, State(done))
    if done in (15, 16):
      health.compare_replicas(done, State(done))
  steps = lambda name: [step for which, step in health.ran if which == name]
  assert steps('replicas') == [12, 15, 16, 20, 24] and steps('recompute') == [12, 18, 24]

  health = Recorded(tmp_path)
  health.between(7, State(7))  # a start is due whatever its step
  assert health.ran == [('replicas', 7), ('recompute', 7)]


def test_nothing_is_saved_while_replicas_differ(tmp_path):
  health = Recorded(tmp_path, replicas=[Difference('step', (device(1, 0),), True)])
  health._compared = 5  # an earlier step was sound
  # Whatever else a save does may be done; a checkpoint may not be begun, which would be an error here.
  session = types.SimpleNamespace(health=health, watchdog=mock.Mock(), writer=mock.Mock(), _lease=None, _checkpoints=None)
  with pytest.raises(SilentError):
    Session.save(session, 6, State(6), 0, {})


device = collections.namedtuple('device', ['id', 'process_index'])


@pytest.mark.parametrize(
    ('found', 'says'),
    [
        ([Difference('params/head', (device(5, 1),), True)],
         'params/head on device 5 (process 1, host tpu-1) contradicts the other devices; nothing was saved since; cordon '
         'tpu-1, then'),
        ([Difference('params/head', (device(1, 0), device(5, 1)), False), Difference('step', (device(1, 0),), True)],
         'params/head: device 1 (process 0, host tpu-0), device 5 (process 1, host tpu-1) contradict each other, and '
         'nothing says which is wrong; 1 more like it; nothing was saved since; cordon tpu-0, tpu-1, then'),
        ([Difference('recomputed rows (losses)', tuple(device(id, id // 4) for id in range(7)), True)],
         'so many do not fail at once, so suspect links and compiler before chips'),
    ],
)  # fmt: skip
def test_a_finding_names_leaf_device_and_host_in_one_line_and_in_a_file(tmp_path, found, says):
  health = Recorded(tmp_path, replicas=found)
  with pytest.raises(SilentError, match='^anneal: silent error after step 2: ') as error:
    health.between(2, State(2))
  assert says in str(error.value) and '\n' not in str(error.value) and error.value.status == 76
  (path,) = (tmp_path / 'silent_errors').iterdir()
  record = json.loads(path.read_text())
  assert record['what'] == [each.what for each in found] and record['step'] == 2
  assert {each['host'] for each in record['devices']} == {f'tpu-{each.process_index}' for each in found[0].suspects}


def test_of_two_places_that_contradict_each_other_neither_is_called_wrong_and_no_link_is_suspected(tmp_path):
  both = Difference('recomputed rows (losses)', tuple(device(id, id // 4) for id in range(8)), False)
  health = Recorded(tmp_path, recompute=[both])
  health._recompute.places = 2
  with pytest.raises(SilentError, match='contradict each other, and nothing says which is wrong; nothing was saved since'):
    health.between(2, State(2))


def test_a_folder_that_refuses_does_not_hide_the_finding(tmp_path):
  (tmp_path / 'silent_errors').write_text('in the way')
  with pytest.raises(SilentError):
    Recorded(tmp_path, replicas=[Difference('step', (device(1, 0),), True)]).between(0, State(0))


class Steps:
  """A stage whose steps are recorded; the checked one raises `error`."""

  def __init__(self, skipped=(), error=None):
    self.taken, self._skipped, self._error = [], skipped, error

  def train_step(self, state, batch):
    self.taken.append(batch)
    return state + 1, {'skipped_in_a_row': np.int32(batch in self._skipped)}

  def checked(self, state, batch):
    self.taken.append(f'checked {batch}')
    if self._error:
      raise JaxRuntimeError(self._error)
    return state + 100, {}


def test_the_checked_step_runs_first_and_after_a_skipped_update_and_its_result_is_dropped():
  steps = Steps(skipped=(3,))
  step, state = Checker(steps, steps.checked, found=None), 0
  for batch in range(1, 8):
    state, _ = step(state, batch)
  assert steps.taken == ['checked 1', 1, 2, 3, 4, 'checked 5', 5, 6, 7] and state == 7


def test_what_libtpu_finds_stops_the_run_and_other_errors_are_not_taken_for_it(tmp_path):
  health = Recorded(tmp_path)
  health._hosts = ['tpu-7']
  take = lambda error: Checker(steps := Steps(error=error), steps.checked, health._found_by_libtpu)(0, 1)
  says = "^anneal: silent error: libtpu's checker stopped a step: SDC Event detected: fusion.3 .*cordon tpu-7"
  with pytest.raises(SilentError, match=says):
    take('INTERNAL: stopped\nSDC Event detected: fusion.3 on chip 2\n')
  assert len(list((tmp_path / 'silent_errors').iterdir())) == 1
  assert take('RESOURCE_EXHAUSTED: Out of memory') == (1, {'skipped_in_a_row': 0})
  with pytest.raises(JaxRuntimeError, match='connection lost'):
    take('UNAVAILABLE: connection lost')


def test_only_a_tpu_has_the_checker_and_only_if_wanted(monkeypatch):
  stage = types.SimpleNamespace(_replace=lambda train_step: train_step)
  health = Recorded('/nowhere')
  health._settings.sdc_checker = True
  monkeypatch.setattr(checks, 'checked_step', lambda stage, kind: 'checked')
  monkeypatch.setattr(checks, 'Checker', lambda stage, checked, found: checked)
  assert health.checked(stage) is stage
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert health.checked(stage) == 'checked'
  health._settings.sdc_checker = False
  assert health.checked(stage) is stage


def test_chips_of_one_core_repeat_by_other_instructions():
  assert [checker.options(kind)['xla_tpu_sdc_replicate_llo'] for kind in ('TPU v5', 'TPU v5 lite', 'TPU v6 lite')] == [
      False, True, True,
  ]  # fmt: skip


@pytest.mark.long
def test_a_healthy_machine_has_no_finding_in_2000_steps(tmp_path):
  run = faulty.Run((2, 4, 1, 1))
  run.config.health.replicas_every, run.config.health.recompute_every = 1, 20
  with jax.set_mesh(run.mesh):
    health, state = checks.Health(run.config, StageFolder(epath.Path(tmp_path)), run.stage, run.mesh), run.state
    state = state.replace(step=0 * state.step, skipped=0 * state.skipped, skipped_in_a_row=0 * state.skipped_in_a_row)
    batches = [run.batch(seed) for seed in range(10)]
    for done in range(2000):
      health.between(done, state)
      state, _ = run.stage.train_step(state, batches[done % 10])
    assert int(state.step) == 2000 and int(state.skipped) == 0
