"""Keeps Orbax from repeating, in many lines, what a command reports in one. Imports no jax."""

import logging as std_logging
import os
import re
import sys
import traceback
import warnings

from absl import logging

_ORBAX = f'{os.sep}orbax{os.sep}'
# In the path of every file of a save that is not committed; in a bucket a save has its final name from the beginning.
_SAVE = re.compile(r'\.orbax-checkpoint-tmp|gs://\S+/checkpoints/\d+/')
# Exceptions of tasks whose event loop Orbax has abandoned.
_ABANDONED = ('Event loop is closed', 'sys.meta_path is None, Python is likely shutting down')


def quiet_orbax() -> None:
  """Filters Orbax's logs for the whole process; called once, by the entry point of a command.

  What is dropped: Orbax's thirty lines of information per save; tracebacks of exceptions that it raises to the caller
  as well; and what Python prints when a writer fails and Orbax abandons the others. Orbax's warnings are kept.
  """
  logging.get_absl_logger().addFilter(lambda record: not _is_chatter(record))
  std_logging.getLogger('asyncio').addFilter(lambda record: not _is_of_orbax(record))
  warnings.filterwarnings('ignore', "coroutine 'async_serialize", RuntimeWarning)  # a write that was abandoned unstarted
  report = sys.unraisablehook
  sys.unraisablehook = lambda raised: None if str(raised.exc_value) in _ABANDONED else report(raised)


def _is_chatter(record: std_logging.LogRecord) -> bool:
  # Its metadata file is switched off (store.py), of which it warns three times per save.
  switched_off = record.pathname.endswith(os.path.join('metadata', 'checkpoint.py'))
  return _ORBAX in record.pathname and bool(record.levelno < std_logging.WARNING or record.exc_info or switched_off)


def _is_of_orbax(record: std_logging.LogRecord) -> bool:
  """Whether asyncio complains about a task of Orbax, what passed through one, or TensorStore in a checkpoint."""
  frames = traceback.walk_tb(record.exc_info[2]) if record.exc_info else ()
  paths = [frame.f_code.co_filename for frame, _ in frames]
  message = record.getMessage()
  return bool(_SAVE.search(message)) or any(_ORBAX in text for text in [message, *paths])
