"""Isolation for programs the project did not write: limits, two backends, a pool of warm workers, and verdicts.

`inside/` is what runs in the sandbox, on the standard library alone; everything else runs in the caller's process.
"""
