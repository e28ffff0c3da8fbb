"""Never ends."""

import guard

guard.require_sandbox()

while True:
  pass
