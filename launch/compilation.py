"""Compiled programs are kept in the run folder, so that a run that starts again does not compile them again.

A step of full size takes minutes to compile, and every restart after a preemption would pay for it. The run folder is the
place that every host sees and that outlives them. One process writes, all read.
"""

import os

from iquest_jax import bucket
from iquest_jax.run_folder import RunFolder


def keep(run_folder: RunFolder) -> None:
  """Keeps what jax compiles from here on in <workdir>/compiled, unless JAX_COMPILATION_CACHE_DIR names another folder.

  Not on a CPU: what is compiled there uses the instructions of that processor, and the next machine may not have them.
  JAX_ENABLE_COMPILATION_CACHE=false turns it off.
  """
  import jax

  if jax.config.jax_compilation_cache_dir is not None or jax.default_backend() == 'cpu':
    return
  jax.config.update('jax_compilation_cache_dir', os.fspath(run_folder.compiled))
  # XLA's own caches for GPUs are files that it opens itself, so they cannot be on gs://.
  if bucket.is_bucket(run_folder.path):
    jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')
