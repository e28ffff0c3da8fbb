"""Trajectories on disk: one synced line of JSON per group, from which the same records are read back.

  <stage>/rollouts/<step>.jsonl             {"step", "index", "prompt", "trajectories": [...]}
  <stage>/rollouts/<step>.<part>.jsonl      the same, of a process other than the first

A trajectory is in the Agent Trajectory Interchange Format. The sampled ids and log-probabilities of a turn are in `metrics`
of its agent step. What the format has no field for is in `extra`: the observed ids of a turn; the version, end, rewards and
notes of a trajectory. Source: Harbor's RFC 0001; token ids are in it from version 1.4, definitions of tools from 1.5.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from iquest_jax import __version__, journal
from iquest_jax.data import documents
from iquest_jax.errors import UserError
from iquest_jax.rl.types import Group, Prompt, Trajectory, Turn
from iquest_jax.text import chat

SCHEMA = 'ATIF-v1.5'
_SOURCES = {'system': 'system', 'user': 'user', 'assistant': 'agent', 'tool': 'user'}
_EXTRA = ('prompt_id', 'sample', 'version', 'end', 'text', 'earlier', 'rewards', 'reward', 'notes')

_Record = dict[str, Any]


class Store:
  """The groups of a stage by step, appended as they are finished. Safe for threads."""

  def __init__(self, folder: epath.Path, decode: Callable[[Sequence[int]], str], model: str, part: int = 0):
    """Creates nothing until a group is appended.

    Args:
      folder: `<stage>/rollouts`, which all processes see.
      decode: ids to text, for people who read the file.
      model: what the trajectories name as their model.
      part: number of this process; each appends to files of its own.
    """
    self._folder, self._decode, self._model, self._part = epath.Path(folder), decode, model, part
    self._lock, self._path, self._lines = threading.Lock(), None, None  # the file that groups are appended to

  def append(self, step: int, index: int, group: Group) -> None:
    """Appends a group; on return it is on disk.

    Args:
      index: place of the group in its step, whatever the order of finishing.

    Raises:
      ValueError: a reward or a log-probability is not finite.
    """
    session = lambda trajectory: f'{step}/{index}/{trajectory.sample}'
    trajectories = [_to_atif(one, group.prompt, session(one), self._model, self._decode) for one in group.trajectories]
    record = {'step': step, 'index': index, 'prompt': _from_prompt(group.prompt), 'trajectories': trajectories}
    try:
      line = json.dumps(record, allow_nan=False).encode() + b'\n'
    except ValueError as error:
      raise ValueError(f'group {group.prompt.id} of step {step}: {error}') from None
    path = self._folder / (f'{step}.{self._part}.jsonl' if self._part else f'{step}.jsonl')
    with self._lock:
      if path != self._path:
        self._close()
        self._path, self._lines = path, journal.Lines(path)
      self._lines.append(line)

  def read(self, step: int) -> dict[int, Group]:
    """The groups of a step by index, in order, of all processes; {} where no file exists.

    Raises:
      UserError: a line is damaged.
    """
    found = {index: group for path in self._paths(step) for index, group in read(path)}
    return dict(sorted(found.items()))

  def remove(self, step: int) -> None:
    """Removes the groups of a step, of all processes."""
    with self._lock:
      self._close()
      for path in self._paths(step):
        journal.remove(path)

  def steps(self) -> list[int]:
    """The steps with a file, ascending."""
    return sorted({int(path.name.partition('.')[0]) for path in self._folder.glob('*.jsonl')})

  def _paths(self, step: int) -> list[epath.Path]:
    return sorted([*self._folder.glob(f'{step}.jsonl'), *self._folder.glob(f'{step}.*.jsonl')])

  def _close(self) -> None:
    if self._lines:
      self._lines.close()
    self._path = self._lines = None


def read(path: str | os.PathLike) -> Iterator[tuple[int, Group]]:
  """(index, group) of each line of a file; a last line that a kill cut off is left out.

  Raises:
    UserError: another line is damaged.
  """
  for number, line in enumerate(journal.read(path).splitlines(), 1):
    try:
      record = json.loads(line)
      prompt = _to_prompt(record['prompt'])
      yield record['index'], Group(prompt, tuple(map(_from_atif, record['trajectories'])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      why = f'{type(error).__name__}: {error}'
      raise UserError(f'{path}: line {number} is damaged ({why}); delete it to have its group sampled again') from None


def _from_prompt(prompt: Prompt) -> _Record:
  problem = prompt.problem and json.loads(documents.to_json(prompt.problem))
  return {**vars(prompt), 'problem': problem}


def _to_prompt(record: _Record) -> Prompt:
  problem = record['problem'] and documents.from_record(record['problem'])
  lists = {name: tuple(record[name]) for name in ('messages', 'tools', 'checks', 'executes') if name in record}
  return Prompt(**{**record, **lists, 'problem': problem})


def _to_atif(trajectory: Trajectory, prompt: Prompt, session: str, model: str, decode: Callable) -> _Record:
  steps: list[_Record] = []
  for message in prompt.messages:
    steps.append({'source': _SOURCES[message['role']], 'message': chat.rendered(message)[1]})
  for number, turn in enumerate(trajectory.turns, 1):
    last = number == len(trajectory.turns)
    steps.append(_agent_step(turn, trajectory.text if last else decode(turn.tokens[:-1]), number, decode))
  extra = {name: getattr(trajectory, name) for name in _EXTRA}
  if trajectory.turns:
    first = steps[len(prompt.messages)]['metrics']
    first |= {'prompt_tokens': len(trajectory.prompt_tokens), 'prompt_token_ids': trajectory.prompt_tokens}
  else:
    extra['prompt_token_ids'] = trajectory.prompt_tokens
  agent = {'name': 'iquest_jax', 'version': __version__, 'model_name': model}
  if prompt.tools:
    agent['tool_definitions'] = prompt.tools
  sampled = sum(len(turn.tokens) for turn in trajectory.turns)
  totals = {'total_prompt_tokens': len(trajectory.tokens) - sampled, 'total_completion_tokens': sampled}
  return {
      'schema_version': SCHEMA,
      'session_id': session,
      'agent': agent,
      'steps': [{'step_id': number, **step} for number, step in enumerate(steps, 1)],
      'final_metrics': {**totals, 'total_steps': len(steps)},
      'extra': extra,
  }


def _agent_step(turn: Turn, text: str, number: int, decode: Callable) -> _Record:
  reply = chat.parse(text)
  step: _Record = {'source': 'agent', 'message': reply.content}
  if reply.thinking:
    step['reasoning_content'] = reply.thinking
  if reply.tool_calls:
    step['tool_calls'] = [
        {'tool_call_id': f'{number}.{place}', 'function_name': call['name'], 'arguments': call['arguments']}
        for place, call in enumerate(reply.tool_calls, 1)
    ]
  if turn.observation:
    step['observation'] = {'results': [{'content': decode(turn.observation)}]}
    step['extra'] = {'observation_token_ids': turn.observation}
  step['metrics'] = {'completion_token_ids': turn.tokens, 'logprobs': turn.logps, 'completion_tokens': len(turn.tokens)}
  return step


def _from_atif(record: _Record) -> Trajectory:
  sampled = [step for step in record['steps'] if 'completion_token_ids' in step.get('metrics', ())]
  turns = []
  for step in sampled:
    metrics, observed = step['metrics'], step.get('extra', {}).get('observation_token_ids', ())
    turns.append(Turn(tuple(metrics['completion_token_ids']), tuple(metrics['logprobs']), tuple(observed)))
  extra = record['extra']
  prompt = sampled[0]['metrics']['prompt_token_ids'] if sampled else extra['prompt_token_ids']
  fields = {name: extra[name] for name in _EXTRA if name in extra} | {'earlier': tuple(extra.get('earlier', ()))}
  return Trajectory(prompt_tokens=tuple(prompt), turns=tuple(turns), **fields)
