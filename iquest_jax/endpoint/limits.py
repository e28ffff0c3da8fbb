"""Limits on requests and tokens per minute: what is sent is spaced evenly, and a server can ask everyone to wait."""

import asyncio
import math


class Pace:
  """Spaces amounts so that those admitted within any minute sum to at most `per_minute`, the last one aside.

  What is not used up in a quiet minute is not made up for later, so a server that counts seconds sees no burst.
  """

  def __init__(self, per_minute: float):
    """Zero means no limit."""
    self._seconds_each = 60 / per_minute if per_minute else 0.0
    self._next = -math.inf

  def reserve(self, now: float, amount: float) -> float:
    """Seconds to wait, from the time `now`, before `amount` may be sent; the next one is spaced from there."""
    start = max(now, self._next)
    self._next = start + amount * self._seconds_each
    return start - now

  def give_back(self, amount: float) -> None:
    """What was reserved and not used; a negative amount is what was used beyond it."""
    self._next -= amount * self._seconds_each


class Limits:
  """Admits requests; all methods run in one event loop."""

  def __init__(self, requests_per_minute: float = 0, tokens_per_minute: float = 0):
    """Zero means no limit."""
    self._requests, self._tokens = Pace(requests_per_minute), Pace(tokens_per_minute)
    self._resume = -math.inf

  async def admit(self, tokens: float) -> None:
    """Returns when a request of about so many tokens may be sent."""
    now = asyncio.get_running_loop().time()
    wait = max(self._requests.reserve(now, 1), self._tokens.reserve(now, tokens))
    if wait > 0:
      await asyncio.sleep(wait)
    while (wait := self._resume - asyncio.get_running_loop().time()) > 0:
      await asyncio.sleep(wait)

  def correct(self, reserved: float, used: float) -> None:
    """A request that was admitted with `reserved` tokens has used other ones."""
    self._tokens.give_back(reserved - used)

  def pause(self, seconds: float) -> None:
    """Nothing is sent before so many seconds have passed: a server that refuses one request for its rate refuses all."""
    self._resume = max(self._resume, asyncio.get_running_loop().time() + seconds)
