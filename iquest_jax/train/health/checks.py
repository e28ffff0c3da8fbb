"""Looks for hardware that computes wrongly without an error, between two steps; stops the run before anything is saved.

Three checks, each of which sees what the others cannot: replicas.py compares what is stored, recompute.py what a row goes
through, checker.py every operation of a step.
"""

import json
import socket
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax import hosts
from iquest_jax.errors import SilentError
from iquest_jax.run_folder import StageFolder, write_whole
from iquest_jax.train.health.checker import Checker, checked_step
from iquest_jax.train.health.recompute import Recompute
from iquest_jax.train.health.replicas import Difference, Replicas
from iquest_jax.train.state import TrainState
from iquest_jax.train.step import Stage

# Devices that a line names; a longer list is cut.
_NAMED = 8


class Health:
  """The checks of a run; all processes ask for them at the same steps and come to the same answer."""

  def __init__(self, config: ConfigDict, folder: StageFolder, stage: Stage, mesh: Mesh):
    self._config, self._folder, self._settings = config, folder, config.health
    self._replicas, self._recompute = Replicas(mesh, stage.abstract), Recompute(config, stage.model, mesh)
    self._hosts = hosts.gather('host names', socket.gethostname())
    self._checked = self._compared = None  # after which step `between` and `compare_replicas` last found nothing

  def between(self, done: int, state: TrainState) -> None:
    """Runs what is due after `done` steps, once; a process begins with all checks.

    So what it restored is checked before anything is done with it, and programs are compiled while the watchdog allows
    for it.

    Raises:
      SilentError: devices contradict each other.
    """
    if done == self._checked:
      return
    first, every = self._checked is None, self._settings.recompute_every
    if first or done % self._settings.replicas_every == 0:
      self.compare_replicas(done, state)
    if every and (first or done % every == 0):
      self._report(done, self._recompute.differences(state.params, done))
    self._checked = done

  def compare_replicas(self, done: int, state: TrainState) -> None:
    """As `between`, of replicas alone; what is about to be saved must have passed it."""
    if self._compared != done:
      self._report(done, self._replicas.differences(state))
      self._compared = done

  def checked(self, stage: Stage) -> Stage:
    """The stage with libtpu's checker before the first step, on TPUs and if the configuration wants it."""
    kind = jax.devices()[0].device_kind
    if not self._settings.sdc_checker or jax.default_backend() != 'tpu':
      return stage
    return stage._replace(train_step=Checker(stage, checked_step(stage, kind), self._found_by_libtpu))

  def _report(self, done: int, found: Sequence[Difference]) -> None:
    if not found:
      return
    first, *others = found
    where, several = self._where(first.suspects), len(first.suspects) > 1
    if not first.outvoted:
      finding = f'{first.what}: {where} contradict each other, and nothing says which is wrong'
    else:
      finding = f'{first.what} on {where} contradict{"" if several else "s"} the other devices'
    # Of two places that contradict each other, one may be sound.
    if 2 * len(first.suspects) > jax.device_count() > 2 and (first.outvoted or self._recompute.places > 2):
      finding += '; so many do not fail at once, so suspect links and compiler before chips'
    finding += f'; {len(others)} more like it' if others else ''
    suspects = list(dict.fromkeys(device for each in found for device in each.suspects))
    self._stop(done, finding, suspects, [each.what for each in found], writes=jax.process_index() == 0)

  def _found_by_libtpu(self, line: str) -> None:
    """Only the host of the chip gets the error; the others wait for it until their watchdogs end them."""
    self._stop(None, f"libtpu's checker stopped a step: {line}", jax.local_devices(), [line], writes=True)

  def _stop(
      self, done: int | None, finding: str, suspects: Sequence[jax.Device], what: Sequence[str], writes: bool
  ) -> NoReturn:
    cordon = ', '.join(dict.fromkeys(self._host(device) for device in suspects))
    devices = [{'id': device.id, 'process': device.process_index, 'host': self._host(device)} for device in suspects]
    if writes:
      self._write({'time': round(time.time()), 'step': done, 'finding': finding, 'what': what, 'devices': devices})
    after = '' if done is None else f' after step {done}'
    raise SilentError(
        f'{self._config.stage}: silent error{after}: {finding}; nothing was saved since; cordon {cordon}, then rerun the '
        'same command on other hosts'
    )

  def _write(self, record: dict[str, Any]) -> None:
    path = self._folder.silent_errors / f'{record["time"]}_{jax.process_index()}.json'
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      write_whole(path, json.dumps(record, indent=1))
    except OSError as error:  # the run stops with the same words anyway
      logging.warning('%s: the finding cannot be written there (%s)', path, error.strerror or error)

  def _host(self, device: jax.Device) -> str:
    return self._hosts[device.process_index]

  def _where(self, devices: Sequence[jax.Device]) -> str:
    """'device 5 (process 1, host tpu-1)'; a long list is cut."""
    shown = [f'device {each.id} (process {each.process_index}, host {self._host(each)})' for each in devices[:_NAMED]]
    return ', '.join(shown) + (f' and {len(devices) - _NAMED} more' if len(devices) > _NAMED else '')
