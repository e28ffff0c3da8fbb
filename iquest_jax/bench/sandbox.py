"""Verdicts per second of a short Python program with warm workers, under every isolation of this machine."""

import concurrent.futures
import functools
import os
from collections.abc import Iterator

from iquest_jax.bench import machine
from iquest_jax.sandbox import doctor
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import PASSED, grade_script

VERDICTS = 100
_PROGRAM, _TESTS = 'def add(a, b):\n  return a + b\n', 'assert add(1, 2) == 3\n'


def results() -> Iterator[dict]:
  threads = os.cpu_count()
  for check in doctor.examine():
    if check.kind == 'isolation' and not check.missing:
      with Pool(threads, check.name) as pool, concurrent.futures.ThreadPoolExecutor(threads) as executor:
        seconds = machine.median_seconds(functools.partial(_grade, pool, executor), repeats=3)
      yield {'isolation': check.name, 'threads': threads, 'verdicts_per_second': round(VERDICTS / seconds, 1)}


def _grade(pool: Pool, executor: concurrent.futures.Executor) -> None:
  grade = lambda _: grade_script(pool, _PROGRAM, _TESTS, names=('add',))
  for verdict in executor.map(grade, range(VERDICTS)):
    if verdict.status != PASSED:
      raise RuntimeError(f'sandbox: a right program must pass, got {verdict}')
