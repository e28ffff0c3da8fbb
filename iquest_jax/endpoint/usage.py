"""Tokens and dollars of an endpoint, and a budget that no request may exceed."""

import asyncio
import dataclasses
import math

from iquest_jax.errors import UserError

_AGAIN_S = 0.05  # between looks at a budget that is nearly spent


class BudgetSpent(UserError):
  """The next request could cost more than what is left of the budget."""


@dataclasses.dataclass
class Usage:
  """What was asked for.

  Attributes:
    requests: answered by the server.
    cached: answered from disk.
    input_tokens, output_tokens: as the server reports them.
    cost: dollars. Where a server reports no tokens, and for a try whose answer was lost or late, the most that it can have
      cost.
  """

  requests: int = 0
  cached: int = 0
  input_tokens: int = 0
  output_tokens: int = 0
  cost: float = 0.0


class Budget:
  """Dollars that may be spent; all methods run in one event loop."""

  def __init__(self, dollars: float, prices: tuple[float, float], spent: float = 0.0):
    """Begins with what earlier runs spent.

    Args:
      dollars: infinite for no budget.
      prices: dollars per million input and output tokens.
      spent: dollars of earlier runs.

    Raises:
      UserError: a number is negative or not a number, or there is a budget and no price.
    """
    if not (dollars >= 0 and len(prices) == 2 and all(0 <= price < math.inf for price in prices)):
      raise UserError(f'budget: dollars and prices must not be negative, got {dollars} and {list(prices)}')
    if dollars < math.inf and not any(prices):
      raise UserError('budget: needs prices; name the dollars per million input and output tokens, as in 0.5,1.5')
    self._dollars, self._prices, self._spent = dollars, prices, spent
    self._reserved, self._open = 0.0, 0

  def price(self, input_tokens: int, output_tokens: int) -> float:
    """Dollars."""
    return (input_tokens * self._prices[0] + output_tokens * self._prices[1]) / 1e6

  async def reserve(self, most: float) -> None:
    """Returns when a request of at most so many dollars fits, whatever the requests on their way cost.

    Raises:
      BudgetSpent: it does not fit, and nothing is on its way that could cost less than it may.
    """
    while self._spent + self._reserved + most > self._dollars:
      if not self._open:
        raise BudgetSpent(
            f'endpoint: the budget of ${self._dollars:.4g} is spent (${self._spent:.4g}, and the next request may cost '
            f'${most:.4g}); what is finished is kept: rerun the same command with a larger budget to resume'
        )
      await asyncio.sleep(_AGAIN_S)
    self._reserved += most
    self._open += 1

  def settle(self, most: float, cost: float) -> None:
    """A request that was reserved at `most` has cost `cost`."""
    self._open -= 1
    self._reserved = self._reserved - most if self._open else 0.0  # no error of rounding is left over
    self._spent += cost
