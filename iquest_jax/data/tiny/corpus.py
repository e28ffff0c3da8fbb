"""Writes the raw corpus of tiny sizes: small git repositories, texts and chats, and the sources.toml that names them.

  <folder>/sources.toml
  <folder>/packages/<name>/, histories/<name>/     git repositories: source of installed packages; generated histories
  <folder>/<input>.jsonl                           documents and chats
  <folder>/small_programs/{held_out,rl}.jsonl      programming problems that no source contains; see programs.py
  <folder>/instructions/{held_out,rl}.jsonl        prompts with verifiable instructions; see instructions.py
  <folder>/preferences/{held_out,train}.jsonl      pairs of answers; see preferences.py
"""

import dataclasses
import json
import os
import pathlib
import random
import shutil
from collections.abc import Iterable

from iquest_jax.data import produced
from iquest_jax.data.documents import Conversation, Document, texts, to_json
from iquest_jax.data.funnel import Funnel
from iquest_jax.data.tiny import chats, history, instructions, packages, preferences, programs, trajectories, turns
from iquest_jax.run_folder import write_whole

# Sizes at scale 1: the tiny stages read each source about once. In characters of text:
_WEB_TEXT, _CODE, _HIGH_QUALITY = 800_000, 900_000, 600_000
# In repositories and their commits:
_HISTORIES, _COMMITS = 28, 40
# In documents, or turns of chats:
_REASONING, _CHATS, _SESSIONS = 2600, 700, 420
# In problems; those held out take seconds to answer.
_PROGRAMS_QA, _PROGRAMS_CHAT, _PROGRAMS_THINKING, _HELD_OUT_PROGRAMS, _RL_PROGRAMS = 1000, 900, 2400, 60, 480
# In prompts with instructions, and pairs of answers:
_HELD_OUT_PROMPTS, _RL_PROMPTS, _HELD_OUT_PAIRS, _PAIRS = 60, 480, 60, 480

# Generated documents follow templates: they look alike without being duplicates, and rules for real text do not fit them.
_GENERATED = 'filter = false\nnear = false\n'
_INPUTS = """\
held_out = 64
shard_mb = {shard_mb}

[[input]]
name = "packages"
read = "git"
path = "packages"
sources = ["code", "stage1", "file_level", "repository_level"]

[[input]]
name = "high_quality"
read = "documents"
path = "high_quality.jsonl"
sources = ["code_high_quality", "replay"]

[[input]]
name = "text"
read = "documents"
path = "text.jsonl"
sources = ["web_text", "stage1", "replay"]

[[input]]
name = "histories"
read = "git"
path = "histories"
sources = ["commits", "transitions", "code_edit"]
{generated}
[[input]]
name = "facts"
read = "git"
path = "packages"
make = "facts"
sources = ["facts"]
{generated}
[[input]]
name = "programs"
read = "generated"
generator = "programs"
count = {reasoning}
sources = ["reasoning_qa"]
{generated}
# The same questions, so that one that is held out is held out in both forms.
[[input]]
name = "programs_thinking"
read = "generated"
generator = "programs"
count = {reasoning}
thinking = true
sources = ["reasoning_thinking", "reasoning_thinking_hard"]
{generated}"""
# Of the inputs that are not named like their only source.
_SOURCES = {
    'solved': ['chat_instruct'],
    'solved_thinking': ['chat_thinking', 'reasoning_thinking', 'reasoning_thinking_hard'],
}
_CHAT = """
[[input]]
name = "{name}"
read = "{read}"
path = "{name}.jsonl"
sources = {sources}
{generated}"""


def write(folder: pathlib.Path, seed: int = 0, scale: float = 1.0) -> None:
  """Writes the corpus by one rename unless it exists, so a corpus that exists is complete.

  Args:
    scale: share of the full size, what is for evaluation and reinforcement learning aside.

  Raises:
    UserError: git is missing.
    OSError: the disk is full or not writable.
  """
  if folder.exists():
    return
  partial = folder.with_name(folder.name + '.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  repositories, code = {}, scale * _CODE
  for name, files in packages.repositories():
    if code <= 0:
      break
    repositories[f'packages/{name.replace("/", "-")}'] = [(f'Import {name}', files)]
    code -= sum(map(len, files.values()))
  for number in range(round(scale * _HISTORIES)):
    repositories[f'histories/{number:02}'] = history.changes(seed * 1000 + number, _COMMITS)
  for name, changes in repositories.items():
    (partial / name).mkdir(parents=True)
    history.repository(partial / name, changes)
  inputs = _INPUTS.format(shard_mb=0.04, generated=_GENERATED, reasoning=round(scale * _REASONING))
  for name, documents in _documents(seed, scale).items():
    documents = list(documents)
    lines = [to_json(document) for document in documents]
    if name == 'agent_trajectories':
      lines = [_openai(document) for document in documents]
    if isinstance(documents[0], Conversation):
      read = 'trajectories' if name == 'agent_trajectories' else 'documents'
      sources = json.dumps(_SOURCES.get(name, [name]))
      inputs += _CHAT.format(name=name, read=read, sources=sources, generated=_GENERATED)
    content = ''.join(f'{line}\n' for line in lines)
    write_whole(partial / f'{name}.jsonl', content)
    if checked := sum(bool(getattr(document, 'checks', ())) for document in documents):
      report = produced.report(content, Funnel(checked, checked))
      write_whole(produced.report_path(partial / f'{name}.jsonl'), json.dumps(report))
  for name, lines in _sets(seed).items():
    (partial / name).parent.mkdir(exist_ok=True)
    write_whole(partial / f'{name}.jsonl', ''.join(f'{line}\n' for line in lines))
  write_whole(partial / 'sources.toml', inputs)
  os.replace(partial, folder)


def _documents(seed: int, scale: float) -> dict[str, Iterable[Document]]:
  rng, sized = random.Random(f'corpus:{seed}'), lambda number: round(scale * number)
  # A request belongs to one conversation of one source.
  counts = [sized(_PROGRAMS_QA), sized(_PROGRAMS_CHAT), sized(_PROGRAMS_THINKING)]
  solved = iter(programs.problems(seed, 'train', sum(counts)))
  asked, instructed, thought = ([next(solved) for _ in range(count)] for count in counts)
  requests = turns.distinct(chats.KINDS, rng, sized(_CHATS))

  chat = lambda requests, thinking: list(turns.conversations(requests, rng, longest=2, thinking=thinking))
  return {
      'text': _up_to(sized(_WEB_TEXT), packages.web_text()),
      'high_quality': _up_to(sized(_HIGH_QUALITY), packages.high_quality()),
      'reasoning_qa': [programs.conversation(problem, thinking=False) for problem in asked],
      'agent_trajectories': trajectories.sessions(seed, sized(_SESSIONS)),
      'chat_instruct': chat(requests[::2], thinking=False),
      'chat_thinking': chat(requests[1::2], thinking=True),
      'solved': [programs.conversation(problem, thinking=False) for problem in instructed],
      'solved_thinking': [programs.conversation(problem, thinking=True) for problem in thought],
  }


def _sets(seed: int) -> dict[str, list[str]]:
  """Lines of the files for evaluation and reinforcement learning."""
  found = {}
  for split, count in (('held_out', _HELD_OUT_PROGRAMS), ('rl', _RL_PROGRAMS)):
    problems = programs.problems(seed, split, count)
    found[f'small_programs/{split}'] = [json.dumps(dataclasses.asdict(problem)) for problem in problems]
  for split, count in (('held_out', _HELD_OUT_PROMPTS), ('rl', _RL_PROMPTS)):
    found[f'instructions/{split}'] = list(map(json.dumps, instructions.prompts(seed, split, count)))
  for split, count in (('held_out', _HELD_OUT_PAIRS), ('train', _PAIRS)):
    found[f'preferences/{split}'] = list(map(to_json, preferences.pairs(seed, split, count)))
  return found


def _openai(conversation: Conversation) -> str:
  """A line in the form of OpenAI's messages: arguments as JSON text, a call and its result share an id."""
  messages, number = [], 0
  for message in conversation.messages:
    message = dict(message)
    if calls := message.pop('tool_calls', ()):
      number += 1
      message['tool_calls'] = [
          {'id': f'call_{number}', 'type': 'function',
           'function': {'name': call['name'], 'arguments': json.dumps(call['arguments'])}}
          for call in calls
      ]  # fmt: skip
    elif message['role'] == 'tool':
      message['tool_call_id'] = f'call_{number}'
    messages.append(message)
  return json.dumps({'id': conversation.id, 'messages': messages})


def _up_to(characters: int, documents: Iterable[Document]) -> list[Document]:
  """The first documents that have `characters` together."""
  taken = []
  for document in documents:
    if characters <= 0:
      break
    taken.append(document)
    characters -= sum(map(len, texts(document)))
  return taken
