"""The store gives back what it was given, to the bit, and loses at most the group whose line a kill cut off."""

import dataclasses
import json
import os
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.documents import Problem
from iquest_jax.errors import UserError
from iquest_jax.rl import store as store_module
from iquest_jax.rl.store import Store
from iquest_jax.rl.types import ENDS, Group, Prompt, Trajectory, Turn

PROBLEM = Problem('p', 'Add.', ({'input': '[1, 2]', 'output': '3'},), 'def add(a, b): return a + b', 'add', checks=('x',))
MESSAGES = ({'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Add.'})
TOOL = {'type': 'function', 'function': {'name': 'add'}}
PROMPT = Prompt('p', MESSAGES, (TOOL,), PROBLEM, ({'check': 'words', 'most': 5},), 'easy')
TURNS = (Turn((5, 6, 2), (-0.5, -1.0, -0.1), (7, 8)), Turn((9, 2), (-0.25, -0.125)))
TRAJECTORY = Trajectory('p', 0, 3, (1, 2), TURNS, 'stop', '9', {'pass_rate': 0.5}, 0.5, {'verdict': 'failed'}, ('5 6',))
GROUP = Group(PROMPT, (TRAJECTORY, dataclasses.replace(TRAJECTORY, sample=1, turns=TURNS[1:], reward=1.0)))
CALL = '<think>\nHm.\n</think>\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TEXTS = {(5, 6): CALL, (7, 8): '\n<|im_start|>user\n3'}


def opened(folder, part=0):
  return Store(folder, lambda ids: TEXTS.get(tuple(ids), ' '.join(map(str, ids))), 'rl_thinking', part)


def json_values():
  leaves = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
  return st.recursive(leaves | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def groups():
  ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)
  objects = st.dictionaries(st.text(max_size=4), json_values(), max_size=2)
  logps = lambda n: st.lists(st.floats(max_value=0, width=32, allow_infinity=False), min_size=n, max_size=n)
  turn = ids.flatmap(lambda tokens: st.builds(Turn, st.just(tuple(tokens)), logps(len(tokens)).map(tuple), ids.map(tuple)))
  number, text = st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
  trajectory = st.builds(
      Trajectory, text, st.integers(0, 99), st.integers(0, 10**6), ids.map(tuple), st.lists(turn, max_size=3).map(tuple),
      st.sampled_from(ENDS), text, st.dictionaries(st.text(max_size=4), number, max_size=2), number, objects,
      st.lists(text, max_size=2).map(tuple),
  )  # fmt: skip
  message = st.fixed_dictionaries({'role': st.sampled_from(['system', 'user', 'assistant', 'tool']), 'content': text})
  prompt = st.builds(
      Prompt, text, st.lists(message, max_size=3).map(tuple), st.lists(objects, max_size=2).map(tuple),
      st.sampled_from([None, PROBLEM]), st.lists(objects, max_size=2).map(tuple), st.sampled_from(['', 'hard']),
      st.lists(text, max_size=2).map(tuple),
  )  # fmt: skip
  return st.builds(Group, prompt, st.lists(trajectory, max_size=3).map(tuple))


@settings(max_examples=60)
@given(groups())
def test_any_group_is_read_back_as_an_equal_record(group):
  with tempfile.TemporaryDirectory() as folder:
    store = opened(pathlib.Path(folder))
    store.append(3, 0, group)
    back = store.read(3)
  assert back == {0: group}
  logps = lambda group: [logp for one in group.trajectories for turn in one.turns for logp in turn.logps]
  # -0.0 equals 0.0, but has other bits.
  assert np.asarray(logps(group), np.float32).tobytes() == np.asarray(logps(back[0]), np.float32).tobytes()


def test_groups_are_read_by_step_in_order_of_index_from_all_processes(tmp_path):
  first, second = opened(tmp_path), opened(tmp_path, part=1)
  for store, step, index in ((first, 12, 2), (second, 12, 1), (first, 1, 0), (first, 12, 0), (second, 2, 5)):
    store.append(step, index, dataclasses.replace(GROUP, prompt=dataclasses.replace(PROMPT, id=f'{step}:{index}')))
  assert [(index, group.prompt.id) for index, group in second.read(12).items()] == [(0, '12:0'), (1, '12:1'), (2, '12:2')]
  assert first.steps() == [1, 2, 12] and list(first.read(1)) == [0] and list(first.read(2)) == [5] and first.read(7) == {}


def test_a_line_that_a_kill_cut_off_is_dropped_and_appending_goes_on_after_it(tmp_path):
  opened(tmp_path).append(0, 0, GROUP)
  path = tmp_path / '0.jsonl'
  whole = path.read_bytes()
  for cut in (1, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole + whole[:cut])
    store = opened(tmp_path)
    assert store.read(0) == {0: GROUP}
    store.append(0, 1, GROUP)
    assert store.read(0) == {0: GROUP, 1: GROUP} and path.read_bytes().count(b'\n') == 2


def test_a_damaged_line_is_named(tmp_path):
  store = opened(tmp_path)
  store.append(0, 0, GROUP)
  path = tmp_path / '0.jsonl'
  for damage in (b'{}\n', b'[1]\n', b'\xff\n', path.read_bytes().replace(b'"logprobs": [-0.5, ', b'"logprobs": [')):
    path.write_bytes(path.read_bytes()[: path.read_bytes().find(b'\n') + 1] + damage)
    with pytest.raises(UserError, match='0.jsonl: line 2 is damaged .*delete it to have its group sampled again'):
      store.read(0)


def test_a_group_is_on_disk_when_append_returns(tmp_path, monkeypatch):
  order, write = [], os.fsync
  monkeypatch.setattr(store_module.os, 'fsync', lambda fd: (order.append(os.readlink(f'/proc/self/fd/{fd}')), write(fd)))
  opened(tmp_path).append(0, 0, GROUP)
  assert order == [str(tmp_path), str(tmp_path / '0.jsonl')]


@pytest.mark.parametrize('change', [{'reward': float('nan')}, {'rewards': {'format': float('inf')}}])
def test_what_is_not_finite_is_refused_before_it_is_written(tmp_path, change):
  bad = dataclasses.replace(GROUP, trajectories=(dataclasses.replace(TRAJECTORY, **change),))
  with pytest.raises(ValueError, match='group p of step 4'):
    opened(tmp_path).append(4, 0, bad)
  assert not list(tmp_path.iterdir())


def test_a_trajectory_has_the_fields_of_the_interchange_format(tmp_path):
  opened(tmp_path).append(4, 2, GROUP)
  line = json.loads((tmp_path / '4.jsonl').read_text())
  assert (line['step'], line['index'], line['prompt']['id']) == (4, 2, 'p') and len(line['trajectories']) == 2
  one = line['trajectories'][0]
  assert (one['schema_version'], one['session_id']) == ('ATIF-v1.5', '4/2/0')
  assert one['agent']['model_name'] == 'rl_thinking' and one['agent']['tool_definitions'] == [TOOL]
  assert [(step['step_id'], step['source'], step['message']) for step in one['steps']] == [
      (1, 'system', 'Be brief.'), (2, 'user', 'Add.'), (3, 'agent', ''), (4, 'agent', '9'),
  ]  # fmt: skip
  call = one['steps'][2]
  assert call['reasoning_content'] == 'Hm.'
  assert call['tool_calls'] == [{'tool_call_id': '1.1', 'function_name': 'add', 'arguments': {'a': 1}}]
  assert call['observation'] == {'results': [{'content': '\n<|im_start|>user\n3'}]}
  assert call['extra'] == {'observation_token_ids': [7, 8]}
  assert call['metrics'] == {
      'prompt_token_ids': [1, 2], 'prompt_tokens': 2, 'completion_token_ids': [5, 6, 2], 'completion_tokens': 3,
      'logprobs': [-0.5, -1.0, -0.1],
  }  # fmt: skip
  assert one['final_metrics'] == {'total_prompt_tokens': 4, 'total_completion_tokens': 5, 'total_steps': 4}
  assert one['extra']['version'] == 3 and one['extra']['rewards'] == {'pass_rate': 0.5} and one['extra']['end'] == 'stop'
