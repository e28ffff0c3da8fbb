"""Never ends and ignores every signal it can."""

import guard

guard.require_sandbox()

import signal  # noqa: E402

for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
  try:
    signal.signal(number, signal.SIG_IGN)
  except (OSError, ValueError):
    continue
while True:
  pass
