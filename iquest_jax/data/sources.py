"""The table of sources: what kind of document each reads, how an example is built from it, and whether it may be cut."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from iquest_jax.data.build import context as context_builder
from iquest_jax.data.build import edits
from iquest_jax.data.documents import Commit, Conversation, Document, File, Repository
from iquest_jax.data.format import commit, fim, repository, text
from iquest_jax.errors import UserError, check_name
from iquest_jax.text import chat
from iquest_jax.text.example import Example, Segment, build
from iquest_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Source:
  """How the documents of a source become examples.

  Attributes:
    kind: the record its documents are read as.
    format: (document, or what `build` made of it) -> segments.
    build: (document, context in tokens, tokenizer, rng) -> what `format` takes.
    whole: whether an example longer than a row is dropped; otherwise it continues in further rows.
  """

  kind: type
  format: Callable[[Any], list[Segment]]
  build: Callable[[Any, int, Tokenizer, random.Random], Any] = lambda document, *_: document
  whole: bool = False


def _chat(conversation: Conversation) -> list[Segment]:
  return chat.segments(conversation.messages, conversation.tools)


# Stage 1 is pre-training seen again in mid-training; replay is its best part seen again in fine-tuning.
SOURCES = {
    'web_text': Source(File, text.segments),
    'code': Source(File, text.segments),
    'code_high_quality': Source(File, text.segments),
    'facts': Source(File, text.segments),
    'stage1': Source(File, text.segments),
    'replay': Source(File, text.segments),
    'commits': Source(Commit, commit.segments),
    'file_level': Source(File, fim.segments, build=context_builder.file),
    'repository_level': Source(Repository, repository.segments, build=context_builder.repository),
    'reasoning_qa': Source(Conversation, _chat, whole=True),
    'agent_trajectories': Source(Conversation, _chat, whole=True),
    'chat_instruct': Source(Conversation, _chat, whole=True),
    'chat_thinking': Source(Conversation, _chat, whole=True),
    'reasoning_thinking': Source(Conversation, _chat, whole=True),
    'code_edit': Source(Commit, _chat, build=lambda commit, *_: edits.conversation(commit), whole=True),
}


def get(name: str) -> Source:
  """A source of the table; raises UserError with the nearest name."""
  check_name('data: source', name, SOURCES)
  return SOURCES[name]


def check(name: str, document: Document) -> None:
  """Raises UserError if a document is not of the kind that its source reads."""
  kind = get(name).kind
  if not isinstance(document, kind):
    wanted, got = kind.__name__.lower(), type(document).__name__.lower()
    raise UserError(f'documents: "{document.id}" of "{name}" must be a {wanted}, got a {got}; fix or remove it')


def render(name: str, document: Document, tokenizer: Tokenizer, context: int, seed: int) -> Example:
  """The example of a document that passed `check`; its randomness depends only on seed, source and the document's id."""
  source, rng = get(name), random.Random(f'{seed}:{name}:{document.id}')
  return build(tokenizer, source.format(source.build(document, context, tokenizer, rng)))
