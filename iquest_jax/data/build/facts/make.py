"""Code facts: questions about a file with one right answer, read from its syntax tree and confirmed by a second reading.

Source: IQuest-Coder-V1 report, pre-training data: code facts are objective, unambiguous, time-invariant, with a single
right answer. The kinds of questions are ours.
"""

import random
from collections import Counter
from collections.abc import Iterator

from iquest_jax.data.build.facts import masked, python, questions, trees
from iquest_jax.data.build.facts.candidates import Candidate, Definition
from iquest_jax.data.build.facts.questions import Question
from iquest_jax.data.build.facts.verify import verify
from iquest_jax.data.documents import Drop, Fact, File, content_id
from iquest_jax.data.languages import language_of

# ours: at most so many questions are tried on a file, of each kind, and on each subject, and one more than the file has
# thousands of characters.
PER_FILE, PER_KIND, PER_SUBJECT = 8, 2, 2


def make(file: File) -> Iterator[Fact | Drop]:
  """Facts of a file, chosen by a hash of its id, and what was dropped on the way; at least one of either.

  A file needs a repository: without its name a question would have another answer in another file of that path.
  """
  language = language_of(file.path, file.text)
  if language != 'python' and language not in trees.LANGUAGES:
    yield Drop('fact: language without facts', file.path)
    return
  if not file.repo or '`' in file.path + file.repo:
    yield Drop('fact: no repository', file.path)
    return
  source, rng = masked.with_line_feeds(file.text), random.Random(f'facts:{file.id}')
  try:
    definitions = python.definitions(source) if language == 'python' else trees.definitions(source, language)
    chosen = _chosen(definitions, min(PER_FILE, 1 + len(source) // 1000), rng)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    yield Drop('fact: not parsed', file.path)
    return
  if not chosen:
    yield Drop('fact: nothing to ask', file.path)
  for candidate in chosen:
    question = Question(
        candidate.kind, candidate.noun, candidate.subject, file.path, file.repo, candidate.detail, candidate.receiver
    )
    text = questions.phrase(question, rng.randrange(1 << 16))
    yield verify(Fact(content_id(text, candidate.answer), text, candidate.answer, file.path, file.repo), source)


def _chosen(definitions: list[Definition], count: int, rng: random.Random) -> list[Candidate]:
  """At most `count` questions about a few of the definitions."""
  some = rng.sample(definitions, min(len(definitions), 2 * count))
  found = [candidate for definition in some for candidate in definition()]
  rng.shuffle(found)
  kinds, subjects, chosen = Counter(), Counter(), []
  for candidate in found:
    if kinds[candidate.kind] < PER_KIND and subjects[candidate.subject] < PER_SUBJECT:
      kinds[candidate.kind] += 1
      subjects[candidate.subject] += 1
      chosen.append(candidate)
  return chosen[:count]
