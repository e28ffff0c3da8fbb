"""What every attack program imports first: refuses to run outside the sandbox, and reports what an attempt came to."""

import ctypes
import errno
import os
import socket
import sys

_libc = ctypes.CDLL(None, use_errno=True)


def _inside() -> bool:
  """Whether this process is confined: by what the kernel says of it, not by the marker in the environment alone."""
  kind = os.environ.get('IQUEST_SANDBOX')
  if kind not in ('bubblewrap', 'landlock') or os.getuid() == 0 or os.geteuid() == 0:
    return False
  if _libc.prctl(39, 0, 0, 0, 0) != 1 or _libc.prctl(21, 0, 0, 0, 0) != 2:  # no_new_privs, seccomp filter
    return False
  try:
    os.close(os.memfd_create('guard'))
    return False
  except OSError as error:
    if error.errno != errno.ENOSYS:  # Only this sandbox's filter says so on a kernel that has Python's memfd_create.
      return False
  if kind == 'bubblewrap':
    return socket.gethostname() == 'sandbox' and not os.path.exists('/sys') and not os.access('/', os.W_OK)
  try:
    os.listdir('/')
    return False
  except PermissionError:
    return True


def require_sandbox() -> None:
  """Exits with status 3 unless this process is inside the sandbox."""
  if not _inside():
    print('refused: not in the sandbox', flush=True)
    os._exit(3)


def attempt(name: str, action, *args) -> None:
  """Performs an action that the sandbox must refuse and prints which it was: contained or ESCAPED."""
  try:
    result = action(*args)
  except (OSError, ImportError) as error:
    print(f'{name}: contained ({type(error).__name__}: {error})', flush=True)
  else:
    print(f'{name}: ESCAPED ({result!r})'[:500], flush=True)


def syscall(number: int, *args) -> int:
  """Performs a system call. Raises OSError."""
  result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
  if result < 0:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
  return result


def facts() -> dict:
  """Returns what the test says about the machine outside: paths, ports and process ids to aim at."""
  import json

  with open('facts.json') as file:
    return json.load(file)


if __name__ == '__main__':
  require_sandbox()
  sys.exit(0)
