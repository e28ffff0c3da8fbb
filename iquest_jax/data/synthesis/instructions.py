"""Instructions: open requests with constraints on the answer that code checks; the rest is judged by an ensemble."""

import dataclasses
import difflib
import json
import re

from iquest_jax.data.documents import Conversation, Document, Drop, File, Problem, texts
from iquest_jax.data.synthesis import judges, turns
from iquest_jax.data.synthesis.domain import Domain, Tools

# ours: the numbers, the kinds of requests, the constraints.
_LONGEST_SEED = 4000  # characters
_LONGEST_REQUEST = 1500
_TEMPERATURE = 0.8
_COPIED = 0.8
_TASKS = (
    'explain an idea', 'compare two ways', 'review a piece of code that it contains', 'plan a change', 'name pitfalls',
    'write documentation', 'give an example', 'debug from a description', 'summarise a text that it contains',
)  # fmt: skip
_GENERATE = """Write a request to an assistant for programming, as a user would: {task}. Take the subject from the
passage below, but let the request be complete without it: whatever it speaks about, it contains. Beside that it has one to
five sentences, and it says nothing about the length or form of the answer.

<passage>
{passage}
</passage>

Answer with the request and nothing else."""
_CRITERIA = (
    'The request can be understood and answered without anything beside it.',
    'The answer does what the request asks, all of it, and nothing else.',
    'Every statement and every piece of code in the answer is right.',
    'The answer keeps to each constraint that the request states.',
    'Neither could harm anybody.',
)


@dataclasses.dataclass(frozen=True)
class Constraint:
  """Something that an answer must keep to; `value` is a number or a word, as its kind needs."""

  kind: str
  value: int | str = ''

  def __str__(self) -> str:
    """As it stands in a request."""
    return _CONSTRAINTS[self.kind][0].format(self.value)

  def holds(self, answer: str) -> bool:
    return _CONSTRAINTS[self.kind][1](answer, self.value)


def _is_json_object(text: str) -> bool:
  try:
    return isinstance(json.loads(text), dict)
  except (ValueError, RecursionError):
    return False


def _items(text: str) -> int:
  """How many items the list has that a text is; 0 if it is something else."""
  lines = [line for line in text.strip().split('\n') if line.strip()]
  return len(lines) if all(line.startswith('- ') for line in lines) else 0


def _paragraphs(text: str) -> int:
  """How many paragraphs a text has; 0 if it has headings or lists."""
  return 0 if re.search(r'^\s*(#|[-*] )', text, re.M) else len(re.split(r'\n\s*\n', text.strip()))


def _has_word(text: str, word: str) -> bool:
  return re.search(rf'(?<!\w){re.escape(word)}(?!\w)', text, re.I) is not None


# Kind -> (the sentence of the request, whether (answer, value) keeps to it).
_CONSTRAINTS = {
    'most words': ('Use at most {} words.', lambda text, value: len(text.split()) <= value),
    'least words': ('Use at least {} words.', lambda text, value: len(text.split()) >= value),
    'list': (
        'Answer with a list of exactly {} items, each one line that begins with "- ", and nothing else.',
        lambda text, value: _items(text) == value,
    ),
    'object': ('Answer with one JSON object, without a code block around it.', lambda text, _: _is_json_object(text)),
    'paragraphs': (
        'Write exactly {} paragraphs, separated by an empty line, without headings or lists.',
        lambda text, value: _paragraphs(text) == value,
    ),
    'no code': ('Do not show any code.', lambda text, _: '```' not in text and '~~~' not in text),
    'with word': ('Use the word "{}".', _has_word),
    'without word': ('Do not use the word "{}".', lambda text, value: not _has_word(text, value)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Candidate:
  request: str
  constraints: tuple[Constraint, ...]
  answer: str
  repo: str = ''

  @property
  def asked(self) -> str:
    """The request with its constraints."""
    return '\n\n'.join([self.request, *([' '.join(map(str, self.constraints))] if self.constraints else [])])


async def generate(seed: Document, tools: Tools) -> Candidate | Drop:
  """Asks for a request, adds constraints that chance chooses, and has it answered."""
  passage, task = '\n'.join(texts(seed))[:_LONGEST_SEED], tools.rng.choice(_TASKS)
  constraints = _chosen(passage, tools)
  request = await tools.ask(turns.request(_GENERATE.format(task=task, passage=passage)), temperature=_TEMPERATURE)
  if not 20 <= len(request) <= _LONGEST_REQUEST:
    return Drop('instructions: malformed request', request[:300])
  candidate = Candidate(request, constraints, '', getattr(seed, 'repo', ''))
  answer = await tools.ask(turns.request(candidate.asked), temperature=_TEMPERATURE, seed=1)
  return dataclasses.replace(candidate, answer=answer)


async def verify(candidate: Candidate, tools: Tools) -> Conversation | Drop:
  """Checks the constraints, then has request and answer judged."""
  answer = candidate.answer
  if not answer.strip():
    return Drop('instructions: no answer')
  if broken := [str(constraint) for constraint in candidate.constraints if not constraint.holds(answer)]:
    return Drop('instructions: constraint broken', ' '.join(broken))
  plain = lambda text: ' '.join(text.split())[:2000]
  likeness = difflib.SequenceMatcher(None, plain(candidate.request), plain(answer), autojunk=False).ratio()
  if likeness > _COPIED or plain(answer) in plain(candidate.request):
    return Drop('instructions: answer repeats the question', answer[:300])
  sample = f'Request:\n{candidate.asked}\n\nAnswer:\n{answer}'
  agreed = (await judges.judge(tools, sample, _CRITERIA)).check()
  if isinstance(agreed, Drop):
    return agreed
  kept = ('constraints kept',) if candidate.constraints else ()
  return turns.conversation(candidate.asked, answer, (*kept, 'answer not in question', agreed), candidate.repo)


def _chosen(passage: str, tools: Tools) -> tuple[Constraint, ...]:
  """One constraint of form or length, or none, and perhaps one of content."""
  rng = tools.rng
  form = rng.choice((
      None,
      Constraint('most words', rng.randrange(50, 201, 25)),
      Constraint('least words', rng.randrange(100, 301, 50)),
      Constraint('list', rng.randint(3, 7)),
      Constraint('object'),
      Constraint('paragraphs', rng.randint(2, 4)),
  ))  # fmt: skip
  words = sorted(set(re.findall(r'\b[a-z]{5,12}\b', passage)))
  content = None
  if words and rng.random() < 0.5:
    content = Constraint(rng.choice(('with word', 'without word')), rng.choice(words))
  elif form and form.kind != 'object' and rng.random() < 0.3:
    content = Constraint('no code')
  return tuple(filter(None, (form, content)))


DOMAIN = Domain('instructions', (File, Problem, Conversation), generate, verify)
