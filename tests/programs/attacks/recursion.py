"""Exhausts the C stack."""

import guard

guard.require_sandbox()

import sys  # noqa: E402

sys.setrecursionlimit(1 << 30)
items = ()
for _ in range(300_000):
  items = (items,)
hash(items)
