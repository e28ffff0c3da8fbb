"""Commands silence what they report themselves, and nothing else; importing silences nothing."""

import logging
import pathlib
import subprocess
import sys

import pytest

from iquest_jax.checkpoint import quiet

ORBAX, OURS = '/lib/orbax/checkpoint/_src/futures/future.py', '/lib/iquest_jax/train/loop.py'
ERROR = (ValueError, ValueError('disk full'), None)


@pytest.mark.parametrize(
    ('path', 'level', 'exception', 'dropped'),
    [
        (ORBAX, logging.INFO, None, True),
        (ORBAX, logging.WARNING, None, False),
        (ORBAX, logging.ERROR, None, False),
        (ORBAX, logging.ERROR, ERROR, True),
        ('/lib/orbax/checkpoint/_src/metadata/checkpoint.py', logging.WARNING, None, True),
        (OURS, logging.INFO, None, False),
        (OURS, logging.ERROR, ERROR, False),
    ],
)
def test_only_information_and_tracebacks_of_orbax_are_dropped(path, level, exception, dropped):
  record = logging.LogRecord('absl', level, path, 1, 'text', (), exception)
  assert quiet._is_chatter(record) == dropped


@pytest.mark.parametrize(
    ('message', 'dropped'),
    [
        ("future: <Future finished exception=ValueError('Failed to write /run/9.orbax-checkpoint-tmp/d/f9')>", True),
        ("future: <Future finished exception=ValueError('Error reading gs://b/run/anneal/checkpoints/9/params/x')>", True),
        ('Task was destroyed but it is pending! task: <Task coro=<save() at /lib/orbax/checkpoint/handler.py:1>>', True),
        ("future: <Future finished exception=ValueError('Error reading /run/rows/code.array_record')>", False),
    ],
)
def test_asyncio_is_silent_about_abandoned_writes_of_a_checkpoint_alone(message, dropped):
  """TensorStore raises outside of any frame of Orbax: only the path of the file shows whose future it was."""
  record = logging.LogRecord('asyncio', logging.ERROR, '/lib/asyncio/base_events.py', 1, message, (), ERROR)
  assert quiet._is_of_orbax(record) == dropped


def test_a_command_warns_of_coroutines_that_nobody_awaited_except_those_of_a_failed_save():
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run([sys.executable, '-m', 'tests.programs.abandoned'], cwd=root, capture_output=True, text=True)
  assert "coroutine 'ours' was never awaited" in done.stderr and 'async_serialize' not in done.stderr, done.stderr


def test_importing_the_library_changes_neither_hooks_nor_filters():
  root = pathlib.Path(__file__).parents[2]
  subprocess.run([sys.executable, '-m', 'tests.programs.import_library'], cwd=root, check=True)
