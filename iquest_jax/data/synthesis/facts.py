"""Facts: questions about a file with one right answer, which the model must find again without having seen it.

Source: IQuest-Coder-V1 report, pre-training data: facts are objective, unambiguous, time-invariant, with one right answer.
"""

import asyncio
import dataclasses
import re

from iquest_jax.data.build.facts import verify as verification
from iquest_jax.data.documents import Drop, Fact, File, content_id
from iquest_jax.data.synthesis import answers, definitions, turns
from iquest_jax.data.synthesis.domain import Domain, Tools

# ours: all three numbers.
_LONGEST_FILE = 12_000  # characters that are shown; the rest of a longer file is not
_READINGS = 3
_TEMPERATURE = 0.7
_GENERATE = """Write one question about the file below that has a single short answer in it.

- Objective: the text of the file settles it; no opinion, estimate or summary.
- Unambiguous: it names the function, class, method or constant it is about in backticks, so that one passage alone answers
  it; a method with its class.
- Lasting: no versions, dates, authors, or anything that a later edit of other files could change.
- The answer is a name, a value or a few words, copied from the file letter by letter, and is not part of the question.
- The question can be read without the file at hand: it does not say "this file", "the code above" or "here".
- It is about what stands near line {line}, if there is anything to ask there.

File `{path}`:
<file>
{text}
</file>

Answer with one JSON object and nothing else:
{{"question": "...", "answer": "...", "quote": "the line of the file that gives the answer, copied"}}"""
_READ = """Answer a question from the file below with a name, a value or a few words, copied from the file letter by letter.
If the file does not answer it, answer NONE; if it gives several answers, answer SEVERAL.

File `{path}`:
<file>
{text}
</file>

Question: {question}

Answer with one JSON object and nothing else: {{"answer": "..."}}"""
_OPINION = re.compile(r'\b(best|better|good|should|why|recommended|probably|might|think|opinion|approximately)\b', re.I)


@dataclasses.dataclass(frozen=True)
class Candidate:
  file: File
  question: str
  answer: str
  quote: str

  @property
  def fact(self) -> Fact:
    """The question with its file and repository: elsewhere, another one may have a function of that name."""
    asked = f'In the file `{self.file.path}` of the repository `{self.file.repo}`: {self.question}'
    return Fact(content_id(asked, self.answer), asked, self.answer, self.file.path, self.file.repo)


async def generate(file: File, tools: Tools) -> Candidate | Drop:
  """Asks for one question about the file, near a line that chance chooses."""
  text = file.text[:_LONGEST_FILE]
  line = tools.rng.randint(1, text.count('\n') + 1)
  prompt = _GENERATE.format(line=line, path=file.path, text=text)
  said = await tools.ask(turns.request(prompt), max_tokens=512, temperature=_TEMPERATURE)
  found = answers.fields(said, {'question': str, 'answer': str, 'quote': str})
  if not found:
    return Drop('facts: malformed answer', said[:300])
  return Candidate(file, *(found[name].strip() for name in ('question', 'answer', 'quote')))


async def verify(candidate: Candidate, tools: Tools) -> Fact | Drop:
  """Holds a candidate against its file, then has the question answered from the file by readers who do not know the answer.

  Every one of the readers must give the same answer.
  """
  fact = _against_the_file(candidate)
  if isinstance(fact, Drop):
    return fact
  file, question = candidate.file, candidate.question
  prompt = _READ.format(path=file.path, text=file.text[:_LONGEST_FILE], question=question)
  readings = await asyncio.gather(*(
      tools.ask(turns.request(prompt), max_tokens=256, temperature=_TEMPERATURE, seed=1 + number)
      for number in range(_READINGS)
  ))  # fmt: skip
  for said in readings:
    found = answers.fields(said, {'answer': str})
    if not found or _plain(found['answer']) != _plain(candidate.answer):
      return Drop('facts: another answer from the file', f'{question} {candidate.answer!r}, but {said[:200]}')
  return dataclasses.replace(fact, checks=(*fact.checks, 'answered again from source'))


def _against_the_file(candidate: Candidate) -> Fact | Drop:
  """The fact with what code has checked of it, or what code can say against it."""
  text, question, answer, quote = candidate.file.text[:_LONGEST_FILE], candidate.question, candidate.answer, candidate.quote
  evidence = f'{question} {answer}'
  if '\n' in question or not question.endswith('?'):
    return Drop('facts: not one question', evidence)
  if quote not in text or answer not in quote:
    return Drop('facts: answer not in its quote', f'{evidence} {quote}')
  if _OPINION.search(question):
    return Drop('facts: not objective', evidence)
  subjects = [name for name in re.findall(r'`([^`\n]+)`', question) if name in text]
  if not subjects:
    return Drop('facts: names no subject', evidence)
  if all(_definitions(name, text) > 1 for name in subjects):
    return Drop('facts: subject defined twice', evidence)
  fact = verification.verify(candidate.fact, text)
  if isinstance(fact, Drop):
    return fact
  confirmed = definitions.check(question, answer, quote, dataclasses.replace(candidate.file, text=text))
  return confirmed if isinstance(confirmed, Drop) else dataclasses.replace(fact, checks=(*fact.checks, *confirmed))


def _definitions(name: str, text: str) -> int:
  """How often a text defines a name, by the words that languages put before it."""
  keywords = 'def|class|function|func|fn|type|struct|trait|interface|enum|const|let|var'
  return len(re.findall(rf'\b(?:{keywords})\s+(?:\([^)\n]*\)\s*)?{re.escape(name)}(?!\w)', text))


def _plain(answer: str) -> str:
  """An answer without what surrounds it: quotation marks, backticks, a full stop."""
  return answer.strip().removesuffix('.').strip('`"\' ')


DOMAIN = Domain('facts', (File,), generate, verify)
