"""Writes answers of its own in front of the real ones, right or senseless."""

import guard

guard.require_sandbox()

import os  # noqa: E402

os.write(4, b'{"value": null}\n{"value": true, "passed": 2}\n{"value": {"$": "handle", "v": 0}}\n')


def add(a, b):
  return a - b
