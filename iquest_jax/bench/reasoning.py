"""Verified samples of reasoning per CPU second: functions of real source in the sandbox, generated programs, puzzles."""

import os
import time
from collections.abc import Iterable, Iterator

from iquest_jax.bench import clean
from iquest_jax.data.build.reasoning import functions, predict
from iquest_jax.data.build.reasoning.programs import LEVELS, programs
from iquest_jax.data.build.reasoning.puzzles import puzzles
from iquest_jax.data.documents import Conversation, Drop, File
from iquest_jax.sandbox.inside import processes
from iquest_jax.sandbox.pool import Pool

FILES, PROGRAMS, PUZZLES = 400, 1000, 500


def results() -> Iterator[dict]:
  """Samples per CPU second, that of the sandboxes included: all else the machine does leaves it alone."""
  files = [File(path, path, text) for path, text in clean.sources()[::5][:FILES]]
  with Pool(1) as pool:
    list(predict.make(File('warm', 'warm.py', 'def f(x):\n  y = x\n  z = y\n  return z\n'), pool, 0))
    fields = {'files': len(files), 'files_with_functions': sum(any(functions.find(file.text)) for file in files)}
    fields['mb'] = round(sum(len(file.text) for file in files) / 1e6, 1)
    yield {'step': 'functions', **fields, **_measure(one for file in files for one in predict.make(file, pool, 0))}
  for level in LEVELS:
    yield {'step': f'programs, level {level}', **_measure(programs(range(PROGRAMS), 0, levels=(level,)))}
  yield {'step': 'puzzles', **_measure(puzzles(range(PUZZLES), 0))}


def _measure(samples: Iterable[Conversation | Drop]) -> dict:
  start = _cpu_s()
  made = sum(isinstance(sample, Conversation) for sample in samples)
  return {'samples': made, 'samples_per_cpu_second': round(made / (_cpu_s() - start), 1)}


def _cpu_s() -> float:
  """CPU seconds of this process and of everything below it."""
  return time.process_time() + processes.usage(os.getpid()).cpu_s
