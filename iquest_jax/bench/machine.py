"""What a result was measured on, and how it was timed."""

import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence

import jax


def describe() -> dict:
  """Devices, CPU and versions, to be stored with every result."""
  return {
      'device': jax.devices()[0].device_kind,
      'devices': jax.device_count(),
      'cpu': _cpu(),
      'cores': os.cpu_count(),
      'python': platform.python_version(),
      'jax': jax.__version__,
  }


def _cpu() -> str:
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  model = re.search(r'^model name\s*: (.*)', cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
  return model[1] if model else platform.processor()


def median_seconds(call: Callable[[], object], repeats: int) -> float:
  """Median wall time of `repeats` calls, after one warm-up call."""
  return alternating_medians([call], repeats)[0]


def alternating_medians(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
  """`median_seconds` of each call, called in turn, so that what else the machine does slows all of them alike."""
  for call in calls:
    call()
  seconds = [[] for _ in calls]
  for _ in range(repeats):
    for call, taken in zip(calls, seconds, strict=True):
      start = time.perf_counter()
      call()
      taken.append(time.perf_counter() - start)
  return [statistics.median(taken) for taken in seconds]
