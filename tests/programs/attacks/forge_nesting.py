"""Answers with JSON nested deep enough to break a careless parser."""

import guard

guard.require_sandbox()

import os  # noqa: E402


def add(a, b):
  data = b'{"value": ' + b'[' * 200_000 + b']' * 200_000 + b'}\n'
  while data:
    data = data[os.write(4, data) :]
  return a - b
