"""Questions about a repository: where something is defined, who imports whom, what a function calls; and open ones.

Answers to the first are looked up in the files that the question shows, and found again by readers. Open ones are judged.
"""

import asyncio
import dataclasses
import posixpath
import re

from iquest_jax.data.documents import Conversation, Drop, Repository
from iquest_jax.data.synthesis import answers, judges, lookup, turns
from iquest_jax.data.synthesis.domain import Domain, Tools

# ours: the numbers, and the kinds of questions.
_LONGEST_FILE, _LONGEST_SHOWN = 8_000, 24_000  # characters
_MOST_ANSWERS = 6
_READINGS = 2
_TEMPERATURE = 0.7
OPEN = 'open'
# Kind -> (how an answer is looked up, what the subject is, what is asked of it, what the answers are)
_KINDS = {
    'defined': (lookup.defined_in, 'the name of a function or class', 'which of the files shown defines it', 'paths'),
    'imports': (lookup.imports_of, 'the path of a file', 'which of the files shown it imports directly', 'paths'),
    'importers': (lookup.importers_of, 'the path of a file', 'which of the files shown import it directly', 'paths'),
    'calls': (
        lookup.calls_of, 'the name of a Python function',
        'which functions and classes defined in these files it calls by name', 'names without parentheses',
    ),
}  # fmt: skip
_GENERATE = """{files}

These are files of the repository {name}. Write a question about them as a developer who works there would ask it.

- Subject: {subject}. Choose one that takes some reading to answer for. The question names it literally.
- It asks {asked}, and says so unmistakably. The answers are {answers}; there is at least one.
- The reply answers it in one or two sentences, names every answer literally, and mentions no other file, function or class
  and nothing that does not belong to the answer.

Answer with one JSON object and nothing else:
{{"subject": "...", "question": "...", "answers": ["..."], "reply": "..."}}"""
_GENERATE_OPEN = """{files}

These are files of the repository {name}. Write a question about them as a developer who works there would ask it, with its
reply.

- It asks how several of the files work together: what happens between a call and its effect, where a change belongs, why a
  part is needed. Reading these files alone settles it.
- The reply names the functions and files that its statements rest on, and states nothing that is not in the files.

Answer with one JSON object and nothing else: {{"question": "...", "reply": "..."}}"""
_READ = """{files}

These are files of the repository {name}. Answer a question about them. The answers are {answers}.

Question: {question}

Answer with one JSON object and nothing else: {{"answers": ["..."]}}"""
_CRITERIA = (
    'Every statement of the reply is true of the files, and names the place that it rests on.',
    'The question has an answer in these files, and needs more than one of them.',
    'The reply answers the whole question and adds nothing beside it.',
)


@dataclasses.dataclass(frozen=True)
class Candidate:
  """`subject` and `answers` are empty for an open question."""

  name: str
  files: tuple[tuple[str, str], ...]
  kind: str
  question: str
  reply: str
  subject: str = ''
  answers: tuple[str, ...] = ()


async def generate(repository: Repository, tools: Tools) -> Candidate | Drop:
  """Asks for a question of a kind that chance chooses, about neighbouring files that fit."""
  files = _shown(repository, tools)
  if len(files) < 2:
    return Drop('questions: fewer than two files fit')
  kind = tools.rng.choice([*_KINDS, OPEN])
  if kind == OPEN:
    prompt, fields = _GENERATE_OPEN.format(files=_written(files), name=repository.name), {'question': str, 'reply': str}
  else:
    _, subject, asked, answered = _KINDS[kind]
    words = dict(subject=subject, asked=asked, answers=answered)
    prompt = _GENERATE.format(files=_written(files), name=repository.name, **words)
    fields = {'subject': str, 'question': str, 'answers': list, 'reply': str}
  said = await tools.ask(turns.request(prompt), temperature=_TEMPERATURE)
  found = answers.fields(said, fields)
  if not found or not all(isinstance(answer, str) for answer in found.get('answers', ())):
    return Drop('questions: malformed answer', said[:300])
  listed = tuple(answer.strip() for answer in found.get('answers', ()))
  about = found.get('subject', '').strip()
  return Candidate(repository.name, files, kind, found['question'].strip(), found['reply'].strip(), about, listed)


async def verify(candidate: Candidate, tools: Tools) -> Conversation | Drop:
  """Looks the answers up and has them found again, or has an open question judged."""
  question, reply, files = candidate.question, candidate.reply, candidate.files
  if not question.endswith('?') or ' '.join(reply.split()) in ' '.join(question.split()):
    return Drop('questions: not a question and a reply', f'{question} {reply}'[:300])
  if candidate.kind == OPEN:
    sample = f'{_written(files)}\n\nQuestion: {question}\n\nReply: {reply}'
    passed = (await judges.judge(tools, sample, _CRITERIA)).check()
  else:
    passed = _looked_up(candidate) or await _found_again(candidate, tools)
  if isinstance(passed, Drop):
    return passed
  checks = (passed,) if candidate.kind == OPEN else ('answers looked up', 'reply names the answers and no others', passed)
  asked = f'Files of the repository {candidate.name}:\n\n{_written(files)}\n\n{question}'
  return turns.conversation(asked, reply, checks, candidate.name)


def _looked_up(candidate: Candidate) -> Drop | None:
  look_up = _KINDS[candidate.kind][0]
  subject, expected, evidence = candidate.subject, set(candidate.answers), f'{candidate.question} {candidate.answers}'
  true = look_up(subject, candidate.files)
  if true is None:
    return Drop('questions: cannot be looked up', evidence)
  if not true or len(true) > _MOST_ANSWERS or candidate.kind == 'defined' and len(true) != 1:
    return Drop('questions: no answer, or too many', f'{evidence}: {sorted(true)}')
  if expected != true:
    return Drop('questions: wrong answer', f'{evidence}, but {sorted(true)}')
  if subject not in candidate.question:
    return Drop('questions: names no subject', evidence)
  if any(answer in candidate.question for answer in true):
    return Drop('questions: answer in question', evidence)
  if re.search(r"\b(?:not|no|never|neither|nor|without|except|but)\b|n't\b", candidate.reply, re.IGNORECASE):
    return Drop('questions: reply with a negation', f'{evidence}: {candidate.reply}')
  if not all(_mentions(candidate.reply, answer) for answer in true):
    return Drop('questions: reply does not name the answers', f'{evidence}: {candidate.reply}')
  if others := _others(candidate, true | {subject}):
    return Drop('questions: reply names other answers', f'{evidence}: {candidate.reply} {sorted(others)}')
  return None


def _others(candidate: Candidate, allowed: set[str]) -> set[str]:
  """What a reply mentions beside the answers and the subject: paths, in backticks or not, or names defined in the files."""
  reply, paths = candidate.reply, {path for path, _ in candidate.files}
  endings = '|'.join({re.escape(posixpath.splitext(path)[1]) for path in paths if '.' in path}) or r'\.\w+'
  written = set(re.findall(rf'[\w./-]*\w(?:{endings})(?!\w)', reply))
  if candidate.kind == 'calls':
    written |= set(re.findall(r'`(\w+)(?:\(\))?`', reply))
    paths |= lookup.defined_names(candidate.files)
    allowed = allowed | {path for path in written if path in dict(candidate.files)}  # where a function is defined
  elif candidate.kind == 'defined':
    written |= set(re.findall(r'`([\w./-]+/[\w./-]+)`', reply))
  return {other for other in written | {one for one in paths if _mentions(reply, one)} if other not in allowed}


def _mentions(reply: str, name: str) -> bool:
  """Whether a path or a name stands in a reply, not as a part of a longer one."""
  return re.search(rf'(?<![\w/.-]){re.escape(name)}(?![\w/-]|\.\w)', reply) is not None


async def _found_again(candidate: Candidate, tools: Tools) -> str | Drop:
  """The name of the check, if readers who do not know the answers give the same ones."""
  words = dict(files=_written(candidate.files), name=candidate.name, question=candidate.question)
  prompt = _READ.format(answers=_KINDS[candidate.kind][3], **words)
  readings = await asyncio.gather(*(
      tools.ask(turns.request(prompt), temperature=_TEMPERATURE, seed=1 + number) for number in range(_READINGS)
  ))  # fmt: skip
  for said in readings:
    found = answers.fields(said, {'answers': list})
    if not found or {answer.strip() for answer in map(str, found['answers'])} != set(candidate.answers):
      return Drop('questions: readers find other answers', f'{candidate.question} {said}'[:300])
  return 'answers found again'


def _shown(repository: Repository, tools: Tools) -> tuple[tuple[str, str], ...]:
  """Files from a place that chance chooses on, in reading order, as many as fit."""
  files = [(path, text) for path, text in repository.files if len(text) <= _LONGEST_FILE]
  if not files:
    return ()
  start, room, shown = tools.rng.randrange(len(files)), _LONGEST_SHOWN, []
  for path, text in files[start:] + files[:start]:
    if len(text) <= room:
      shown.append((path, text))
      room -= len(text)
  return tuple(sorted(shown))


def _written(files: tuple[tuple[str, str], ...]) -> str:
  return '\n\n'.join(f'`{path}`\n{turns.fenced(text)}' for path, text in files)


DOMAIN = Domain('questions', (Repository,), generate, verify)
