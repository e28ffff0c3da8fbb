"""Isolation by Landlock and seccomp: no root, no namespaces, nothing installed.

Landlock ABI 3 (Linux 6.2) is the least: below it truncation cannot be restricted, so a program could empty the files of
the user it runs as. From ABI 4 Landlock also restricts TCP, from ABI 5 device control, from ABI 6 signals and abstract
sockets. Below those, and at any ABI for what Landlock leaves open (UDP, local sockets, chmod, limits and scheduling of
other processes), the filter in `inside/seccomp.py` alone stops a program; tests run the attacks at ABI 3 too.

Weaker than bubblewrap: programs share the uid, the process ids and the disk of the machine. Disk use is measured, not
capped, so a program can overshoot between two walks of its folder (20 ms apart, or 20 times what a walk takes). A program
can see whether a file exists and how large it is, not what is in it. The process limit counts all processes of the uid,
so its other processes can use it up. Named shared memory is refused, so Python's multiprocessing locks do not work.
Below ABI 6 a program cannot signal its own children.
"""

import ctypes
import os
from collections.abc import Iterable

from iquest_jax.sandbox.inside import kernel, seccomp

LEAST_ABI = 3
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1, 2, 4, 8, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


def abi() -> int:
  """Returns the kernel's Landlock version, 0 if it has none."""
  try:
    return kernel.syscall(444, None, 0, 1)  # landlock_create_ruleset(LANDLOCK_CREATE_RULESET_VERSION)
  except OSError:
    return 0


def missing() -> str:
  """Says why this backend cannot be used here; empty if it can."""
  if not seccomp.supported():
    return 'the system-call filter needs Linux on x86-64'
  if abi() < LEAST_ABI:
    return f'Landlock ABI {LEAST_ABI} (Linux 6.2) is needed, this kernel has {abi() or "none"}'
  return ''


def restrict(read: Iterable[str], write: Iterable[str], version: int) -> None:
  """Confines this process and its descendants for good: reads below `read`, everything below `write`, no TCP.

  Paths that do not exist or cannot be reached are left out. Needs no_new_privs.

  Args:
    version: the ABI to use, at most the kernel's.

  Raises:
    OSError: the kernel refuses.
  """
  rights = (1 << (16 if version >= 5 else 15)) - 1
  network, scope = (3, 3) if version >= 6 else (3, 0) if version >= 4 else (0, 0)
  attributes = (ctypes.c_uint64 * 3)(rights, network, scope)
  size = 24 if version >= 6 else 16 if version >= 4 else 8
  ruleset = kernel.syscall(444, ctypes.byref(attributes), size, 0)
  for paths, access in ((read, _READ), (write, rights)):
    for path in paths:
      try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
      except (FileNotFoundError, PermissionError):
        continue
      allowed = access & rights if os.path.isdir(path) else access & rights & _OF_FILES
      rule = allowed.to_bytes(8, 'little') + target.to_bytes(4, 'little')
      kernel.syscall(445, ruleset, 1, ctypes.c_char_p(rule), 0)  # landlock_add_rule, LANDLOCK_RULE_PATH_BENEATH
      os.close(target)
  kernel.syscall(446, ruleset, 0)  # landlock_restrict_self
  os.close(ruleset)
