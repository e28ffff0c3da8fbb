"""The browser of answers shows what was asked, thought, answered, tested and rewarded, and never too much of it."""

import json

import pytest

from iquest_jax.report import page, samples
from iquest_jax.report.samples import Said
from iquest_jax.rl.store import Store
from iquest_jax.rl.types import Group, Prompt, Trajectory, Turn

from tests.report.small_chain import Page, answer, group, lines, results


def rollouts(found, stage='rl_thinking'):
  return [sample for sample in samples.of_stage(found.files, found.get(stage)) if sample.origin == 'roll-out']


def test_roll_outs_are_shown_by_falling_reward(read, files):
  found = rollouts(read(files))
  assert [(one.problem, one.score) for one in found] == [
      ('easy', 1.0), ('easy', 0.5), ('easy', 0.25), ('hard', 0.0), ('hard', 0.0),
  ]  # fmt: skip
  first = found[0]
  assert list(first.prompt) == [Said('user', 'Task easy')]
  assert list(first.answer) == [Said('thinking', 'Let me think.'), Said('assistant', 'return x')]
  assert first.tests == ['failed: f(3): 4 is not 5', '7 of 20 tests passed', 'memorised: 2', 'hidden test: [3] → 5']
  assert (first.tokens, first.end, first.rewards, first.solved) == (3, 'stop', {'pass_rate': 1.0}, False)


def test_the_store_of_roll_outs_is_read_as_it_is_written(read, files, tmp_path):
  read(files)
  decode = lambda ids: ' '.join(f'<{token}>' for token in ids)
  turns = (Turn((1, 2), (-0.5, -0.25), observation=(8, 9)), Turn((3, 4, 5), (-0.5, -0.25, -1.0)))
  message = {'role': 'user', 'content': 'How much is 2 + 2?'}
  trajectory = Trajectory(
      'sum', 1, 7, (6, 6), turns, 'stop', '<think>\nTool says 4.\n</think>\n4', {'format': 1.0}, 0.75
  )
  rollouts_dir = tmp_path / 'run' / 'rl_thinking' / 'rollouts'
  for part in (0, 1):
    Store(rollouts_dir, decode, 'm', part).append(7, part, Group(Prompt('sum', (message,)), (trajectory,)))
  found = [sample for sample in rollouts(read({})) if sample.problem == 'sum']
  assert len(found) == 2 and found[0] == found[1]  # of both processes
  assert list(found[0].prompt) == [Said('user', 'How much is 2 + 2?')]
  assert list(found[0].answer) == [
      Said('assistant', '<1>'), Said('tool', '<8> <9>'), Said('thinking', 'Tool says 4.'), Said('assistant', '4'),
  ]  # fmt: skip
  assert (found[0].step, found[0].number, found[0].score, found[0].rewards, found[0].tokens) == (
      7,
      1,
      0.75,
      {'format': 1.0},
      5,
  )


def test_a_line_that_is_being_written_is_left_out(read, files):
  files['rl_thinking/rollouts/0.jsonl'] += json.dumps(group('cut', [1.0]))
  found = read(files)
  assert 'cut' not in {one.problem for one in rollouts(found)} and found.files.problems == []


def test_tool_calls_are_shown_as_calls(read, files):
  changed = group('tools', [1.0])
  changed['trajectories'][0]['steps'][1]['tool_calls'] = [{'function_name': 'add', 'arguments': {'a': 1, 'b': 'x'}}]
  found = rollouts(read(files | {'rl_thinking/rollouts/0.jsonl': lines([changed])}))
  assert found[0].answer[-1] == Said('call', "add(a=1, b='x')")


def test_a_long_run_is_shown_in_part_from_its_first_step_to_its_last(read, files):
  for step in range(25):
    files[f'rl_thinking/rollouts/{step}.jsonl'] = lines(
        group(f'{step}/{k}', [0.1 * n for n in range(10)], version=step) for k in range(9)
    )
  found = rollouts(read(files))
  assert len(found) == samples.STEPS * samples.GROUPS * samples.ANSWERS
  assert sorted({one.step for one in found}) == [0, 8, 16, 24]
  ends = [one.score for one in found if one.problem == '24/3']
  assert max(ends) == pytest.approx(0.9) and min(ends) == 0  # the best and the worst of a group are among them


def test_a_long_text_loses_its_middle():
  text = 'a' * samples.LONGEST + 'middle' + 'z' * samples.LONGEST
  shown = samples.clipped(text)
  assert shown.startswith('aaa') and shown.endswith('zzz') and 'middle' not in shown
  assert f'[... {samples.LONGEST + 6:,} characters left out ...]' in shown
  assert samples.clipped(text[: samples.LONGEST]) == text[: samples.LONGEST]


@pytest.mark.parametrize(
    ('text', 'thinking', 'said'),
    [
        ('<think>\nA\n</think>\nB', 'A', 'B'),
        ('B', '', 'B'),
        ('<think>\nnever closed', 'never closed', ''),
        ('<think>\n\n</think>\nB', '', 'B'),
        ('', '', ''),
    ],
)
def test_thinking_is_split_from_the_answer(text, thinking, said):
  found = {part.role: part.text for part in samples.split_thinking(text)}
  assert (found.get('thinking', ''), found.get('assistant', '')) == (thinking, said)


def test_answers_of_the_newest_evaluation_are_shown(read, files):
  asked = [answer('Old?', 'old', 'failed', 'f(1): wrong', 0.25)], [answer('New?', 'new', 'failed', 'f(2): wrong', 0.5)]
  for step, one in zip((5, 10), asked):
    files[f'pretrain/evaluation/{step}/small_programs/results.json'] = json.dumps(
        results('pretrain', step, 1.0, samples=one)
    )
  found = read(files)
  (shown,) = samples.of_stage(found.files, found.get('pretrain'))
  assert (shown.prompt[0].text, shown.score, shown.solved, shown.tests) == (
      'New?',
      0.5,
      False,
      ['failed: f(2): wrong', 'tests 0.5'],
  )


def test_a_conversation_is_shown_in_the_order_it_took_place(read, files):
  one = answer('First?', 'a')
  one['samples'][0]['messages'] = [
      {'role': 'assistant', 'content': '<think>\nhm\n</think>\na'}, {'role': 'user', 'content': 'Wrong.'},
      {'role': 'assistant', 'content': 'b'},
  ]  # fmt: skip
  files['pretrain/evaluation/5/aider/results.json'] = json.dumps(results('pretrain', 5, 1.0, samples=[one]))
  found = read(files)
  (shown,) = samples.of_stage(found.files, found.get('pretrain'))
  assert [(part.role, part.text) for part in shown.answer] == [
      ('thinking', 'hm'), ('assistant', 'a'), ('user', 'Wrong.'), ('assistant', 'b'),
  ]  # fmt: skip


def test_every_filter_hides_all_others_and_nothing_of_its_own(read, files):
  found = Page(page.page(read(files)))
  chosen = sorted(one for one in found.ids if one.startswith('from') and one != 'fromall')
  assert chosen == ['from0', 'from1'] and set(chosen) <= found.classes  # roll-outs, and a suite of the SFT stage
  for one in chosen:
    assert f'.browser:has(#{one}:checked) .sample:not(.{one}){{display:none}}' in found.rules
  for end, kind in (('end0', 'yes'), ('end1', 'no')):
    assert f'.browser:has(#{end}:checked) .sample:not(.{kind})' in found.rules and kind in found.classes
