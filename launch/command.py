"""What all command lines share: --exp and its overrides, sub-commands, one-line errors, exit status, short help.

Imports no jax, so that --help answers at once.
"""

import errno
import importlib
import inspect
import logging as std_logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments import chain
from iquest_jax import bucket, ending
from iquest_jax.checkpoint.quiet import quiet_orbax
from iquest_jax.config import check_start, flatten
from iquest_jax.errors import RunStopped, UserError, check_name, nearest
from iquest_jax.run_folder import RunFolder
from iquest_jax.train import preemption
from launch import devices

flags.DEFINE_string('workdir', '', 'Folder of one chain: its tokenizer, its rows, and one folder per stage.')
flags.DEFINE_string('size', 'tiny_loop', 'Size of the model: 7b, 14b, 40b, 40b_loop, tiny, tiny_loop.')

FLAGS = flags.FLAGS
# Other fields were chosen to match these; changed alone, they would mislabel the run.
_NAMED = ('stage', 'size', 'init.stage')
# Errors of a disk or folder that the user has to resolve.
_REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST, errno.ENXIO, errno.EREMOTEIO,
)  # fmt: skip


def experiment(text: str) -> ConfigDict:
  """The configuration of `NAME` or `NAME:arguments`; raises UserError with the nearest name."""
  name, _, arguments = text.partition(':')
  check_name('--exp: experiment', name, chain.PARENTS)
  return importlib.import_module(f'experiments.{name}').get_config(arguments)


def config() -> ConfigDict:
  """The configuration named by --exp, with overrides; its `init` is checked here, before anything is read."""
  if 'exp' not in FLAGS:
    raise UserError('--exp is missing; name an experiment, as in --exp=midtrain_128k:size=7b')
  check_start(FLAGS.exp.init)
  return FLAGS.exp


def run_folder() -> RunFolder:
  """The folder named by --workdir, on a disk that all hosts of a run see or on gs://.

  Raises:
    UserError: it cannot be one, or its bucket does not exist or refuses.
  """
  folder = RunFolder(FLAGS.workdir)
  if bucket.is_bucket(folder.path):
    bucket.check(folder.path)
  return folder


def subcommand(argv: list[str], commands: Mapping[str, Callable[..., None]]) -> tuple[str, list[str]]:
  """(name of the sub-command, its operands): one operand per parameter of its function.

  Raises:
    UserError: the sub-command is missing or unknown, or has other operands.
  """
  name, *operands = argv[1:] or ['']
  if name not in commands:
    problem = f'"{name}" does not exist' if name else 'is missing'
    raise UserError(f'sub-command {problem}{nearest(name, commands)}')
  expected = [parameter.upper() for parameter in inspect.signature(commands[name]).parameters]
  if len(operands) != len(expected):
    raise UserError(f'{name}: expected {" ".join(expected) or "only flags"}, got {" ".join(operands) or "only flags"}')
  return name, operands


def run(
    main: Callable[[list[str]], int | None],
    operands: bool = False,
    rewrite_exp: Callable[[str], str] = lambda text: text,
) -> None:
  """Runs a command: parses flags, turns a UserError or RunStopped into one line on stderr, and exits with its status or 0.

  Args:
    main: takes what flags leave of the command line, the program's name first.
    operands: whether it takes anything besides flags.
    rewrite_exp: takes the text of --exp and returns the one to use; all other flags have their values by then.
  """

  def checked(argv):
    if argv[1:] and not operands:
      raise UserError(f'unexpected argument "{argv[1]}"; this command takes only flags (see --help)')
    return main(argv)

  def guarded(step, *arguments):
    try:
      with preemption.interruptible():
        result = step(*arguments)
        ending.together()
        return result
    except SystemExit as error:
      if ending.is_alone() or not error.code:
        raise
      line, status = 'it has said why', error.code
    except (UserError, RunStopped) as error:
      line, status = str(error), error.status
    except KeyboardInterrupt:
      if ending.is_alone():
        raise
      line, status = 'interrupted from the keyboard; rerun the same command', 130  # 128 + SIGINT, as shells report it
    except Exception as error:
      if isinstance(error, OSError) and error.errno in _REFUSALS:
        line, status = f'{error.filename or "disk"}: {error.strerror}; everything written earlier is intact', 2
      elif reason := bucket.refusal(error):
        line, status = f'{FLAGS.workdir}: {reason}; everything written earlier is intact', 2
      elif ending.is_alone():
        raise
      else:
        traceback.print_exc()
        line, status = f'{type(error).__name__}: {error}'.partition('\n')[0], 1
    return ending.leave(status, line)

  preemption.install()
  devices.ignore_absent_tpu()
  os.environ['EPATH_USE_TF'] = '0'  # else gs:// paths import TensorFlow where it is installed
  quiet_orbax()
  logging.get_absl_handler().setFormatter(std_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  app.run(lambda argv: guarded(checked, argv), flags_parser=lambda argv: guarded(_parse, argv, rewrite_exp))


def _parse(argv: list[str], rewrite_exp: Callable[[str], str]) -> list[str]:
  if {'-h', '--help', '-help'} & set(argv):
    about, options = sys.modules['__main__'].__doc__.strip(), FLAGS.main_module_help().strip().partition('\n')[2]
    print(f'{about}\n\nFlags:\n{options}')
    sys.exit(0)
  # The overrides become flags once the experiment is known.
  _set_flags(argv, known_only=True)
  return _set_flags(_define_experiment(argv, rewrite_exp))


def _set_flags(argv: list[str], known_only: bool = False) -> list[str]:
  try:
    return FLAGS(argv, known_only=known_only)
  except flags.UnrecognizedFlagError as error:
    raise UserError(f'flag --{error.flagname} does not exist{nearest(error.flagname, FLAGS)}') from None
  except (flags.Error, ValueError, TypeError) as error:
    raise UserError(' '.join(str(error).split())) from None


def _define_experiment(argv: list[str], rewrite_exp: Callable[[str], str]) -> list[str]:
  """Defines the flag `exp` from --exp=NAME and checks the overrides' keys; returns argv without --exp=NAME."""
  argv = [f'-{arg}' if arg.startswith('-exp') else arg for arg in argv]  # absl takes one dash for two
  chosen = [arg.partition('=')[2] for arg in argv if arg.startswith('--exp=')]
  overrides = [arg for arg in argv if arg.startswith('--exp.')]
  rest = [arg for arg in argv if arg not in overrides and not arg.startswith('--exp=')]
  if not chosen:
    if overrides or '--exp' in argv:
      raise UserError('--exp=NAME is missing; write it with an equals sign, as in --exp=midtrain_128k:size=7b')
    return argv
  settings = experiment(rewrite_exp(chosen[-1]))
  leaves = flatten(settings)
  for arg in overrides:
    key, separator, _ = arg.removeprefix('--exp.').partition('=')
    if key not in leaves:
      raise UserError(f'--exp.{key} does not exist in {settings.stage}{nearest(key, leaves)}')
    if key in _NAMED:
      raise UserError(
          f'--exp.{key} is set by --exp; choose another experiment or size there, as in --exp=anneal:size=7b'
      )
    if not separator:
      raise UserError(f'--exp.{key} has no value; write --exp.{key}=VALUE')
  # config_flags reads the overrides from sys.argv and checks each against its field's type.
  sys.argv = [argv[0], *overrides, *rest[1:]]
  config_flags.DEFINE_config_dict('exp', settings)
  return sys.argv
