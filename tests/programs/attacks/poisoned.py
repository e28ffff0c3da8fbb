"""The program after the poison: its answer lists what it finds of it."""

import guard

guard.require_sandbox()

import builtins  # noqa: E402
import glob  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402


def memory():
  """Searches this process for what the previous program's source and output contained."""
  marker, found = re.compile(b'left-by-the-[p]revious-program'), []  # Does not match itself.
  with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb') as file:
    for line in maps:
      start, end = (int(part, 16) for part in line.split()[0].split('-'))
      if 'rw' in line and end - start < 64 << 20:
        try:
          file.seek(start)
          found += ['memory'] if marker.search(file.read(end - start)) else []
        except OSError:
          continue
  return found


def found():
  places = [os.getcwd(), os.environ['HOME'], '/tmp', '/dev/shm', '/var/tmp', os.path.dirname(os.getcwd())]
  files = [path for place in places for path in glob.glob(os.path.join(place, 'poison'))]
  marks = [name for name in ('poison',) if hasattr(builtins, name) or hasattr(sys, name)]
  variables = [name for name in os.environ if name == 'POISON']
  pristine = signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL and os.umask(0) < 0o700
  state = [] if sum([1]) == math.gcd(1) == 1 and pristine else ['state']
  try:
    os.waitpid(-1, os.WNOHANG)
    children = ['child']
  except ChildProcessError:
    children = []
  processes = [path for path in glob.glob('/proc/[0-9]*') if int(path.split('/')[2]) not in (1, os.getpid())]
  return memory() + files + marks + variables + state + children + processes
