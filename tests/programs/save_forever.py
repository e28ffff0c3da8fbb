"""Saves one checkpoint after another below the folder argv[1], until it is killed; prints each step it starts."""

import pathlib
import sys

import numpy as np

from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.run_folder import StageFolder

checkpoints = Checkpoints(StageFolder(pathlib.Path(sys.argv[1])))
checkpoints.clear_leftovers()
step = checkpoints.latest_step() or 0
while True:
  step += 1
  params = {f'w{i}': np.full((64, 64), step * 10 + i, np.float32) for i in range(6)}
  checkpoints.save(step, params, {'step': np.int32(step)}, {'size': 'tiny'})
  print(step, flush=True)
