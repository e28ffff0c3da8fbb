"""Nests 700 folders, the innermost unreadable."""

import guard

guard.require_sandbox()

import os  # noqa: E402

for _ in range(700):
  os.mkdir('deeper')
  os.chdir('deeper')
os.mkdir('closed', 0)
print('done', flush=True)
