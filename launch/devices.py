"""Starts jax for a command: several hosts joined into one, and a clear word where there is no accelerator."""

import os

import jax

from iquest_jax.errors import UserError


def start(size: str) -> None:
  """Joins the hosts of a pod or cluster and checks that there is hardware for this size.

  Hosts are found as jax.distributed finds them (TPU pods, Slurm, Kubernetes); anywhere else JAX_COORDINATOR_ADDRESS,
  JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.
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
  return ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '') or int(os.environ.get('SLURM_NTASKS', '1')) > 1


def _number(name: str) -> int:
  if not os.environ.get(name, '').isdigit():
    raise UserError(f'{name} is "{os.environ.get(name, "")}"; with JAX_COORDINATOR_ADDRESS it must be a number')
  return int(os.environ[name])
