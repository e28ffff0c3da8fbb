"""What a command runs on: hosts joined into one run, hardware that is absent left alone, one line that says what it is.

Imports jax only where it is needed, so that --help answers at once.
"""

import glob
import importlib.util
import os
import threading

from absl import logging

from iquest_jax import ending
from iquest_jax.errors import RunStopped, UserError
from iquest_jax.train import preemption

JOIN_LIMIT_S = 300.0  # for the last host to join, after the first

# How a host sees its accelerators.
_TPU_CHIPS = ('/dev/accel[0-9]*', '/dev/vfio/[0-9]*')
_NVIDIA_GPUS = ('/dev/nvidia[0-9]*', '/dev/dxg')


def ignore_absent_tpu() -> None:
  """Keeps jax from looking for a TPU on a machine without one, where libtpu prints errors, and jax says if it is absent.

  Call this before jax is imported; JAX_PLATFORMS wins if it is set.
  """
  if os.environ.get('JAX_PLATFORMS') or _exists(_TPU_CHIPS):
    return
  cuda = any(importlib.util.find_spec(f'jax_cuda{version}_plugin') for version in (12, 13))
  os.environ['JAX_PLATFORMS'] = 'cuda,cpu' if cuda and _exists(_NVIDIA_GPUS) else 'cpu'


def join_hosts() -> None:
  """Joins the hosts of a pod or cluster.

  On TPU pods (also several slices), under Slurm and under Open MPI, jax.distributed finds the other hosts by itself;
  elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name them.

  Raises:
    UserError: one of these variables is not a number.

  Ends the process, with one line and status 1, if a host has not joined after JOIN_LIMIT_S.
  """
  import jax

  if 'JAX_COORDINATOR_ADDRESS' in os.environ:
    how = dict(num_processes=_number('JAX_NUM_PROCESSES'), process_id=_number('JAX_PROCESS_ID'))  # it reads the address
  elif _several_hosts():
    how = {}
  else:
    return
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # jax itself would abort the process, with a stack instead of a reason.
  late = threading.Timer(JOIN_LIMIT_S, _end_alone)
  late.daemon = True
  late.start()
  jax.distributed.initialize(initialization_timeout=round(2 * JOIN_LIMIT_S), **how)
  late.cancel()
  if jax.config.jax_platforms == 'cpu':
    # A program that XLA reads back for a CPU has lost the order of its collectives: now and then two processes begin
    # different ones and wait for each other forever (jax 0.10.2).
    jax.config.update('jax_enable_compilation_cache', False)
  preemption.install()
  ending.watch(preemption.asked, preemption.ask)


def _end_alone() -> None:
  """Ends a process that the others did not join."""
  where = os.environ.get('JAX_COORDINATOR_ADDRESS', 'the address that the cluster names')
  count = os.environ.get('JAX_NUM_PROCESSES', 'all')
  ending.abort(RunStopped(
      f'waited {JOIN_LIMIT_S:.0f} s for {count} processes to join the run at {where}, and at least one did not; see '
      'whether it was started and reaches that address, then rerun the same command on all hosts'
  ))  # fmt: skip


def start(size: str) -> None:
  """Joins the hosts, logs what the run has, and checks that it suffices for this size.

  Raises:
    UserError: as `join_hosts`, or a full size without an accelerator.
  """
  import jax

  join_hosts()
  log_devices()
  if jax.default_backend() == 'cpu' and not size.startswith('tiny'):
    raise UserError(
        f'size "{size}" needs TPUs or NVIDIA GPUs, and jax sees only this CPU; install the extra "tpu" or "gpu", '
        'or try the same stage with --exp=NAME:tiny'
    )


def log_devices() -> None:
  """Logs what jax runs on, as in `running on 1 CPU device (jax 0.10.2)`.

  Raises:
    UserError: jax cannot start the platform that JAX_PLATFORMS names.
  """
  import jax

  try:
    kind, count = jax.devices()[0].device_kind, jax.device_count()
  except RuntimeError as error:
    reason = str(error).partition('\n')[0]
    raise UserError(f'JAX_PLATFORMS={os.environ.get("JAX_PLATFORMS", "")}: {reason}') from error
  kind = 'CPU' if kind == 'cpu' else kind
  hosts = f' in {jax.process_count()} processes' if jax.process_count() > 1 else ''
  logging.info('running on %d %s device%s%s (jax %s)', count, kind, 's' * (count > 1), hosts, jax.__version__)


def _several_hosts() -> bool:
  """Whether other hosts may wait for this process; a single TPU host that joins only itself does no harm."""
  for tasks in ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'MEGASCALE_NUM_SLICES'):
    if tasks in os.environ and _number(tasks) > 1:
      return True
  if 'TPU_WORKER_HOSTNAMES' in os.environ:
    return ',' in os.environ['TPU_WORKER_HOSTNAMES']
  # A Cloud TPU VM learns of the other hosts of its pod only from the metadata server, which jax.distributed asks.
  return os.environ.get('JAX_PLATFORMS') != 'cpu' and _exists(_TPU_CHIPS)


def _exists(patterns: tuple[str, ...]) -> bool:
  return any(glob.glob(pattern) for pattern in patterns)


def _number(name: str) -> int:
  value = os.environ.get(name, '')
  if not value.isdigit():
    raise UserError(f'{name} must be a number where hosts join a run, got "{value}"; set it in the environment')
  return int(value)
