"""The system calls that confinement needs and Python 3.11 does not wrap, through ctypes."""

import ctypes
import os
import signal

_libc = ctypes.CDLL(None, use_errno=True)
_gil = ctypes.PyDLL(None, use_errno=True)  # Keeps the interpreter locked during the call, as a fork must.

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x00020000, 0x08000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 22, 36, 38, 47
_SYS_CLONE, _SYS_CAPSET = 56, 126


def _check(result: int) -> int:
  if result < 0:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
  return result


def prctl(option: int, argument=0, second=0) -> int:
  """Calls prctl(2). Raises OSError."""
  cast = lambda value: ctypes.c_ulong(value) if isinstance(value, int) else value
  return _check(_libc.prctl(option, cast(argument), cast(second), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def syscall(number: int, *arguments) -> int:
  """Calls syscall(2) with integers, byte strings and ctypes pointers. Raises OSError."""
  return _check(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = '') -> None:
  """Calls mount(2). Raises OSError."""
  encode = lambda text: text.encode() if text else None
  _check(_libc.mount(source.encode(), target.encode(), encode(kind), ctypes.c_ulong(flags), encode(options)))


def fork_into(flags: int) -> int:
  """Forks the single-threaded interpreter into new namespaces, as os.fork() and unshare(2) in one step."""
  ctypes.pythonapi.PyOS_BeforeFork()
  zero = ctypes.c_long(0)
  pid = _gil.syscall(ctypes.c_long(_SYS_CLONE), ctypes.c_long(flags | signal.SIGCHLD), zero, zero, zero, zero)
  if pid == 0:
    ctypes.pythonapi.PyOS_AfterFork_Child()
  else:
    ctypes.pythonapi.PyOS_AfterFork_Parent()
  return _check(pid)


def drop_capabilities() -> None:
  """Gives up every capability for good. Raises OSError."""
  prctl(PR_CAP_AMBIENT, 4)  # PR_CAP_AMBIENT_CLEAR_ALL
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)
  syscall(_SYS_CAPSET, ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
