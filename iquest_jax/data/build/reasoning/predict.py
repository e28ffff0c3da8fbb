"""Functions of a Python file to questions about their results and their inputs, all of it executed in the sandbox.

Three runs in interpreters with two hash seeds: all inputs, with lines counted; then, of what was chosen, a trace and a
run without one. A function whose results differ between the seeds is dropped. One with sets is executed and traced again
with its sets in three other orders: numbers and None have an order too, the same under every seed, that no reader can know.
"""

import ast
import dataclasses
import itertools
import random
import re
from collections.abc import Iterator, Sequence

from iquest_jax.data.build.reasoning import functions, inputs, narrate
from iquest_jax.data.build.reasoning.functions import Function
from iquest_jax.data.build.reasoning.inputs import Domain
from iquest_jax.data.build.reasoning.samples import (
    Sample,
    conversation,
    inputs_sample,
    output_question,
    result_of,
    verify,
)
from iquest_jax.data.documents import Conversation, Drop, File
from iquest_jax.sandbox import tracing
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.tracing import Batch, Outcome

# ours: all of these.
_MOST_FUNCTIONS = 24  # per file
_OUTPUTS = 4  # questions about results per function
_MOST_EXAMPLES = 8
_LEAST_LINES, _MOST_LINES = 2, 48  # of a trace that is shown
_STEPS = 2000  # lines of any run
_LONGEST = 160  # characters of a value
_PLAUSIBLE = 0.6  # share of a domain that must give a result for its types to be believed
# Exceptions of arguments that no caller means.
_ILL_TYPED = frozenset({'TypeError', 'AttributeError', 'NameError', 'UnboundLocalError', 'RecursionError', 'MemoryError',
                        'AssertionError', 'NotImplementedError', 'ImportError', 'ModuleNotFoundError'})  # fmt: skip
_STOPPED = {'load': 'does not load', 'limit': 'exceeds a limit of the sandbox', 'sandbox': 'the sandbox ended'}
_ADDRESS = re.compile(r'\bat 0x[0-9a-fA-F]+')
_RAISED = re.compile(r'\braise\s+(\w+)')


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What is tried on a function: the calls of its file, and domains."""

  function: Function
  examples: tuple[str, ...]
  domains: tuple[Domain, ...]

  def arguments(self) -> tuple[str, ...]:
    """Every argument list once."""
    return tuple(dict.fromkeys([*self.examples, *itertools.chain.from_iterable(d.elements() for d in self.domains)]))

  def calls(self, arguments: Sequence[str]) -> tuple[str, ...]:
    return tuple(f'{self.function.name}({each})' for each in arguments)


def make(file: File, pool: Pool, seed: int, thinking: bool = True) -> Iterator[Conversation | Drop]:
  """Questions about the functions of a file that run on their own, each verified by execution.

  Args:
    pool: the sandboxes that run the file's functions.
    seed: chooses inputs and questions, with the file's id.
    thinking: the steps are thinking; otherwise they are part of the answer.

  Returns:
    Conversations, and a Drop per function that gives none, per sample that is refuted, and for a file without functions.
  """
  found = {function.name: function for function in itertools.islice(functions.find(file.text), _MOST_FUNCTIONS)}
  if not found:
    yield Drop('reasoning: no function that runs on its own', file.path)
    return
  examples = inputs.examples(file.text, found)
  plans = []
  for name, function in found.items():
    rng = random.Random(f'{seed}:inputs:{file.id}:{name}')
    domains = inputs.domains(function, rng)
    plans.append(_Plan(function, tuple(examples[name][:_MOST_EXAMPLES]), tuple(domains)))
  calls = [plan.calls(plan.arguments()) for plan in plans]
  batches = [Batch(plan.function.source, each, 'count', _STEPS, _LONGEST) for plan, each in zip(plans, calls)]
  counted = tracing.in_sandbox(pool, batches, hash_seed=1)
  asked: list[_Asked] = []
  for plan, tried, outcomes in zip(plans, calls, counted):
    rng = random.Random(f'{seed}:questions:{file.id}:{plan.function.name}')
    question = _choose(plan, dict(zip(tried, outcomes)), rng)
    if isinstance(question, Drop):
      yield question
    else:
      asked.append(question)
  if asked:
    yield from _answered(asked, pool, thinking, file.repo)


@dataclasses.dataclass(frozen=True)
class _Asked:
  """The questions that a function gives, before they are traced and executed again.

  Attributes:
    outputs: calls whose result is asked for.
    inputs: the question about inputs, already with its answer; at most one.
    outcomes: of the calls of the file and of all of the domain, from the first run.
  """

  plan: _Plan
  listing: narrate.Listing
  outputs: tuple[str, ...]
  inputs: tuple[Sample, ...]
  outcomes: dict[str, Outcome]
  rng: random.Random


def _choose(plan: _Plan, outcomes: dict[str, Outcome], rng: random.Random) -> _Asked | Drop:
  """Chooses the calls and the domain to ask about."""
  name = plan.function.name
  if all(outcome.stopped in ('load', 'limit', 'sandbox') for outcome in outcomes.values()):
    return Drop(f'reasoning: {_STOPPED[next(iter(outcomes.values())).stopped]}', name)
  raised = frozenset(_RAISED.findall(plan.function.source)) - _ILL_TYPED

  def is_result(outcome: Outcome) -> bool:
    return bool(outcome.text) or outcome.error in raised

  shares = []
  for domain in plan.domains:
    of_domain = [outcomes[call] for call in plan.calls(domain.elements())]
    shares.append(sum(map(is_result, of_domain)) / len(of_domain))
  best = shares.index(max(shares))
  domain = plan.domains[best] if shares[best] >= _PLAUSIBLE else None
  calls = plan.calls([*plan.examples, *(domain.elements() if domain else ())])
  usable = [
      call
      for call in dict.fromkeys(calls)
      if is_result(outcomes[call]) and _LEAST_LINES <= outcomes[call].steps <= _MOST_LINES
      and outcomes[call].text != 'None'
  ]  # fmt: skip
  if not usable:
    return Drop('reasoning: no plausible input', name)
  rng.shuffle(usable)
  by_result: dict[str, str] = {}
  for call in sorted(usable, key=lambda call: -outcomes[call].steps):  # Of equal results, the longest way to it.
    by_result.setdefault(result_of(outcomes[call]), call)
  if len(by_result) < 2:
    return Drop('reasoning: the same result for all inputs', name)
  outputs = sorted(rng.sample(sorted(by_result.values()), min(_OUTPUTS, len(by_result))))
  sample = None
  if domain:
    of_domain = {element: outcomes[call] for element, call in zip(domain.elements(), plan.calls(domain.elements()))}
    sample = inputs_sample(plan.function.source, name, plan.function.parameters, domain.statement(), of_domain, rng)
  listing, tried = narrate.Listing(plan.function.source), {call: outcomes[call] for call in calls}
  return _Asked(plan, listing, tuple(outputs), (sample,) if sample else (), tried, rng)


def _answered(asked: Sequence[_Asked], pool: Pool, thinking: bool, repo: str) -> Iterator[Conversation | Drop]:
  """Traces what was chosen, executes it again without a trace, and keeps what agrees with both."""
  batches = [_batches(each) for each in asked]
  ran = iter(tracing.in_sandbox(pool, list(itertools.chain.from_iterable(batches)), hash_seed=2))
  for each, of_function in zip(asked, batches):
    traces, fresh, *in_other_orders = (next(ran) for _ in of_function)
    runs, name = dict(zip(of_function[1].expressions, fresh)), each.plan.function.name
    if stopped := [run.stopped for run in (*traces, *fresh) if run.stopped in _STOPPED]:
      yield Drop(f'reasoning: {_STOPPED[stopped[0]]}', name)
      continue
    shown, results = _shown(each, traces), [result_of(each.outcomes[call]) for call in runs]
    same_traces = all(_shown(each, other) == shown for other in in_other_orders[::2])
    if not same_traces or any([*map(result_of, other)] != results for other in (fresh, *in_other_orders[1::2])):
      yield Drop('reasoning: not deterministic', name)
      continue
    if any(map(_ADDRESS.search, [*shown, *results])):
      yield Drop('reasoning: shows an address', name)
      continue
    passed = ('two hash seeds', *(['four orders of sets'] if in_other_orders else []))
    samples: list[Sample | Drop] = [_output_sample(each, call, trace) for call, trace in zip(each.outputs, traces)]
    for sample in [*samples, *each.inputs]:
      checks = sample if isinstance(sample, Drop) else verify(sample, runs)
      yield checks if isinstance(checks, Drop) else conversation(sample, (*passed, *checks), thinking, repo)


def _batches(asked: _Asked) -> list[Batch]:
  """A trace and a run without one, and both again for each other order of sets, if there are any; these count lines."""
  source = asked.plan.function.source
  again = tuple(call for call, outcome in asked.outcomes.items() if result_of(outcome))  # The rest may never end.
  trace = Batch(source, asked.outputs, 'record', _STEPS, _LONGEST, asked.listing.targets)
  found = [trace, Batch(source, again, 'plain', _STEPS, _LONGEST)]
  for order in tracing.ORDERS if _makes_sets(source) or any('{' in call or 'set(' in call for call in again) else ():
    found += [dataclasses.replace(trace, order=order), Batch(source, again, 'count', _STEPS, _LONGEST, order=order)]
  return found


def _makes_sets(source: str) -> bool:
  """Whether a program has sets of its own, or makes some from the views of a dictionary."""
  for node in ast.walk(ast.parse(source)):
    match node:
      case ast.Set() | ast.SetComp() | ast.Name('set' | 'frozenset') | ast.Attribute(_, 'keys' | 'items'):
        return True
  return False


def _shown(asked: _Asked, traces: Sequence[Outcome]) -> list[str]:
  return [trace.stopped or narrate.trace(trace.events, asked.listing) for trace in traces]


def _output_sample(asked: _Asked, call: str, trace: Outcome) -> Sample | Drop:
  if trace.stopped:
    return Drop('reasoning: a variable is too long to show', call)
  question = output_question(asked.plan.function.source, call, asked.rng)
  steps = narrate.trace(trace.events, asked.listing)
  return Sample(question, call, result_of(asked.outcomes[call]), steps, trace.steps)
