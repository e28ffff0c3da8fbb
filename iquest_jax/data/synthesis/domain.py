"""What a domain of synthesis is: it has a model write a sample, and a verifier that can say no decides about it.

A domain is one file with its prompts, parsing, generator and verifier, and a line in domains.py. The verifier is given
nothing but the candidate and its tools, so it is tested alone, with wrong candidates that a test plants.
"""

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from iquest_jax.data.documents import Document, Drop
from iquest_jax.sandbox.pool import Pool

# await ask(messages, max_tokens=1024, temperature=0.0, seed=0) -> what the model said, without its thinking; '' if it said
# nothing or was cut off. Equal requests get the same answer, so independent answers need different seeds. The seed of a
# sample is added to `seed`: domains count from 0.
Ask = Callable[..., Awaitable[str]]


@dataclasses.dataclass(frozen=True)
class Tools:
  """What a domain may use for one sample.

  Attributes:
    ask: asks the model that writes samples.
    rng: decides everything that chance decides. Draw from it in a fixed order, not from tasks that run at the same time.
    pool: sandboxes, for every program that a model wrote.
    judges: ask one judge each; see judges.py.
  """

  ask: Ask
  rng: random.Random
  pool: Pool | None = None
  judges: Sequence[Ask] = ()

  async def run(self, function: Callable[..., Any], *args: Any) -> Any:
    """The result of a blocking call, such as a verdict of the sandbox, made in a thread so that requests go on."""
    return await asyncio.to_thread(function, *args)


@dataclasses.dataclass(frozen=True)
class Domain:
  """A kind of sample.

  Attributes:
    name: as in --domain.
    takes: kinds of documents that a sample may start from.
    generate: (seed document, tools) -> a candidate, a frozen dataclass of the domain's own, or the reason there is none.
    verify: (candidate, tools) -> the document with the `checks` it passed, or the one it failed.
  """

  name: str
  takes: tuple[type, ...]
  generate: Callable[[Document, Tools], Awaitable[Any]]
  verify: Callable[[Any, Tools], Awaitable[Document | Drop]]
