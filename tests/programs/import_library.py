"""Imports the library's rooms that use Orbax, and fails if that changes a hook or a logging filter."""

import logging
import sys

from absl import logging as absl_logging


def state():
  loggers = absl_logging.get_absl_logger(), logging.getLogger('asyncio')
  return sys.unraisablehook, sys.excepthook, [logger.filters[:] for logger in loggers]


before = state()
from iquest_jax.checkpoint import lineage, quiet, restore  # noqa: E402, F401
from iquest_jax.train import loop  # noqa: E402, F401

assert state() == before
