"""The table of suites by name; a suite's file is imported when it is asked for, so that commands start fast."""

import importlib

from iquest_jax.errors import check_name

# Name as given to --suite -> 'file below iquest_jax/eval:the Suite in it'.
SUITES = {
    'humaneval': 'humaneval:HUMANEVAL',
    'humaneval_plus': 'evalplus:HUMANEVAL_PLUS',
    'mbpp': 'mbpp:MBPP',
    'mbpp_sanitized': 'mbpp:MBPP_SANITIZED',
    'mbpp_plus': 'evalplus:MBPP_PLUS',
    'small_programs': 'small_programs:SMALL_PROGRAMS',
}


def get(name: str):
  """The Suite of a name; raises UserError with the nearest name."""
  check_name('--suite: suite', name, SUITES)
  module, _, instance = SUITES[name].partition(':')
  return getattr(importlib.import_module(f'iquest_jax.eval.{module}'), instance)
