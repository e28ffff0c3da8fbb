"""THE tables of makers: what is made of documents, what is generated from nothing, and what must pass its tests."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

from iquest_jax.data.build.facts import make as facts
from iquest_jax.data.build.reasoning import predict, programs, puzzles
from iquest_jax.data.documents import Conversation, Document, Drop, Fact, File, Parallel, Problem
from iquest_jax.data.synthesis import verify
from iquest_jax.sandbox.pool import Pool


@dataclasses.dataclass(frozen=True)
class Maker:
  """Makes documents of one kind of those of another.

  Attributes:
    make: (document, sandboxes, seed, whether an answer is thought about first) -> what was made, and a Drop for each
      candidate that failed a check.
    thinks: whether the last argument means anything.
  """

  takes: type
  makes: type
  make: Callable[[Any, 'Sandboxes', int, bool], Iterator[Document | Drop]]
  thinks: bool = False


def _reasoning(file: File, sandboxes: 'Sandboxes', seed: int, thinking: bool) -> Iterator[Conversation | Drop]:
  return predict.make(file, sandboxes.pool, seed, thinking)


MAKERS = {
    'facts': Maker(File, Fact, lambda file, *_: facts.make(file)),
    'reasoning': Maker(File, Conversation, _reasoning, thinks=True),
}
# (numbers of the samples, seed, whether an answer is thought about first) -> samples.
GENERATORS: dict[str, Callable[[range, int, bool], Iterator[Conversation | Drop]]] = {
    'programs': programs.programs,
    'puzzles': puzzles.puzzles,
}


class Sandboxes(contextlib.ExitStack):
  """The sandboxes of a task, started when they are first needed."""

  @functools.cached_property
  def pool(self) -> Pool:
    """Raises UserError if no isolation is available."""
    return self.enter_context(Pool(size=1))  # workers are the parallelism


def must_pass(document: Document) -> bool:
  """Whether a document enters only if it passes a check: one that carries tests, or a fact."""
  return isinstance(document, (Problem, Parallel, Fact)) or isinstance(document, Conversation) and bool(document.tests)


def verified(document: Document, sandboxes: Sandboxes) -> Document | Drop:
  """Such a document with the checks that it passed, or why it is left out.

  What carries tests is executed. A fact is checked where it is made, so one without checks was not.
  """
  if isinstance(document, Fact):
    return document if document.checks else Drop('fact: not checked', document.id)
  return verify.verify(document, sandboxes.pool)
