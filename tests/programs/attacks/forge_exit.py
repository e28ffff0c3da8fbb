"""Ends with status 0 before any test."""

import guard

guard.require_sandbox()

import os  # noqa: E402

os._exit(0)
