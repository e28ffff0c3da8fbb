"""Kills, traces, reads, limits and renices processes that are not its own."""

import guard

guard.require_sandbox()

import ctypes  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402

facts = guard.facts()
victims = {'victim': facts['victim'], 'driver': facts['driver']}
if os.environ['IQUEST_SANDBOX'] == 'landlock':  # Under bubblewrap it is the job's own first process.
  victims['parent'] = os.getppid()
guard.attempt('trace me', guard.syscall, 101, 0, 0, 0, 0)
for name, pid in victims.items():
  buffer = ctypes.create_string_buffer(16)
  vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 16)
  guard.attempt(f'attach to {name}', guard.syscall, 101, 16, pid, 0, 0)
  guard.attempt(f'seize {name}', guard.syscall, 101, 0x4206, pid, 0, 0)
  guard.attempt(f'read memory of {name}', guard.syscall, 310, pid, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0)
  guard.attempt(f'open memory of {name}', lambda: open(f'/proc/{pid}/mem', 'rb'))  # noqa: B023
  guard.attempt(f'open environment of {name}', lambda: open(f'/proc/{pid}/environ', 'rb').read())  # noqa: B023
  guard.attempt(f'list descriptors of {name}', os.listdir, f'/proc/{pid}/fd')
  guard.attempt(f'limit {name}', resource.prlimit, pid, resource.RLIMIT_CPU, (1, 1))
  guard.attempt(f'pin {name}', os.sched_setaffinity, pid, {0})
  guard.attempt(f'renice {name}', os.setpriority, os.PRIO_PROCESS, pid, 19)
  guard.attempt(f'kill {name}', os.kill, pid, signal.SIGKILL)
  guard.attempt(f'kill {name} by descriptor', lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL))  # noqa: B023
  guard.attempt(f'kill group of {name}', os.killpg, pid, signal.SIGKILL)
for pid in {os.getppid(), 1, -1}:
  try:
    os.kill(pid, signal.SIGKILL)
  except OSError:
    continue
