"""Writes the corpus of tiny sizes: real source of installed packages, generated chats, commits, facts.

  <folder>/<source>/documents.jsonl            one per source of the table in data/sources.py
  <folder>/small_programs/{held_out,rl}.jsonl    programming problems that no source contains; see programs.py
"""

import dataclasses
import itertools
import json
import os
import pathlib
import random
import shutil
from collections.abc import Iterable

from iquest_jax.data.documents import Document, texts, to_json
from iquest_jax.data.tiny import chats, facts, history, packages, programs, reasoning, trajectories, turns
from iquest_jax.run_folder import write_whole

# The tiny stages read each source about once, and a sixteenth of it fills their held-out rows. In characters of text:
_WEB_TEXT, _CODE, _HIGH_QUALITY, _FACTS, _SMALL = 700_000, 700_000, 550_000, 70_000, 220_000
# In documents, or turns of chats:
_REASONING_QA, _REASONING_THINKING, _CHATS, _SESSIONS, _COMMITS = 1300, 1300, 700, 420, 800
# In problems, as many of each level; those held out take seconds to answer.
_PROGRAMS_QA, _PROGRAMS_CHAT, _HELD_OUT_PROGRAMS, _RL_PROGRAMS = 1000, 1800, 60, 480


def write(folder: pathlib.Path, seed: int = 0, checkout: pathlib.Path = history.CHECKOUT) -> None:
  """Writes the corpus by one rename unless it exists, so a corpus that exists is complete.

  Args:
    checkout: git repository whose commits come first, if it is one.

  Raises:
    UserError: git is missing.
    OSError: the disk is full or not writable.
  """
  if folder.exists():
    return
  partial = folder.with_name(folder.name + '.partial')
  shutil.rmtree(partial, ignore_errors=True)
  for source, documents in _documents(seed, checkout).items():
    (partial / source).mkdir(parents=True)
    write_whole(partial / source / 'documents.jsonl', ''.join(f'{to_json(document)}\n' for document in documents))
  (partial / 'small_programs').mkdir()
  for split, count in (('held_out', _HELD_OUT_PROGRAMS), ('rl', _RL_PROGRAMS)):
    lines = [json.dumps(dataclasses.asdict(problem)) for problem in programs.problems(seed, split, count)]
    write_whole(partial / 'small_programs' / f'{split}.jsonl', ''.join(f'{line}\n' for line in lines))
  os.replace(partial, folder)


def _documents(seed: int, checkout: pathlib.Path) -> dict[str, Iterable[Document]]:
  rng = random.Random(f'corpus:{seed}')
  web_text, code = _up_to(_WEB_TEXT, packages.web_text()), _up_to(_CODE, packages.code())
  high_quality = _up_to(_HIGH_QUALITY, packages.code_high_quality())
  commits = history.commits(seed, _COMMITS, checkout)
  # A request belongs to one conversation of one source.
  questions = turns.distinct(reasoning.KINDS, rng, _REASONING_QA + _REASONING_THINKING)
  solved = [problem.turn for problem in programs.problems(seed, 'train', _PROGRAMS_QA + _PROGRAMS_CHAT)]
  worked = [reasoning.worked(turn) for turn in questions[:_REASONING_QA]] + solved[:_PROGRAMS_QA]
  rng.shuffle(worked)
  requests = turns.distinct(chats.KINDS, rng, _CHATS) + solved[_PROGRAMS_QA:]
  rng.shuffle(requests)
  half = len(requests) // 2
  alternate = lambda left, right: itertools.chain.from_iterable(zip(left, right))
  return {
      'web_text': web_text,
      'code': code,
      'code_high_quality': high_quality,
      'facts': _up_to(_FACTS, facts.facts(seed)),
      'stage1': _up_to(_SMALL, alternate(web_text, code)),
      'replay': _up_to(_SMALL, alternate(high_quality, web_text)),
      'commits': commits,
      'file_level': _up_to(_SMALL, code),
      'repository_level': _up_to(_SMALL, packages.repositories()),
      'reasoning_qa': turns.conversations(worked, rng, longest=1, thinking=False),
      'reasoning_thinking': turns.conversations(questions[_REASONING_QA:], rng, longest=1, thinking=True),
      'agent_trajectories': trajectories.sessions(seed, _SESSIONS),
      'chat_instruct': turns.conversations(requests[:half], rng, longest=2, thinking=False),
      'chat_thinking': turns.conversations(requests[half:], rng, longest=2, thinking=True),
      'code_edit': [commit for commit in commits if history.is_edit(commit)],
  }


def _up_to(characters: int, documents: Iterable[Document]) -> list[Document]:
  """The first documents that have `characters` together."""
  taken = []
  for document in documents:
    if characters <= 0:
      break
    taken.append(document)
    characters -= sum(map(len, texts(document)))
  return taken
