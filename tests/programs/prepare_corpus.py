"""Prepares a corpus, to be killed: SOURCES WORKDIR."""

import pathlib
import sys

from iquest_jax.data import corpus, inputs
from iquest_jax.data.executors import Executor
from iquest_jax.run_folder import RunFolder

if __name__ == '__main__':
  corpus.prepare(RunFolder(pathlib.Path(sys.argv[2])), inputs.load(sys.argv[1]), Executor(workers=2))
