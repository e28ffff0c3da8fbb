"""A small raw corpus for tests: histories, a fork, near-duplicates, a planted benchmark problem, broken files."""

import json
import pathlib
import random

from iquest_jax.data import produced
from iquest_jax.data.funnel import Funnel
from iquest_jax.data.tiny import history

SOURCES = """
held_out = 12
shard_mb = 0.02
evaluation = ["benchmark.jsonl"]

[[input]]
name = "histories"
read = "git"
path = "histories"
sources = ["code", "repository_level", "commits", "transitions"]

[[input]]
name = "text"
read = "documents"
path = "text*.jsonl"
sources = ["web_text"]

[[input]]
name = "facts"
read = "documents"
path = "facts.jsonl"
sources = ["facts"]
filter = false
near = false

[[input]]
name = "chats"
read = "chats"
path = "chats.jsonl"
sources = ["chat_instruct"]
near = false
"""
PROBLEM = (
    'from typing import List\n\n\ndef closest_pair(values: List[float], limit: float) -> bool:\n'
    '  """ Say whether any two of the given values are nearer to each other than the limit allows.\n'
    '  >>> closest_pair([1.0, 2.0, 3.9, 4.0, 5.0, 2.2], 0.3)\n  True\n  """\n'
    '  ordered = sorted(values)\n  for first, second in zip(ordered, ordered[1:]):\n'
    '    if second - first < limit:\n      return True\n  return False\n'
)
_WORDS = (
    'lake stone river cloud forest bridge garden window paper signal engine harbour market winter copper valley letter '
    'teacher village island journey morning evening kitchen history science machine library captain soldier farmer doctor '
    'mountain meadow orchard railway station theatre museum factory warehouse cottage chapel tower castle palace prison '
    'carpet mirror candle lantern basket bottle barrel hammer needle thread button jacket blanket pillow saddle anchor'
)
_VERBS = 'crossed found carried painted remembered opened closed followed described measured repaired left reached'


def prose(number: int, sentences: int = 14) -> str:
  """Text of its own for each number."""
  rng = random.Random(f'prose:{number}')
  lines = []
  for _ in range(sentences):
    one, two, three, four = rng.sample(_WORDS.split(), 4)
    verb, other = rng.sample(_VERBS.split(), 2)
    lines.append(f'The {one} of the {two} {verb} a {three}, and in {rng.randint(1200, 1999)} they {other} the {four}.')
  return '\n'.join(lines) + '\n'


def write(folder: pathlib.Path, histories: int = 9, texts: int = 60) -> pathlib.Path:
  """Writes the corpus; returns its sources.toml."""
  for number in range(histories):
    repository = folder / 'histories' / f'r{number}'
    repository.mkdir(parents=True)
    history.generated_repository(repository, number, 40)
  # The first history again, a few commits on, under another name: a fork.
  fork = folder / 'histories' / 'fork-of-r0'
  fork.mkdir()
  history.repository(fork, [*history.changes(0, 40), ('Add a licence', {'LICENSE': 'none yet\n'})])
  documents = [{'text': prose(number), 'path': f'{number}.txt'} for number in range(texts)]
  near = prose(3).replace(' and in ', ' and since ', 1)
  documents += [{'text': near, 'path': 'near.txt'}, {'text': prose(4), 'path': 'copy.txt'}]
  documents += [{'text': f'{prose(90)}\n{PROBLEM}\n{prose(91)}', 'path': 'leak.txt'}]
  half = len(documents) // 2
  for name, part in (('text1.jsonl', documents[:half]), ('text2.jsonl', documents[half:])):
    (folder / name).write_text(''.join(f'{json.dumps(document)}\n' for document in part))
  with open(folder / 'text2.jsonl', 'a', encoding='utf-8') as file:
    file.write('not json\n["a list"]\n{"kind": "commit", "id": "1", "message": "m", "patch": "p"}\n')
  facts = [
      {'kind': 'fact', 'id': str(n), 'question': f'What is {n} times 3?', 'answer': str(3 * n), 'checks': ['computed']}
      for n in range(90)
  ]  # fmt: skip
  content = ''.join(f'{json.dumps(fact)}\n' for fact in facts)
  (folder / 'facts.jsonl').write_text(content)
  report = produced.report(content, Funnel(len(facts), len(facts)))
  produced.report_path(folder / 'facts.jsonl').write_text(json.dumps(report))
  chats = [
      {'messages': [{'role': 'user', 'content': f'What is {n} + 1?'}, {'role': 'assistant', 'content': str(n + 1)}]}
      for n in range(80)
  ]
  chats += [{'messages': [{'role': 'wizard', 'content': 'abracadabra'}]}]
  (folder / 'chats.jsonl').write_text(''.join(f'{json.dumps(chat)}\n' for chat in chats))
  (folder / 'benchmark.jsonl').write_text(json.dumps({'task_id': 'test/0', 'prompt': PROBLEM}) + '\n')
  (folder / 'sources.toml').write_text(SOURCES)
  return folder / 'sources.toml'
