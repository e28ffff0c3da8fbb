"""Raises exceptions that pose as the end of the tests."""

import guard

guard.require_sandbox()

class CandidateGone(Exception):  # noqa: N818
  pass


class SystemExit(Exception):  # noqa: A001, N818
  pass


class Mute(Exception):
  def __str__(self):
    raise self


errors = [Mute, CandidateGone, SystemExit]


def add(a, b):
  raise errors.pop()(0)
