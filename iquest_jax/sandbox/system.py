"""What every sandbox needs of this machine: a Python, the read-only system, a clean environment, a uid."""

import functools
import itertools
import os
import pathlib
import random
import stat
import sys

CODE = '/opt/sandbox'  # Where bubblewrap shows this package, of `iquest_jax` only these parts:
PARTS = ('__init__.py', 'errors.py', 'sandbox')
_SYSTEM = ['/usr', '/lib', '/lib32', '/lib64', '/bin', '/sbin', '/etc/ld.so.cache', '/etc/alternatives', '/etc/localtime']
_SYSTEM += ['/etc/ssl/openssl.cnf']  # Without it node starts, but not if it exists and cannot be read.
_SYSTEM += [f'/etc/java-{version}-openjdk' for version in (11, 17, 21, 25)]  # The JDK keeps its settings there.
_UIDS = range(61184, 65520)  # What systemd reserves for services without a fixed user.
_uids = itertools.cycle(random.SystemRandom().sample(_UIDS, len(_UIDS)))


def reachable(path: str) -> bool:
  """Whether a user without privileges can open `path`, as far as the modes of its folders say."""
  real = pathlib.Path(os.path.realpath(path))
  return all(os.stat(folder).st_mode & stat.S_IXOTH for folder in (*real.parents, real) if folder.is_dir())


def code_folder() -> str:
  """Returns the folder of the package `iquest_jax`."""
  return str(pathlib.Path(__file__).resolve().parents[1])


@functools.cache
def python(everyone: bool) -> tuple[str, str]:
  """Returns (executable, prefix) of the Python that runs inside, without the virtual environment around it.

  Args:
    everyone: another uid must be able to run it, so an interpreter below root's home is passed over.
  """
  real = os.path.realpath(sys.executable)
  if everyone and not reachable(real):
    for other in ('/usr/local/bin/python3', '/usr/bin/python3'):
      if os.path.exists(other):
        return os.path.realpath(other), other.removesuffix('/bin/python3')
  return real, os.path.realpath(sys.base_prefix)


def folders() -> list[str]:
  """Returns the existing parts of the system that programs may read; symbolic links as such."""
  return [path for path in _SYSTEM if os.path.exists(path)]


def environment(kind: str) -> dict[str, str]:
  """Returns the environment inside, nothing of the caller's; each job adds its folder as HOME and TMPDIR."""
  return {
      'PATH': '/usr/local/bin:/usr/bin:/bin',
      'LANG': 'C.UTF-8',
      'PYTHONDONTWRITEBYTECODE': '1',
      'IQUEST_SANDBOX': kind,
  }


def fresh_uid() -> int | None:
  """Returns a uid that no other sandbox of this process has, where this process is root; else None."""
  return next(_uids) if os.geteuid() == 0 else None
