"""Waits without using the CPU."""

import guard

guard.require_sandbox()

import time  # noqa: E402

time.sleep(60)
