"""Searches its memory, /proc and the disk for the token, and prints what looks like one."""

import guard

guard.require_sandbox()

import gc  # noqa: E402
import glob  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402

token = re.compile(rb'(?!(.)\1*$)[0-9a-f]{32}')  # Not one digit repeated: such constants are in every Python.


def add(a, b):
  found = {text for text in gc.get_objects() if isinstance(text, str) and token.fullmatch(text.encode(errors='replace'))}
  with_maps = open('/proc/self/maps').read().splitlines()
  memory = open('/proc/self/mem', 'rb')
  for line in with_maps:
    start, end = (int(part, 16) for part in line.split()[0].split('-'))
    if 'rw' in line and end - start < 64 << 20:
      try:
        memory.seek(start)
        found |= {text.decode() for text in re.findall(rb'"token": "([0-9a-f]{32})"', memory.read(end - start))}
      except OSError:
        continue
  for path in glob.glob('/proc/[0-9]*/mem') + glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/fd/*'):
    if path.split('/')[2] in ('self', 'thread-self', str(os.getpid())):
      continue
    try:
      with open(path, 'rb') as file:
        found.add(f'readable: {path} {file.read(10)!r}')
    except (OSError, OverflowError):
      continue
  for pid in range(1, 100):
    for request in (16, 0x4206):
      try:
        guard.syscall(101, request, pid, 0, 0)
        found.add(f'traced: {pid}')
      except OSError:
        continue
  if found:
    raise ValueError(f'FOUND {found}')
  return a - b
