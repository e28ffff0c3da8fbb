"""Runs a domain: many samples at a time, every finished one on disk, and a killed run resumes.

  OUT.jsonl          the documents, in the order of their numbers; an input for sources.toml
  OUT.funnel.json    how many were made, rejected by which rule, kept; what those kept were checked by; what they took;
                     the SHA-256 of OUT.jsonl
  OUT.journal        a line per finished sample: {"sample", "seed", "usage"} with the "document" that was made, or the
                     "drop" and its evidence

Sample n starts from seed document n % len(seeds). What it becomes follows from the run's seed, that document, and how often
it was used before, so the number of requests at a time changes nothing.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from iquest_jax.data import documents
from iquest_jax.data.documents import Conversation, Document, Drop, Fact, Problem, content_id
from iquest_jax.data.funnel import Funnel
from iquest_jax.data.synthesis import fitting
from iquest_jax.data.synthesis.domain import Ask, Domain, Tools
from iquest_jax.endpoint.client import BudgetSpent, Endpoint
from iquest_jax.errors import UserError
from iquest_jax.journal import Journal
from iquest_jax.run_folder import write_whole
from iquest_jax.sandbox.pool import Pool
from iquest_jax.text import extract

VERSION = 2  # raise it when a prompt or a verifier changes: samples of two versions do not mix in a file
_SAMPLES_PER_REQUEST = 2  # in flight, so that requests continue while samples are verified
# What a domain may meet in an answer that it did not foresee. Errors of files and of the machine end the run.
_CONTENT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Files:
  """What a run writes; `out` names its JSONL."""

  out: pathlib.Path

  funnel = property(lambda self: self.out.with_suffix('.funnel.json'))
  journal = property(lambda self: self.out.with_suffix('.journal'))
  cache = property(lambda self: self.out.with_suffix('.cache'))


@dataclasses.dataclass(frozen=True)
class Result:
  """What a run came to.

  Attributes:
    report: as in the funnel's file.
    stopped: why it stopped before its last sample; None if it did not.
  """

  report: dict[str, Any]
  stopped: BudgetSpent | None = None


def run(
    domain: Domain,
    seeds: Iterable[Document | Drop],
    out: pathlib.Path,
    endpoint: Endpoint,
    *,
    count: int,
    seed: int = 0,
    judges: Sequence[Endpoint] = (),
    parallel: int = 32,
    pool: Pool | None = None,
    prices: tuple[float, float] = (0.0, 0.0),
    progress: Callable[[Funnel, int], None] = lambda done, total: None,
) -> Result:
  """Makes `count` samples, or those that an earlier run left, and writes the files.

  Args:
    seeds: documents that samples start from; those of kinds that the domain does not take are passed over. If there are
      fewer than `count`, several samples start from each.
    endpoint: asks the model that writes.
    judges: ask the models that judge; by default the one that writes, in several roles.
    parallel: requests at a time that the endpoint makes.
    pool: sandboxes.
    prices: dollars per million tokens of input and of output, for the report; the same for all models.
    progress: is called with the counts so far, those of earlier runs included, and the number of samples.

  Raises:
    UserError: no seeds were given, `out` belongs to a run with other settings, or an endpoint failed; whatever was finished
      is in the files.
  """
  taken, unread = _taken(domain, seeds, count)
  files, names = Files(out), [judge.model for judge in judges]
  settings = {'version': VERSION, 'domain': domain.name, 'model': endpoint.model, 'judges': names, 'seed': seed}
  journal = Journal(files.journal, settings, _number)
  try:
    failure = None
    todo = _left(journal, taken, count, out)
    make = lambda number: _sample(domain, taken[number % len(taken)], number, len(taken), seed, endpoint, judges, pool)
    try:
      failure = asyncio.run(_all(make, todo, parallel, journal, count, progress))
    finally:  # also of an interrupt
      report = _write(files, journal, count, settings, prices, unread)
  finally:
    journal.close()
  if failure and not isinstance(failure, BudgetSpent):
    raise failure
  return Result(report, failure)


def _number(line: dict[str, Any]) -> int:
  """The number of the sample in a line of the journal."""
  line['seed'], line['usage'], line['document' if 'document' in line else 'drop']
  return line['sample']


def _taken(domain: Domain, seeds: Iterable[Document | Drop], count: int) -> tuple[list[Document], collections.Counter]:
  """The first `count` documents that a domain takes, and what was dropped in reading that far."""
  taken, unread = [], collections.Counter()
  for one in seeds:
    if isinstance(one, Drop):
      unread[one.rule] += 1
    elif isinstance(one, domain.takes):
      taken.append(one)
      if len(taken) == count:
        break
  if not taken:
    kinds = ' or '.join(kind.__name__.lower() for kind in domain.takes)
    raise UserError(f'--seeds: {domain.name} starts from documents of kind {kinds}, and there is none')
  return taken, unread


def _left(journal: Journal, taken: Sequence[Document], count: int, out: pathlib.Path) -> list[int]:
  """The samples to make; raises UserError if those that were made started from other documents."""
  for number, line in journal.finished.items():
    if number < count and line['seed'] != _digest(taken[number % len(taken)]):
      raise UserError(f'{out}: sample {number} started from another document; give the same --seeds, or name another --out')
  return [number for number in range(count) if number not in journal.finished]


async def _all(make, todo: Sequence[int], parallel: int, journal: Journal, count: int, progress) -> UserError | None:
  """Makes the samples; returns the first error of an endpoint, after which none is begun and those in flight go on."""
  threads = len(os.sched_getaffinity(0)) + 1  # one for the journal
  asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(threads))
  numbers, failures, done = iter(todo), [], Funnel()
  for number, line in journal.finished.items():
    if number < count:
      _count(done, line)
  progress(done, count)

  async def work() -> None:
    for number in numbers:
      try:
        line = await make(number)
      except UserError as error:
        failures.append(error)
      else:
        await asyncio.to_thread(journal.add, line)
        _count(done, line)
        progress(done, count)
      if failures:
        return

  try:
    async with asyncio.TaskGroup() as group:
      for _ in range(min(_SAMPLES_PER_REQUEST * parallel, len(todo))):
        group.create_task(work())
  except BaseExceptionGroup as several:
    raise several.exceptions[0] from None
  return failures[0] if failures else None


async def _sample(
    domain: Domain,
    document: Document,
    number: int,
    seeds: int,
    seed: int,
    endpoint: Endpoint,
    judges: Sequence[Endpoint],
    pool: Pool | None,
) -> dict[str, Any]:
  """A sample as a line of the journal."""
  name = f'{seed}:{domain.name}:{document.id}:{number // seeds}'
  usage, base, longer = collections.Counter(), int(hashlib.sha256(name.encode()).hexdigest()[:8], 16), []
  asking = lambda one: _ask(one, base, usage, longer)
  tools = Tools(asking(endpoint), random.Random(name), pool, [asking(judge) for judge in judges])
  try:
    made = await domain.generate(document, tools)
    if not isinstance(made, Drop):
      made = await domain.verify(made, tools)
    if not isinstance(made, Drop):
      made = _fit(made)
  except _CONTENT as error:
    made = Drop('synthesis: an answer the domain did not foresee', repr(error)[:300])
  if isinstance(made, Drop) and longer:  # whatever the domain made of an answer that it did not get
    made = Drop(f'synthesis: {fitting.LONGER}', ', '.join(sorted(longer)))
  line = {'sample': number, 'seed': _digest(document), 'usage': dict(sorted(usage.items()))}
  if isinstance(made, Drop):
    return line | {'drop': made.rule, 'evidence': made.evidence[:1000]}
  return line | {'document': json.loads(documents.to_json(made))}


def _ask(endpoint: Endpoint, base: int, usage: collections.Counter, longer: list[str]) -> Ask:
  """Asks an endpoint for one sample, adds up what it takes, and notes models whose context is too small; see domain.Ask."""

  async def ask(messages, *, max_tokens: int = 2048, temperature: float = 0.0, seed: int = 0) -> str:
    drawn = (base + seed) % 2**31
    reply, fits = await fitting.chat(endpoint, messages, max_tokens=max_tokens, temperature=temperature, seed=drawn)
    if not fits:
      longer.append(endpoint.model)
    if reply is None:
      return ''
    usage.update(requests=1, input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
    return '' if reply.end == 'length' else extract.without_thinking(reply.text).strip()

  return ask


def _fit(document: Document) -> Document | Drop:
  """The document, unless nothing was checked or it could not be read back from a file; then also raises ValueError."""
  if not document.checks:
    return Drop('synthesis: nothing was checked')
  try:
    '\0'.join(documents.texts(document)).encode()
  except UnicodeEncodeError as error:
    return Drop('synthesis: not Unicode', str(error))
  return documents.from_json(documents.to_json(document))


def _count(done: Funnel, line: dict[str, Any]) -> None:
  if 'document' in line:
    done.keep()
  else:
    done.drop(Drop(line['drop']))
  done.seen.update(line['usage'])


def _write(
    files: Files,
    journal: Journal,
    count: int,
    settings: dict[str, Any],
    prices: tuple[float, float],
    unread: collections.Counter,
) -> dict[str, Any]:
  """Writes the documents and the report of what is finished; of samples that ask the same, the first is kept."""
  funnel, checks, asked, lines = Funnel(), collections.Counter(), set(), []
  for number in sorted(number for number in journal.finished if number < count):
    line = journal.finished[number]
    if 'document' in line:
      document = documents.from_record(line['document'])
      question = _question(document)
      if question in asked:
        line = {'usage': line['usage'], 'drop': 'synthesis: asked before'}
      else:
        asked.add(question)
        checks.update(document.checks)
        lines.append(documents.to_json(document) + '\n')
    _count(funnel, line)
  funnel.check()
  usage = {name: funnel.seen.pop(name, 0) for name in ('requests', 'input_tokens', 'output_tokens')}
  cost = (usage['input_tokens'] * prices[0] + usage['output_tokens'] * prices[1]) / 1e6
  text = ''.join(lines)
  report = {
      **settings,
      'settings': content_id(json.dumps(settings, sort_keys=True)),
      'samples': count,
      'unread': dict(sorted(unread.items())),
      'funnel': funnel.to_json(),
      'checks': dict(sorted(checks.items())),
      'usage': usage | {'dollars': round(cost, 6)},
      'sha256': hashlib.sha256(text.encode()).hexdigest(),
  }
  write_whole(files.out, text)
  write_whole(files.funnel, json.dumps(report, indent=1) + '\n')
  return report


def _question(document: Document) -> str:
  """What a sample asks, white space and case aside."""
  match document:
    case Fact():
      text = document.question
    case Problem():
      text = document.statement
    case Conversation():
      text = next((message['content'] for message in document.messages if message['role'] == 'user'), '')
    case _:
      text = '\0'.join(documents.texts(document))
  return content_id(' '.join(text.casefold().split()))


def _digest(document: Document) -> str:
  return content_id(documents.to_json(document))
