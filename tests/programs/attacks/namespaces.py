"""Tries to gain privileges: namespaces, mounts, keys, kernel interfaces."""

import guard

guard.require_sandbox()

import os  # noqa: E402

for name, flag in {'user': 0x10000000, 'mount': 0x20000, 'pid': 0x20000000, 'network': 0x40000000}.items():
  guard.attempt(f'unshare {name}', guard.syscall, 272, flag)
guard.attempt('clone into a user namespace', guard.syscall, 56, 0x10000000 | 17, 0, 0, 0, 0)
guard.attempt('clone3', guard.syscall, 435, b'\0' * 88, 88)
guard.attempt('mount', guard.syscall, 165, b'none', b'/tmp', b'tmpfs', 0, None)
guard.attempt('unmount', guard.syscall, 166, b'/tmp', 2)
guard.attempt('open a mount', guard.syscall, 428, -100, b'/', 1)
guard.attempt('chroot', os.chroot, '.')
guard.attempt('become root', os.setuid, 0)
guard.attempt('bpf', guard.syscall, 321, 0, b'\0' * 64, 64)
guard.attempt('perf', guard.syscall, 298, b'\0' * 128, 0, -1, -1, 0)
guard.attempt('keys', guard.syscall, 250, 0, -3, 1)
guard.attempt('userfaultfd', guard.syscall, 323, 1)
guard.attempt('handles', guard.syscall, 304, -100, b'\0' * 64, 0)
guard.attempt('terminal input', guard.syscall, 16, 0, 0x5412, b'x')
guard.attempt('x32 call', guard.syscall, 0x40000000 | 39)
guard.attempt('another way to a process', guard.syscall, 438, 3, 0, 0)
