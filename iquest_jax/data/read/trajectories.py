"""Agents' sessions to conversations: tool calls in OpenAI's form or as text, results as turns of tools or of users.

The messages of a record are a list, or its JSON text, under one of MESSAGES. A turn is
  {"role", "content", "tool_calls"?, "tool_call_id"?}    OpenAI's, as read/chats.py reads them
  {"from", "value"} or {"role", "text"}                  the same with other names, and roles such as human, gpt, ai
  {"source", "message", "tool_calls"?, "observation"?}   a step of the Agent Trajectory Interchange Format
A call may be text of the assistant, <function=NAME><parameter=KEY>value</parameter></function> or JSON in <tool_call>; the
turn after it is its result, whoever gives it. <think> and <thinking> become `thinking`.

A malformed turn is left out together with the results of its calls; the rest of the session stays. A session must begin
with a request, call a tool, and come to an end.
Sources: the released models' XML form of calls; the fields of trajectories as SWE-smith, SWE-Gym, R2E-Gym, nebius,
OpenHands and SWE-agent write them.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from iquest_jax.data.documents import Conversation, Drop
from iquest_jax.data.read import chats, records, text_calls
from iquest_jax.text import chat

MESSAGES = ('messages', 'conversations', 'conversation', 'history', 'trajectory', 'steps')
_TOOLS = ('tools', 'tool_definitions')
# Not the id of an instance: several sessions may be about one.
_ID = ('id', 'trajectory_id', 'traj_id', 'session_id')
_COLUMNS = (*MESSAGES, *_TOOLS, *_ID, 'repo', 'instance_id', 'agent')
_ROLES = {
    'human': 'user', 'gpt': 'assistant', 'ai': 'assistant', 'agent': 'assistant', 'developer': 'system',
    'function': 'tool', 'observation': 'tool', 'environment': 'tool',
}  # fmt: skip
# Roles whose text is the JSON of a call.
_CALLS = ('function_call', 'tool_call')
# ours: a session ends with words to the user or with a call of one of these.
FINISHING = frozenset({
    'submit', 'finish', 'done', 'complete', 'complete_task', 'task_done', 'mark_task_complete', 'attempt_completion',
    'final_answer',
})  # fmt: skip
_RESPONSE = re.compile(r'<tool_response>(.*?)(</tool_response>|\Z)', re.DOTALL)
_HEADING = re.compile(r'\s*(?:observation:|execution (?:result|output) of \[[^\]\n]*\]:)[ \t]*\n?', re.IGNORECASE)
_INSTANCE = re.compile(r'([\w.-]+)__([\w.-]+)-\d+')  # of SWE-bench: OWNER__NAME-NUMBER


def read_trajectories(
    path: str | os.PathLike, seen: collections.Counter | None = None
) -> Iterator[Conversation | Drop]:
  """The sessions of a file of .jsonl, .jsonl.gz, .jsonl.zst or .parquet; a malformed one is a Drop in its place.

  Args:
    seen: counts turns left out, by what is wrong with them.

  Raises:
    UserError: the file is missing, a folder, or unreadable.
  """
  for where, record in records.records(path, _COLUMNS):
    yield record if isinstance(record, Drop) else read(record, where, seen)


def read(record: Mapping[str, Any], where: str = '', seen: collections.Counter | None = None) -> Conversation | Drop:
  """The conversation of a record, or why it is none; see `read_trajectories`.

  Args:
    where: what the evidence of a Drop begins with.
  """
  agent = record['agent'] if isinstance(record.get('agent'), dict) else {}
  try:
    turns = records.parsed(records.field(record, MESSAGES))
    tools = records.parsed(records.field(record, _TOOLS) or records.field(agent, _TOOLS))
  except ValueError as error:
    return Drop('trajectory: messages or tools are not JSON', f'{where}: {error}')
  if not isinstance(turns, list) or not turns:
    return Drop('trajectory: no list of messages', where)
  if (tools := chats.tools_of(tools)) is None:
    return Drop('trajectory: malformed tools', where)
  session = _Session(tools)
  for turn in turns:
    for message in _messages(turn):
      session.add(message)
  messages = session.end()
  if seen is not None:
    seen.update({f'turns left out: {rule}': count for rule, count in session.dropped.items()})
  if isinstance(messages, Drop):
    return dataclasses.replace(messages, evidence=where)
  conversation = chats.read({'id': records.id_of(record, _ID), 'messages': messages, 'tools': list(tools)}, where)
  return conversation if isinstance(conversation, Drop) else dataclasses.replace(conversation, repo=_repo(record))


def _repo(record: Mapping[str, Any]) -> str:
  """The repository that a session is about; '' if the record does not say."""
  if isinstance(repo := record.get('repo'), str):
    return repo
  instance = _INSTANCE.fullmatch(id) if isinstance(id := record.get('instance_id'), str) else None
  return f'{instance[1]}/{instance[2]}' if instance else ''


def _messages(turn: Any) -> Iterator[dict[str, Any]]:
  """A turn with OpenAI's names, and the results that it holds itself."""
  if not isinstance(turn, dict):
    yield {'role': None, 'content': None}
    return
  given = {name: value for name, value in turn.items() if value is not None}
  role = records.field(given, ('role', 'from', 'source'))
  content = records.field(given, ('content', 'value', 'text', 'message', 'system_prompt'))
  role = _ROLES.get(role, role) if isinstance(role, str) else None
  if role in _CALLS:
    role, content = 'assistant', f'<tool_call>{content}</tool_call>'
  message = {'role': role, 'content': content}
  message |= {name: given[name] for name in ('weight', *chats.THINKING, 'function_call', 'tool_call_id') if name in given}
  if isinstance(ids := given.get('tool_call_ids'), list) and ids:
    message['tool_call_id'] = ids[0]
  if calls := given.get('tool_calls'):
    message['tool_calls'] = [_call(call) for call in calls] if isinstance(calls, list) else calls
  yield message
  results = given['observation'].get('results') if isinstance(given.get('observation'), dict) else None
  for result in results if isinstance(results, list) else ():
    result = result if isinstance(result, dict) else {'content': result}
    yield {'role': 'tool', 'content': result.get('content'), 'tool_call_id': result.get('source_call_id')}


def _call(call: Any) -> Any:
  """A call with OpenAI's names."""
  if not isinstance(call, dict) or 'function_name' not in call:
    return call
  return {'id': call.get('tool_call_id'), 'name': call['function_name'], 'arguments': call.get('arguments')}


class _Session:
  """The turns that were kept so far, and the calls that wait for their results.

  Attributes:
    dropped: turns left out, by what is wrong with them.
  """

  def __init__(self, tools: Sequence[Mapping[str, Any]]):
    functions = [tool.get('function') or tool for tool in tools]
    self._schemas = {function['name']: text_calls.properties(function) for function in functions}
    self.dropped: collections.Counter[str] = collections.Counter()
    self._messages: list[dict[str, Any]] = []
    # Calls of the last message, and their results by place. Results of a turn that was left out are skipped.
    self._calls: list[Any] = []
    self._results: dict[int, dict[str, Any]] = {}
    self._is_text = self._skips = False

  def add(self, message: Mapping[str, Any]) -> None:
    """Takes the next turn, as `_messages` gives it."""
    role, content = message['role'], chats.text_of(message['content'])
    if role == 'tool' or role == 'user' and self._is_text and (self._skips or len(self._results) < len(self._calls)):
      self._result(message, content)
    elif role == 'assistant':
      self._close()
      self._assistant(message, content)
    elif role not in ('system', 'user'):
      self._drop('unknown role')
    else:
      self._close()
      if content is None:
        self._drop('content that is not text')
      elif role == 'system' and self._messages:
        self._drop('system message not first')
      else:
        self._messages.append({'role': role, 'content': content})

  def _assistant(self, given: Mapping[str, Any], content: str | None) -> None:
    """Keeps a turn of the assistant, or leaves it out with what answers it."""
    self._is_text = not given.get('tool_calls')
    message = dict(given)
    if content is not None:
      reply = chat.parse(text_calls.tagged(content))
      if reply.problems:
        is_call = any('call' in problem for problem in reply.problems)
        self._skips = is_call or not self._is_text
        self._drop('malformed tool call' if is_call else 'thinking that does not end')
        return
      if reply.tool_calls or reply.thinking:
        message['content'] = reply.content.strip()
      if reply.tool_calls and self._is_text:
        message['tool_calls'] = [dict(call) for call in reply.tool_calls]
      if reply.thinking:
        before = records.field(given, chats.THINKING)
        message['thinking'] = f'{before}\n{reply.thinking}' if isinstance(before, str) and before else reply.thinking
    self._skips = bool(message.get('tool_calls'))
    read = chats.read({'id': 'turn', 'messages': [message]})
    if isinstance(read, Drop):
      self._drop(read.rule.removeprefix('chat: '))
      return
    (kept,) = read.messages
    for call in kept.get('tool_calls', ()):
      if problem := self._typed(call):
        self._drop(problem)
        return
    self._messages.append(kept)
    self._calls, self._skips = [call.get('id') for call in message.get('tool_calls') or ()], False

  def _typed(self, call: dict[str, Any]) -> str:
    """What is wrong with a call of defined tools, '' if nothing; values that were text get their types, in place."""
    if not self._schemas:
      return ''
    if (schemas := self._schemas.get(call['name'])) is None:
      return 'call of a tool that is not defined'
    try:
      if self._is_text:
        arguments = call['arguments'].items()
        call['arguments'] = {name: text_calls.value(value, schemas.get(name)) for name, value in arguments}
    except ValueError:
      return 'argument of another type than its tool takes'
    return ''

  def _result(self, message: Mapping[str, Any], content: str | None) -> None:
    if not self._calls:
      self._drop('result of a call that was left out' if self._skips else 'result without its call')
      # A text has one result, in one turn.
      self._skips &= not self._is_text
      return
    if content is None and message['content'] is not None:
      self._drop('content that is not text')
      return
    id = message.get('tool_call_id')
    parts = _results(content or '') if self._is_text else [content or '']
    for part in parts:
      places = (place for place, one in enumerate(self._calls) if self._is_text or id is None or id == one)
      place = next((place for place in places if place not in self._results), None)
      if place is None:
        self._drop('result without its call')
        return
      self._results[place] = {'role': 'tool', 'content': part}

  def _close(self) -> None:
    """Puts results behind their calls, in their order; a turn whose calls lack results is left out with those it has."""
    if len(self._results) < len(self._calls):
      self._messages.pop()
      self._drop('call without its result', 1 + len(self._results))
    else:
      self._messages += [self._results[place] for place in range(len(self._calls))]
    self._calls, self._results, self._skips = [], {}, False

  def end(self) -> list[dict[str, Any]] | Drop:
    """The messages of the session, or why it is none."""
    if not self._results:
      self._calls = []  # nobody has to write down what the last call returned
    self._close()
    while self._messages and self._messages[-1]['role'] in ('user', 'system'):
      self._messages.pop()
      self._drop('request without an answer')
    if [message['role'] for message in self._messages if message['role'] != 'system'][:1] != ['user']:
      return Drop('trajectory: no request at the start')
    if not any(message.get('tool_calls') for message in self._messages):
      return Drop('trajectory: no tool call')
    last = next(message for message in reversed(self._messages) if message['role'] == 'assistant')
    return self._messages if not last.get('tool_calls') or _finishes(last) else Drop('trajectory: no end')

  def _drop(self, problem: str, count: int = 1) -> None:
    self.dropped[problem] += count


def _finishes(message: Mapping[str, Any]) -> bool:
  return any(call['name'] in FINISHING for call in message['tool_calls'])


def _results(text: str) -> list[str]:
  """What calls that were text returned, without the tags or the heading that the environment put around it."""
  responses = _RESPONSE.findall(text)
  if responses and all(end for _, end in responses) and not _RESPONSE.sub('', text).strip():
    return [inside.removeprefix('\n').removesuffix('\n') for inside, _ in responses]
  heading = _HEADING.match(text)
  return [text[heading.end() :] if heading else text]
