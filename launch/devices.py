"""Starts jax for a command: several hosts joined into one, and a clear word where there is no accelerator."""

import glob
import os

import jax

from iquest_jax.errors import UserError

# As a host sees its chips.
_TPU_CHIPS = ('/dev/accel[0-9]*', '/dev/vfio/[0-9]*')


def start(size: str) -> None:
  """Joins the hosts of a pod or cluster and checks that there is hardware for this size.

  On TPU pods (also several slices), under Slurm and Open MPI jax.distributed finds the others by itself; anywhere else
  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.
  """
  if 'JAX_COORDINATOR_ADDRESS' in os.environ:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(
        num_processes=_number('JAX_NUM_PROCESSES'), process_id=_number('JAX_PROCESS_ID')
    )  # reads the coordinator's address itself
  elif _several_hosts():
    jax.distributed.initialize()
  if jax.default_backend() == 'cpu' and not size.startswith('tiny'):
    raise UserError(
        f'size "{size}" needs TPUs or NVIDIA GPUs and jax sees only this CPU; install the extra "tpu" or "gpu", '
        'or try the same stage with --exp=NAME:tiny'
    )


def _several_hosts() -> bool:
  """Whether others may wait for this process; a TPU host that is alone may join itself, which does no harm."""
  for tasks in ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'MEGASCALE_NUM_SLICES'):
    if tasks in os.environ and _number(tasks) > 1:
      return True
  if 'TPU_WORKER_HOSTNAMES' in os.environ:
    return ',' in os.environ['TPU_WORKER_HOSTNAMES']
  # A Cloud TPU VM knows the other hosts of its pod from the metadata server alone, which jax.distributed asks.
  return os.environ.get('JAX_PLATFORMS') != 'cpu' and any(glob.glob(pattern) for pattern in _TPU_CHIPS)


def _number(name: str) -> int:
  if not os.environ.get(name, '').isdigit():
    raise UserError(f'{name} is "{os.environ.get(name, "")}" in the environment; where hosts join it must be a number')
  return int(os.environ[name])
