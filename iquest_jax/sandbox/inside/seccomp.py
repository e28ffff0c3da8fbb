"""The system-call filter of every program in the sandbox, as a classic BPF program for x86-64.

A deny list. It stops what neither backend stops by itself: other ways to reach a process (ptrace, process_vm_*), memory
that no resident set shows (memfd, System V segments), io_uring (which performs system calls behind the filter), new
namespaces, keys, BPF and the like. Under Landlock, where the program shares the user's uid and the machine's network,
it also stops sockets, signals to others, limits and scheduling of others, watches on folders, and changes of mode, owner,
times and extended attributes, which Landlock does not govern.
"""

import ctypes
import dataclasses
import errno
import platform
import struct

from iquest_jax.sandbox.inside import kernel

_AUDIT_ARCH_X86_64 = 0xC000003E
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _AND, _RETURN, _EQUAL, _AT_LEAST = 0x20, 0x54, 0x06, 0x15, 0x35
_NEW_NAMESPACES = 0x7E020000  # Every CLONE_NEW* bit that clone(2) takes.

_NEVER = {
    'ptrace': 101, 'process_vm_readv': 310, 'process_vm_writev': 311, 'process_madvise': 440, 'kcmp': 312,
    'pidfd_getfd': 438, 'unshare': 272, 'setns': 308, 'mount': 165, 'umount2': 166, 'pivot_root': 155, 'chroot': 161,
    'open_tree': 428, 'move_mount': 429, 'fsopen': 430, 'fsconfig': 431, 'fsmount': 432, 'fspick': 433,
    'mount_setattr': 442, 'bpf': 321, 'perf_event_open': 298, 'add_key': 248, 'request_key': 249, 'keyctl': 250,
    'userfaultfd': 323, 'io_uring_setup': 425, 'io_uring_enter': 426, 'io_uring_register': 427, 'kexec_load': 246,
    'kexec_file_load': 320, 'init_module': 175, 'finit_module': 313, 'delete_module': 176, 'open_by_handle_at': 304,
    'name_to_handle_at': 303, 'quotactl': 179, 'quotactl_fd': 443, 'swapon': 167, 'swapoff': 168, 'reboot': 169,
    'syslog': 103, 'acct': 163, 'iopl': 172, 'ioperm': 173, 'modify_ldt': 154, 'migrate_pages': 256, 'move_pages': 279,
    'settimeofday': 164, 'clock_settime': 227, 'adjtimex': 159, 'clock_adjtime': 305, 'vhangup': 153,
    'fanotify_init': 300, 'lookup_dcookie': 212,
}  # fmt: skip
_ABSENT = {
    'clone3': 435, 'memfd_create': 319, 'memfd_secret': 447, 'mq_open': 240, 'mq_unlink': 241, 'shmget': 29, 'shmat': 30,
    'shmctl': 31, 'semget': 64, 'semop': 65, 'semctl': 66, 'semtimedop': 220, 'msgget': 68, 'msgsnd': 69, 'msgrcv': 70,
    'msgctl': 71,
}  # fmt: skip
_SHARED_UID = {
    'socket': 41, 'inotify_init': 253, 'inotify_init1': 294, 'setpriority': 141, 'ioprio_set': 251, 'chown': 92,
    'fchown': 93, 'lchown': 94, 'fchownat': 260, 'setxattr': 188, 'lsetxattr': 189, 'fsetxattr': 190, 'removexattr': 197,
    'lremovexattr': 198, 'fremovexattr': 199, 'utime': 132, 'utimes': 235, 'futimesat': 261, 'fchmodat2': 452,
    'setxattrat': 463, 'removexattrat': 466,
}  # fmt: skip
_MODE = {'chmod': 90, 'fchmodat': 268, 'utimensat': 280}
_ON_OTHERS = {
    'prlimit64': 302, 'sched_setaffinity': 203, 'sched_setparam': 142, 'sched_setscheduler': 144, 'sched_setattr': 314,
}  # fmt: skip
_SIGNALS_TO = {'kill': 62, 'tgkill': 234, 'rt_sigqueueinfo': 129, 'rt_tgsigqueueinfo': 297}
_SIGNALS = {'tkill': 200, 'pidfd_send_signal': 424}


@dataclasses.dataclass(frozen=True)
class _Rule:
  """Fails system call `number` with `error`, given (argument & mask) == value, or != value if `unless`."""

  number: int
  error: int = errno.EPERM
  argument: int = -1
  mask: int = 0xFFFFFFFF
  value: int = 0
  unless: bool = False


def _rules(shared_uid: bool, pid: int | None) -> list[_Rule]:
  rules = [_Rule(number) for number in _NEVER.values()]
  rules += [_Rule(number, errno.ENOSYS) for number in _ABSENT.values()]
  rules += [_Rule(56, argument=0, mask=_NEW_NAMESPACES, unless=True)]  # clone
  rules += [_Rule(16, argument=1, value=command) for command in (0x5412, 0x541C)]  # ioctl TIOCSTI, TIOCLINUX
  if shared_uid:
    rules += [_Rule(number) for number in _SHARED_UID.values()]
    # Linkers change the mode of what they wrote and archivers its times: both believe that it worked.
    rules += [_Rule(number, 0) for number in _MODE.values()]
    rules += [_Rule(number, argument=0, unless=True) for number in _ON_OTHERS.values()]
    # A connected stream pair reaches nobody else; a datagram pair could send to any socket of the machine.
    rules += [_Rule(53, argument=0, value=1, unless=True), _Rule(53, argument=1, mask=0xF, value=1, unless=True)]
    rules += [_Rule(72, argument=1, value=command) for command in (8, 15)]  # fcntl F_SETOWN, F_SETOWN_EX
    rules += [_Rule(16, argument=1, value=command) for command in (0x8901, 0x8902)]  # ioctl FIOSETOWN, SIOCSPGRP
  if pid is not None:
    rules += [_Rule(number, argument=0, value=pid, unless=True) for number in _SIGNALS_TO.values()]
    rules += [_Rule(number) for number in _SIGNALS.values()]
  return rules


def program(shared_uid: bool, pid: int | None = None) -> bytes:
  """Returns the filter as an array of struct sock_filter.

  Args:
    shared_uid: the program runs under the uid of other processes of this machine and sees its network.
    pid: the only process that may be sent signals; None where namespaces or Landlock (ABI 6) confine signals.
  """
  code = []
  emit = lambda op, value, yes=0, no=0: code.append(struct.pack('=HBBI', op, yes, no, value))
  emit(_LOAD, 4)  # seccomp_data.arch
  emit(_EQUAL, _AUDIT_ARCH_X86_64, 1, 0)
  emit(_RETURN, _KILL)
  emit(_LOAD, 0)  # seccomp_data.nr
  emit(_AT_LEAST, 0x40000000, 0, 1)  # The x32 calls.
  emit(_RETURN, _ERRNO | errno.ENOSYS)
  for rule in _rules(shared_uid, pid):
    if rule.argument < 0:
      emit(_EQUAL, rule.number, 0, 1)
      emit(_RETURN, _ERRNO | rule.error)
      continue
    emit(_EQUAL, rule.number, 0, 5)
    emit(_LOAD, 16 + 8 * rule.argument)  # The low half: every argument tested here is an int.
    emit(_AND, rule.mask)
    emit(_EQUAL, rule.value, *((1, 0) if rule.unless else (0, 1)))
    emit(_RETURN, _ERRNO | rule.error)
    emit(_LOAD, 0)
  emit(_RETURN, _ALLOW)
  return b''.join(code)


def supported() -> bool:
  """Whether this machine's system calls are those of the filter."""
  return platform.system() == 'Linux' and platform.machine() == 'x86_64'


def apply(code: bytes) -> None:
  """Filters this process and all of its descendants for good; needs no_new_privs. Raises OSError."""

  class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_char_p)]

  kernel.prctl(kernel.PR_SET_SECCOMP, 2, ctypes.byref(Program(len(code) // 8, code)))  # SECCOMP_MODE_FILTER
