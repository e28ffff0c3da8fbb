"""Writes one file of up to 64 MB."""

import guard

guard.require_sandbox()

with open('large', 'wb') as file:
  for _ in range(64):
    file.write(b'x' * (1 << 20))
