"""What a result was measured on, and how it was timed."""

import os
import platform
import statistics
import time
from collections.abc import Callable

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
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo') as file:
      for line in file:
        if line.startswith('model name'):
          return line.partition(':')[2].strip()
  return platform.processor()


def median_seconds(call: Callable[[], object], repeats: int) -> float:
  """Median wall time of `repeats` calls, after one warm-up call."""
  call()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)
