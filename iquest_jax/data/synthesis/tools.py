"""Tool use: a request, the calls that serve it, and the answer, over tools that the model writes as Python functions.

Calls must fit the definitions, give the stated results when the functions run, and be made again by a reader who knows the
request and the results so far.
"""

import asyncio
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from iquest_jax.data.documents import Conversation, Drop, File, content_id
from iquest_jax.data.synthesis import answers, chance, schemas, turns
from iquest_jax.data.synthesis.domain import Domain, Tools
from iquest_jax.sandbox.verdict import PASSED, Call, grade_calls
from iquest_jax.text import extract

# ours: the numbers.
_LONGEST_SEED = 4000  # characters
_MOST_CALLS = 5
_TEMPERATURE = 0.8
_NUMBER = re.compile(r'-?\d+(?:\.\d+)?(?:e[-+]?\d+)?')
# A number, whose sign is one only where no word ends before it, or a word with digits. Of 5km, the number is 5.
_WITH_DIGITS = re.compile(rf'(?<![\w.-]){_NUMBER.pattern}|(?<![\w.])\d+(?:\.\d+)?|[^\W\d]\w*\d\w*')
# ours: at most two words between them.
_DENIAL = r"(?:\bnot|\bnever|n't|\binstead of|\brather than)\s(?:\w+\s){0,2}"
_GENERATE = """Write an exchange between a user and an assistant that calls tools. Take the subject from the file below.

- Invent {count} tools that could serve many requests, as Python functions with the standard library alone. They are
  deterministic: no clock, no chance, no network, no files, no state between calls; data they need stands in the code. They
  return JSON values.
- The request is what a user would say: it gives every argument that no tool can find, and names no tool.
- Make {calls} calls in all. If there are several, one of them needs a result of another. State the exact result of each.
- The answer tells the user what was found, with the values of the last result, written as they are there. The request does
  not contain them. The answer holds no number that is neither in the request nor in a result.

<file>
{text}
</file>

Answer with these five sections and nothing else:
## Tools
a JSON list of {{"name", "description", "parameters"}}; parameters is a JSON schema of type object, with "required"
## Implementation
the functions in one Python block, with the names and parameters of the tools
## Request
## Calls
a JSON list of {{"name", "arguments", "result"}}, in order
## Answer"""
_NEXT = """You serve a request by calling tools, one call at a time.

Tools:
{tools}

Request: {request}

Calls so far, with their results:
{calls}

Answer with one JSON object and nothing else: the next call as {{"name": "...", "arguments": {{...}}}}, with the arguments
that the request asks for and no others, or {{"name": "done", "arguments": {{}}}} if the results answer the request."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  """`calls` are {'name', 'arguments', 'result'}, as far as the model kept to that."""

  tools: list[Any]
  implementation: str
  request: str
  calls: list[Any]
  answer: str
  repo: str = ''


async def generate(file: File, tools: Tools) -> Candidate | Drop:
  """Asks for an exchange with as many tools and calls as chance chooses."""
  count, calls = tools.rng.randint(2, 4), tools.rng.randint(1, 3)
  prompt = _GENERATE.format(count=count, calls=calls, text=file.text[:_LONGEST_SEED])
  said = await tools.ask(turns.request(prompt), temperature=_TEMPERATURE, max_tokens=4096)
  found = answers.sections(said, ('Tools', 'Implementation', 'Request', 'Calls', 'Answer'))
  if not found:
    return Drop('tools: malformed answer', said[:300])
  defined, calls = turns.listed(found['Tools']), turns.listed(found['Calls'])
  return Candidate(defined, extract.code(found['Implementation']), found['Request'], calls, found['Answer'], file.repo)


async def verify(candidate: Candidate, tools: Tools) -> Conversation | Drop:
  """Holds the calls against the definitions, runs them, and has them made again."""
  if drop := _against_the_definitions(candidate):
    return drop
  calls = [{'name': call['name'], 'arguments': call['arguments']} for call in candidate.calls]
  results = [call['result'] for call in candidate.calls]
  graded = [Call(call['name'], (), result, call['arguments']) for call, result in zip(calls, results)]
  if found := chance.decides('python', candidate.implementation):
    return Drop('tools: depends on chance or time', found)
  # In a fresh process and the other order again: a result must not depend on the calls before it.
  for rule, made in (('when run', graded), ('when run again', graded[::-1])):
    verdict = await tools.run(_grade, tools.pool, candidate.implementation, made)
    if verdict.status != PASSED:
      return Drop(f'tools: another result {rule}', f'{verdict.status}: {verdict.reason}'[:300])
  if drop := _against_the_answer(candidate, results):
    return drop
  said = await asyncio.gather(*(_next(candidate, calls, results, place, tools) for place in range(len(calls) + 1)))
  for call, again in zip([*calls, {'name': 'done', 'arguments': {}}], said):
    if not _same(call, again):
      return Drop('tools: another call', f'{call}, but {again}'[:300])
  messages = [{'role': 'user', 'content': candidate.request}]
  for call, result in zip(calls, results):
    messages.append({'role': 'assistant', 'content': '', 'tool_calls': [call]})
    messages.append({'role': 'tool', 'content': json.dumps(result, ensure_ascii=False)})
  messages.append({'role': 'assistant', 'content': candidate.answer})
  checks = (
      'calls fit the definitions', 'results by execution', 'answer states a value of the result',
      'no other numbers in the answer', 'calls made again',
  )  # fmt: skip
  key = content_id(candidate.request, json.dumps(candidate.tools, sort_keys=True))
  return Conversation(key, tuple(messages), tuple(candidate.tools), candidate.repo, checks=checks)


def _grade(pool, implementation: str, calls: list[Call]):
  return grade_calls(pool, implementation, calls, tolerance=1e-9, sequences=True)


def _against_the_definitions(candidate: Candidate) -> Drop | None:
  defined, calls = candidate.tools, candidate.calls
  if wrong := schemas.problem_of_tools(defined):
    return Drop('tools: wrong definitions', wrong)
  if not 0 < len(calls) <= _MOST_CALLS:
    return Drop('tools: no calls, or too many', str(calls)[:300])
  for call in calls:
    if wrong := schemas.problem_of_call(call, defined):
      return Drop('tools: call does not fit', wrong)
    if 'result' not in call:
      return Drop('tools: call without a result', str(call)[:300])
  if any(_same(one, other) for place, one in enumerate(calls) for other in calls[:place]):
    return Drop('tools: call made twice', str(calls)[:300])
  return None


def _against_the_answer(candidate: Candidate, results: list[Any]) -> Drop | None:
  """The answer must state something of the last result that the request does not contain, and no number from nowhere."""
  request, answer = _flat(candidate.request), _flat(candidate.answer)
  told = [leaf for leaf in _leaves(results[-1]) if _states(answer, leaf)]
  if not told:
    return Drop('tools: answer does not state the result', candidate.answer[:300])
  if all(_states(request, leaf) for leaf in told):
    return Drop('tools: answer in question', candidate.request[:300])
  if any(re.search(rf'{_DENIAL}{re.escape(leaf)}(?!\w)', answer) for leaf in told):
    return Drop('tools: answer denies the result', candidate.answer[:300])
  known = _numbers(' '.join([request, *(leaf for result in results for leaf in _leaves(result))]))
  if unknown := _numbers(answer) - known:
    return Drop('tools: answer states other numbers', f'{sorted(unknown)}: {candidate.answer}'[:300])
  return None


async def _next(candidate: Candidate, calls: list, results: list, place: int, tools: Tools) -> dict[str, Any] | None:
  """The call that a reader makes after the first `place` calls."""
  made = [f'{json.dumps(call)} -> {json.dumps(result)}' for call, result in zip(calls[:place], results)]
  defined = '\n'.join(json.dumps(tool) for tool in candidate.tools)
  prompt = _NEXT.format(tools=defined, request=candidate.request, calls='\n'.join(made) or 'none')
  said = await tools.ask(turns.request(prompt), max_tokens=1024, seed=1 + place)
  return answers.fields(said, {'name': str, 'arguments': dict})


def _same(call: dict[str, Any], again: dict[str, Any] | None) -> bool:
  """Whether two calls have one name and the same arguments; True is not 1."""
  plain = lambda one: json.dumps([one['name'], one['arguments']], sort_keys=True)
  return again is not None and plain(call) == plain(again)


def _leaves(value: Any) -> Iterator[str]:
  """The strings and numbers in a JSON value, as an answer would write them."""
  if isinstance(value, dict | list):
    for inner in value.values() if isinstance(value, dict) else value:
      yield from _leaves(inner)
  elif isinstance(value, str | int | float) and not isinstance(value, bool):
    yield from filter(None, [_flat(f'{value:.12g}' if isinstance(value, float) else str(value))])


def _flat(text: str) -> str:
  """Small letters, single blanks, and no commas within numbers."""
  return ' '.join(re.sub(r'(?<=\d),(?=\d{3}(?!\d))', '', text.casefold()).split())


def _numbers(text: str) -> set[str]:
  """The words of a flat text that hold digits: numbers in one form each, and others, such as b12, as they are."""
  return {f'{float(word):.12g}' if _NUMBER.fullmatch(word) else word for word in _WITH_DIGITS.findall(text)}


def _states(text: str, leaf: str) -> bool:
  """Whether a value stands in a flat text, as whole words; a number in any of its forms."""
  if _NUMBER.fullmatch(leaf):
    return f'{float(leaf):.12g}' in _numbers(text)
  return re.search(rf'(?<!\w){re.escape(leaf)}(?!\w)', text) is not None


DOMAIN = Domain('tools', (File,), generate, verify)
