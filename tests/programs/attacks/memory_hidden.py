"""Asks for memory that no resident set shows."""

import guard

guard.require_sandbox()

import os  # noqa: E402

guard.attempt('memfd', os.memfd_create, 'x')
guard.attempt('secret memory', guard.syscall, 447, 0)
guard.attempt('System V segment', guard.syscall, 29, 0, 1 << 20, 0o1600)
guard.attempt('message queue', guard.syscall, 68, 0, 0o1600)
guard.attempt('POSIX message queue', guard.syscall, 240, b'q', os.O_CREAT | os.O_RDWR, 0o600, None)


def fill_shared_memory():
  for i in range(64):
    with open(f'/dev/shm/{i}', 'wb') as file:
      file.write(b'x' * (1 << 20))


guard.attempt('64 MB in /dev/shm', fill_shared_memory)
