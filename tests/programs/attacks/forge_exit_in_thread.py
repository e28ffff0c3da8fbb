"""Ends with status 0 from another thread, just after the first answer."""

import guard

guard.require_sandbox()

import os  # noqa: E402
import threading  # noqa: E402


def add(a, b):
  threading.Timer(0.02, os._exit, (0,)).start()
  return a - b
