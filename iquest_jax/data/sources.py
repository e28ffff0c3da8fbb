"""The table of sources: what kind of document each reads, how an example is built from it, and whether it may be cut."""

import dataclasses
import functools
import random
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from iquest_jax.data.build import context as context_builder
from iquest_jax.data.build import edits, problems, transitions
from iquest_jax.data.build.fim import Proportions
from iquest_jax.data.documents import (
    Commit,
    Conversation,
    Document,
    Drop,
    Fact,
    File,
    Parallel,
    Problem,
    Repository,
    Transition,
)
from iquest_jax.data.format import commit, fact, fim, parallel, repository, text, transition
from iquest_jax.errors import UserError, check_name
from iquest_jax.text import chat
from iquest_jax.text.example import Example, Segment, build
from iquest_jax.text.tokenizer import Tokenizer

# What a stage learns of a chat: every token but the tools' results, or the assistant's turns only.
LEARN = ('all', 'assistant')


@dataclasses.dataclass(frozen=True)
class Rendering:
  """How a stage shows documents.

  Attributes:
    context: T, tokens of a row, which completions and views of repositories are made to fit.
    learn: which tokens of a chat are learned; one of LEARN.
    fim: how often files are completed in the middle, and how they are cut.
  """

  context: int
  seed: int
  learn: str
  fim: Proportions

  @classmethod
  def of(cls, config: ConfigDict) -> 'Rendering':
    """That of a stage; raises UserError unless seed and data make sense."""
    data = config.data
    if data.context < 1:
      raise UserError(f'config: data.context must be at least 1, got {data.context}')
    if data.learn not in LEARN:
      raise UserError(f'config: data.learn must be one of {", ".join(LEARN)}, got "{data.learn}"')
    return cls(data.context, config.seed, data.learn, Proportions(data.fim.share, data.fim.spm, dict(data.fim.levels)))


@dataclasses.dataclass(frozen=True)
class Source:
  """How the documents of a source become examples.

  Attributes:
    kind: the record its documents are read as.
    format: what `build` made -> segments; a chat also takes which turns are learned.
    build: (document, rendering, tokenizer, rng) -> what `format` takes, a list of such, or a Drop.
    whole: whether an example longer than a row is dropped; otherwise it continues in further rows.
    difficulties: of the documents that belong to the source; () for all.
  """

  kind: type
  format: Callable[..., list[Segment]]
  build: Callable[[Any, Rendering, Tokenizer, random.Random], Any] = lambda document, *_: document
  whole: bool = False
  difficulties: tuple[str, ...] = ()

  def has(self, document: Document) -> bool:
    """Whether a document of its kind belongs to the source."""
    return not self.difficulties or document.difficulty in self.difficulties


def _fitting(build: Callable[..., Any]) -> Callable[[Any, Rendering, Tokenizer, random.Random], Any]:
  """A builder that takes the tokens of a row."""
  return lambda document, how, tokenizer, rng: build(document, how.context, tokenizer, rng)


def _completing(build: Callable[..., Any]) -> Callable[[Any, Rendering, Tokenizer, random.Random], Any]:
  """A builder that takes the tokens of a row and how often to complete what."""
  return lambda document, how, tokenizer, rng: build(document, how.context, tokenizer, rng, how.fim)


def _chat(conversation: Conversation, learn: str) -> list[Segment]:
  return chat.segments(conversation.messages, conversation.tools, learn_all=learn == 'all')


# Stage 1 is pre-training seen again in mid-training; replay is its best part seen again in fine-tuning.
SOURCES = {
    'web_text': Source(File, text.segments),
    'code': Source(File, text.segments),
    'code_high_quality': Source(File, text.segments),
    'facts': Source(Fact, fact.segments),
    'parallel': Source(Parallel, parallel.segments),
    'stage1': Source(File, text.segments),
    'replay': Source(File, text.segments),
    'commits': Source(Commit, commit.segments),
    'transitions': Source(Transition, transition.segments, build=_fitting(transitions.view)),
    'file_level': Source(File, fim.segments, build=_completing(context_builder.file)),
    'repository_level': Source(Repository, repository.segments, build=_completing(context_builder.repository)),
    'reasoning_qa': Source(Conversation, _chat, whole=True),
    'agent_trajectories': Source(Conversation, _chat, whole=True),
    'chat_instruct': Source(Conversation, _chat, whole=True),
    'chat_thinking': Source(Conversation, _chat, whole=True),
    'reasoning_thinking': Source(Conversation, _chat, whole=True),
    'reasoning_thinking_hard': Source(Conversation, _chat, whole=True, difficulties=('hard',)),
    'problems': Source(Problem, _chat, build=lambda problem, *_: problems.conversation(problem), whole=True),
    'code_edit': Source(Commit, _chat, build=lambda commit, *_: edits.conversation(commit), whole=True),
    'repository_edit': Source(Transition, _chat, build=_fitting(edits.repository_conversation), whole=True),
}


def get(name: str) -> Source:
  """A source of the table; raises UserError with the nearest name."""
  check_name('data: source', name, SOURCES)
  return SOURCES[name]


def render(name: str, document: Document, tokenizer: Tokenizer, how: Rendering) -> list[Example] | Drop:
  """The examples of a document; their randomness depends only on seed, source and the document's id."""
  source, rng = get(name), random.Random(f'{how.seed}:{name}:{document.id}')
  built = source.build(document, how, tokenizer, rng)
  if isinstance(built, Drop):
    return built
  format = functools.partial(source.format, learn=how.learn) if source.format is _chat else source.format
  return [build(tokenizer, format(one)) for one in (built if isinstance(built, list) else [built])]
