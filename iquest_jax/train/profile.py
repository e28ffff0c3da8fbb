"""A trace of some steps, as TensorBoard and xprof read it: where the time of a step is spent.

Every host writes a trace of its own, since what makes a pod slow is often one host. They are one session, with a file per
host, so that xprof shows them side by side:

  tensorboard --logdir=<workdir>/<stage>/profile      with the plugin xprof installed
"""

import pathlib
import socket
import tempfile
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from iquest_jax.run_folder import StageFolder, write_whole


class Profile:
  """Traces the steps that log.profile names; a resumed run traces those of them that are left."""

  def __init__(self, config: ConfigDict, folder: StageFolder):
    self._steps, self._folder, self._local = config.log.profile, folder, None

  def between(self, done: int, state: Any) -> None:
    """Begins before the first step of the range and ends after its last, when the devices have completed `done` steps."""
    if not self._steps:
      return
    first, last = self._steps
    if self._local and done >= last:
      jax.block_until_ready(state)
      self.close()
    elif not self._local and first <= done + 1 <= last:
      jax.block_until_ready(state)
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # every Python call would slow the steps and fill the trace
      self._local = tempfile.TemporaryDirectory(prefix='profile_')
      jax.profiler.start_trace(self._local.name, profiler_options=options)

  def close(self) -> None:
    """Ends the trace, if there is one, and moves it into the run folder, wherever that is."""
    if not self._local:
      return
    jax.profiler.stop_trace()
    first, last = self._steps
    session = self._folder.profile / 'plugins' / 'profile' / f'steps_{first}_{last}'
    try:
      session.mkdir(parents=True, exist_ok=True)
      for trace in pathlib.Path(self._local.name).rglob('*.xplane.pb'):
        write_whole(session / f'{socket.gethostname()}_{jax.process_index()}.xplane.pb', trace.read_bytes())
      logging.info('a trace of steps %d to %d is in %s', first, last, self._folder.profile)
    except OSError as error:
      logging.warning('%s: the trace was not written (%s); the run continues', session, error)
    self._local.cleanup()
    self._local = None


def annotated(step: int) -> jax.profiler.StepTraceAnnotation:
  """A context that marks what belongs to a step, counted from 1, in a trace."""
  return jax.profiler.StepTraceAnnotation('train', step_num=step)
