"""Leaves everything it can for the next program: files, patches, variables, a process, a thread."""

import guard

guard.require_sandbox()

import builtins  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

for folder in ('.', os.environ['HOME'], '/tmp', '/dev/shm', '/var/tmp', os.path.dirname(os.getcwd())):
  for name in ('poison', 'json.py', 'sitecustomize.py', 'random.py'):
    try:
      with open(os.path.join(folder, name), 'w') as file:
        file.write('raise SystemExit("poisoned")')
    except OSError:
      continue
os.environ['POISON'] = 'poison'
builtins.poison = sys.poison = True
builtins.sum = math.gcd = lambda *args: 42
sys.path.insert(0, '/tmp')
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.umask(0o777)
if os.fork() == 0:
  os.setsid()
  time.sleep(60)
  os._exit(0)


marker = 'left-by-the-' 'previous-program'
print(marker, flush=True)
# left-by-the-previous-program


def add(a, b):
  return a + b
