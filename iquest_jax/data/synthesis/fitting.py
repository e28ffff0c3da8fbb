"""Asks a model for an answer that fits into its context, which may be smaller than what a domain asks for."""

from collections.abc import Sequence

from iquest_jax.endpoint.client import ContextExceeded, Endpoint, Reply
from iquest_jax.text.chat import Message

LONGER = 'longer than the context'
_LEAST = 64  # ours: tokens of an answer; with less room than this a model can say nothing of use


async def chat(
    endpoint: Endpoint, messages: Sequence[Message], *, max_tokens: int, **sampling
) -> tuple[Reply | None, bool]:
  """(The assistant's turn, whether it fits). It does not fit if the context cut it off; it is None if nothing fits.

  Where the server refuses `max_tokens`, half as many are asked for, and so on; not all servers say how many would fit.

  Raises:
    UserError: as Endpoint.chat.
  """
  asked = max_tokens
  while True:
    try:
      reply = await endpoint.chat(messages, max_tokens=asked, **sampling)
    except ContextExceeded:
      if asked <= _LEAST:
        return None, False
      asked = max(_LEAST, asked // 2)
    else:
      return reply, asked == max_tokens or reply.end != 'length'
