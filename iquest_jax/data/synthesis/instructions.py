"""Instructions: open requests with constraints on the answer that code checks; the rest is judged by an ensemble."""

import dataclasses
import difflib

from iquest_jax.data.documents import Conversation, Document, Drop, File, Problem, texts
from iquest_jax.data.synthesis import judges, turns
from iquest_jax.data.synthesis.domain import Domain, Tools
from iquest_jax.text import instructions as verifiable

# ours: the numbers and the kinds of requests.
_LONGEST_SEED = 4000  # characters
_LONGEST_REQUEST = 1500
_TEMPERATURE = 0.8
_COPIED = 0.8
_MOST_CONSTRAINTS = 2
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
class Candidate:
  request: str
  constraints: tuple[verifiable.Instruction, ...]
  answer: str
  repo: str = ''

  @property
  def asked(self) -> str:
    """The request with its constraints."""
    return '\n\n'.join(filter(None, [self.request, verifiable.rendered(self.constraints)]))


async def generate(seed: Document, tools: Tools) -> Candidate | Drop:
  """Asks for a request, adds constraints that chance chooses, and has it answered."""
  passage, task = '\n'.join(texts(seed))[:_LONGEST_SEED], tools.rng.choice(_TASKS)
  request = await tools.ask(turns.request(_GENERATE.format(task=task, passage=passage)), temperature=_TEMPERATURE)
  if not 20 <= len(request) <= _LONGEST_REQUEST:
    return Drop('instructions: malformed request', request[:300])
  constraints = verifiable.sample(tools.rng, request, tools.rng.randint(0, _MOST_CONSTRAINTS))
  candidate = Candidate(request, constraints, '', getattr(seed, 'repo', ''))
  answer = await tools.ask(turns.request(candidate.asked), temperature=_TEMPERATURE, seed=1)
  return dataclasses.replace(candidate, answer=answer)


async def verify(candidate: Candidate, tools: Tools) -> Conversation | Drop:
  """Checks the constraints, then has request and answer judged."""
  answer = candidate.answer
  if not answer.strip():
    return Drop('instructions: no answer')
  if broken := [constraint for constraint in candidate.constraints if not verifiable.holds(constraint, answer)]:
    return Drop('instructions: constraint broken', verifiable.rendered(broken))
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


DOMAIN = Domain('instructions', (File, Problem, Conversation), generate, verify)
