"""Saves a checkpoint below the folder argv[1] whose files may not grow that large; fails as a command does."""

import pathlib
import resource
import sys

import numpy as np

from iquest_jax.checkpoint.quiet import quiet_orbax
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder

quiet_orbax()
leaf = np.random.default_rng(0).standard_normal((256, 256))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
  checkpoints = Checkpoints(StageFolder(pathlib.Path(sys.argv[1])))
  checkpoints.save(1, {f'w{i}': (leaf + i).astype(np.float32) for i in range(12)}, None, {})
  checkpoints.wait()
except UserError as error:
  print(error, file=sys.stderr)
  sys.exit(2)
