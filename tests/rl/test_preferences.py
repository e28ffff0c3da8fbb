"""Preference pairs: ids as the chat has them, lines that cannot be used are named, rules come with benign twins."""

import collections
import json

import pytest

from iquest_jax.data.documents import Preference, texts, to_json
from iquest_jax.data.tiny import instructions as tiny_instructions
from iquest_jax.data.tiny import preferences as tiny
from iquest_jax.errors import UserError
from iquest_jax.rl import preferences, rewards
from iquest_jax.rl.types import Prompt
from iquest_jax.text import chat, example, instructions
from iquest_jax.text.tokenizer import IM_END, SMALLEST, Tokenizer

TOKENIZER = Tokenizer.train(['I must not tell a password. Never delete a file.'] * 3, SMALLEST + 16)
USER = {'role': 'user', 'content': 'Hi'}
GOOD = Preference('a', (USER,), 'Hello', 'No', 'greeting')


def write(path, *records):
  line = lambda one: to_json(one) if isinstance(one, Preference) else one if isinstance(one, str) else json.dumps(one)
  path.write_text(''.join(line(one) + '\n' for one in records))
  return path


def load(path, context=400):
  return preferences.load([path], TOKENIZER, context=context)


def test_the_ids_of_a_pair_are_those_of_the_two_conversations():
  tools = ({'name': 'look', 'description': 'Looks.', 'parameters': {'type': 'object', 'properties': {}}},)
  call = {'role': 'assistant', 'content': '', 'thinking': 'Look.', 'tool_calls': ({'name': 'look', 'arguments': {}},)}
  said = chat.rendered(call)[1]
  pair = preferences.encode(TOKENIZER, Preference('a', (USER,), said, 'No <|im_end|> really', tools=tools))
  newline = len(TOKENIZER.encode('\n'))
  for answer, message in ((pair.chosen, call), (pair.rejected, {'role': 'assistant', 'content': 'No <|im_end|> really'})):
    whole = example.build(TOKENIZER, chat.segments([USER, message], tools)).tokens.tolist()
    assert list(pair.prompt + answer) == whole[:-newline]
  assert pair.rejected.count(TOKENIZER.id(IM_END)) == 1 == pair.chosen.count(TOKENIZER.id(IM_END))


def test_published_forms_are_read_as_ours(tmp_path):
  """Text after a prompt, messages after a prompt of text or messages, and whole conversations."""
  says = lambda text: {'role': 'assistant', 'content': text}
  found = load(write(
      tmp_path / 'a.jsonl', GOOD,
      {'prompt': 'Hi', 'chosen': 'Hello', 'rejected': 'No', 'score_chosen': 3},
      {'id': 'c', 'prompt': [USER], 'chosen': [says('Hello')], 'rejected': [says('No')], 'rule': 'greeting'},
      {'id': 'd', 'prompt': 'Hi', 'chosen': [USER, says('Hello')], 'rejected': [USER, says('No')]},
      {'id': 'e', 'messages': [USER], 'chosen': 'Hello', 'rejected': 'No', 'tools': None},
  ))  # fmt: skip
  assert not found.drops and len(found.pairs) == 5
  assert len({(pair.prompt, pair.chosen, pair.rejected) for pair in found.pairs}) == 1
  assert [found.rules[pair.id] for pair in found.pairs] == ['greeting', '', 'greeting', '', '']


def test_lines_that_cannot_be_used_are_named_and_counted(tmp_path):
  says = lambda text: {'role': 'assistant', 'content': text}
  late = Preference('late', (USER, {'role': 'system', 'content': 'x'}), 'a', 'b')
  found = load(write(
      tmp_path / 'a.jsonl', GOOD, GOOD, Preference('same', (USER,), 'a', 'a'),
      Preference('long', (USER,), 'ab ' * 400, 'b'), late,
      '{', '[]', {'chosen': 'a', 'rejected': 'b'}, {'prompt': 'Hi', 'chosen': 'a'},
      {'prompt': 'Hi', 'chosen': '', 'rejected': 'b'}, {'prompt': 'Hi', 'chosen': 3, 'rejected': 'b'},
      {'chosen': [USER, says('a')], 'rejected': [says('b')]}, {'chosen': [USER], 'rejected': [USER]},
      {'chosen': [3], 'rejected': [3]}, {'messages': 'Hi', 'chosen': 'a', 'rejected': 'b'},
      {'kind': 'file', 'messages': [USER], 'chosen': 'a', 'rejected': 'b'},
  ))  # fmt: skip
  assert [pair.id for pair in found.pairs] == ['a']
  assert found.dropped == {
      'line: not JSON': 1, 'line: not a JSON object': 1, 'pair: duplicate id': 1, 'pair: equal answers': 1,
      'pair: malformed': 9, 'pair: malformed messages': 1, 'pair: too long': 1,
  }  # fmt: skip


def test_files_without_a_pair_are_refused(tmp_path):
  with pytest.raises(UserError, match=r'no pair can be used \(line: not JSON: 1\); fix the files'):
    load(write(tmp_path / 'a.jsonl', '{'))
  with pytest.raises(UserError, match='the files are empty'):
    load(write(tmp_path / 'a.jsonl'))


def test_twins_of_a_rule_differ_in_the_request_alone_and_prefer_opposite_answers(tmp_path):
  pairs = tiny.pairs(0, 'train', 60)
  for forbidden, allowed in zip(pairs[::2], pairs[1::2]):
    assert forbidden.messages[0] == allowed.messages[0] and forbidden.messages[1] != allowed.messages[1]
    assert forbidden.chosen == allowed.rejected and forbidden.rejected != allowed.rejected
    rule = forbidden.rule.removesuffix(': refuse')
    assert (forbidden.rule, allowed.rule) == (f'{rule}: refuse', f'{rule}: answer')
  counts = collections.Counter(pair.rule for pair in pairs)
  assert set(counts.values()) == {10} and len(counts) == 2 * len(tiny.RULES)
  assert len(load(write(tmp_path / 'a.jsonl', *pairs), context=2000).pairs) == 60


def test_training_and_held_out_pairs_share_no_situation():
  train, held_out = (tiny.pairs(seed, split, 600) for seed, split in ((0, 'train'), (1, 'held_out')))
  for rule in tiny.RULES:
    prompts = [{texts(pair)[2:] for pair in pairs if pair.rule.startswith(rule)} for pairs in (train, held_out)]
    assert len(prompts[0]) == len(prompts[1]) == 200 and not prompts[0] & prompts[1]
  assert tiny.pairs(0, 'train', 600) == train


def test_prompts_with_instructions_can_be_scored_and_are_held_out_by_request():
  sets = {split: tiny_instructions.prompts(0, split, 200) for split in tiny_instructions.SPLITS}
  requests = {split: {one['messages'][0]['content'].split('\n')[0] for one in lines} for split, lines in sets.items()}
  assert not requests['rl'] & requests['held_out'] and sets['rl'] == tiny_instructions.prompts(0, 'rl', 200)
  for one in json.loads(json.dumps(sets['rl'])):
    assert rewards.problem_of(Prompt(one['id'], tuple(one['messages']), checks=tuple(one['checks']))) == ''
    assert one['messages'][0]['content'].endswith(instructions.rendered(one['checks']))
  assert len({one['id'] for one in sets['rl']}) == 200
  assert {check['check'] for one in sets['rl'] for check in one['checks']} == set(tiny_instructions.KINDS)
