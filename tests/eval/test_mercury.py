"""Mercury: correct programs score by their time among the references' times, wrong ones nothing."""

import json

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import mercury
from iquest_jax.eval.mercury import MERCURY, beyond
from iquest_jax.eval.suite import Outcome

from tests.eval.conftest import MALFORMED, graded, score, write_lines

FAST = 'class Solution:\n  def total(self, n: int) -> List[int]:\n    return [n * (n + 1) // 2]\n'
SLOW = FAST.replace('return', 'for _ in range(1_000_000): pass\n    return')
LISTS = """class Solution:
  def reverse(self, head: Optional[ListNode]) -> Optional[ListNode]:
    before = None
    while head: head.next, before, head = before, head, head.next
    return before
"""
CONVERT = 'def convert_offline(case):\n  inputs, expected = case\n  return inputs, expected\n'
EVALUATE = 'def evaluate_offline(inputs, outputs, expected):\n  return outputs == expected\n'
CONVERT_LISTS = """def convert_offline(case):
  def linked(values):
    return ListNode(values[0], linked(values[1:])) if values else None
  inputs, expected = case
  return (linked(inputs[0]),), expected
"""
EVALUATE_LISTS = """def evaluate_offline(inputs, outputs, expected):
  values = []
  while outputs is not None:
    values.append(outputs.val)
    outputs = outputs.next
  return values == expected
"""
TOTAL = {
    'slug_name': 'total', 'id': 1, 'difficulty': 'Easy', 'pretty_content': ['Sum of 1 to n.'], 'entry_point': 'total',
    'prompt': 'class Solution:\n  def total(self, n: int) -> List[int]:\n', 'generator_code': '', 'convert_online': '',
    'solutions': [{'runtime': '1ms', 'solution': FAST}, {'runtime': '9ms', 'solution': SLOW}, {'solution': 'x'}],
    'convert_offline': CONVERT, 'evaluate_offline': EVALUATE,
    'test_cases': json.dumps([{'input': [3], 'expected': [6]}, {'input': [4], 'expected': [10]}]),
}  # fmt: skip
REVERSE = TOTAL | {
    'slug_name': 'reverse', 'entry_point': 'reverse', 'convert_offline': CONVERT_LISTS, 'evaluate_offline': EVALUATE_LISTS,
    'test_cases': json.dumps([{'input': [[1, 2, 3]], 'expected': [3, 2, 1]}]),
    'solutions': [{'solution': LISTS}, {'solution': LISTS.replace('before =', 'before = [0] * 10_000_000 and', 1)}],
}  # fmt: skip


@pytest.fixture
def problems(tmp_path):
  write_lines(tmp_path / 'another/eval.jsonl', {'not': 'ours'})
  write_lines(tmp_path / 'mercury/eval.jsonl', TOTAL, REVERSE)
  return MERCURY.problems(tmp_path)


def fenced(code):
  return f'Fast:\n```python\n{code}\n```\n'


@pytest.mark.parametrize(('seconds', 'share'), [(0.5, 1), (1, 1), (2, 2 / 3), (4, 0), (9, 0)])
def test_beyond_is_the_clipped_place_among_the_references(seconds, share):
  assert beyond(seconds, 1, 4) == pytest.approx(share)


def test_beyond_is_the_mean_over_samples_and_tasks_and_failures_count_as_zero():
  fast, failed = Outcome('passed', figures={'beyond': 0.5}), Outcome('timeout')
  assert MERCURY.score({}, {'a': [fast, fast], 'b': [fast, failed]}) == {'pass@1': 75, 'beyond': 37.5}


def test_the_statement_is_shown_and_no_solution(problems):
  prompt = MERCURY.prompt(problems[0])
  for text in (prompt.text, prompt.messages[0]['content']):
    assert 'Sum of 1 to n.' in text and 'def total' in text and 'n + 1' not in text


def test_fast_programs_score_above_slow_ones_and_wrong_ones_nothing(problems, pool):
  fast, slow = (score(MERCURY, problems[0], fenced(code), pool) for code in (FAST, SLOW))
  assert fast['pass@1'] == slow['pass@1'] == 100 and fast['beyond'] > slow['beyond']
  assert score(MERCURY, problems[0], fenced(FAST.replace('n + 1', 'n')), pool) == {'pass@1': 0, 'beyond': 0}


def test_a_continued_prompt_is_graded_with_the_prompt(problems, pool):
  extracted = MERCURY.continued(problems[0], '    return [sum(range(n + 1))]\n')
  assert MERCURY.grade(problems[0], extracted, pool).status == 'passed'


def test_lists_and_trees_of_nodes_are_built_on_the_side_of_the_program(problems, pool):
  assert graded(MERCURY, problems[1], fenced(LISTS), pool).status == 'passed'
  assert graded(MERCURY, problems[1], fenced(LISTS.replace('return before', 'return head')), pool).status == 'failed'


def test_references_are_measured_once(problems, pool, monkeypatch):
  runs = []
  run = lambda problem, solution, pool: runs.append(solution) or mercury.Verdict('passed', seconds=len(runs))
  monkeypatch.setattr(mercury, '_run', run)
  suite = mercury.Mercury()
  assert suite.grade(problems[0], 'x', pool).figures == {'beyond': 0}
  assert suite.grade(problems[0], 'x', pool).seconds == 8 and len(runs) == 3 + 3 + 3


@pytest.mark.parametrize(
    'answer', [*MALFORMED, *map(fenced, MALFORMED), fenced('class Solution: pass'), fenced('exit()')]
)
def test_malformed_answers_score_zero(problems, pool, answer):
  assert score(MERCURY, problems[0], answer, pool) == {'pass@1': 0, 'beyond': 0}


def test_a_megabyte_is_graded(problems, pool):
  assert graded(MERCURY, problems[0], fenced('#' * 1_000_000), pool).status == 'failed'


def test_a_task_whose_references_do_not_run_here_is_missing(tmp_path, pool):
  needs = 'import lctk\n' + FAST
  write_lines(
      tmp_path / 'eval.jsonl', TOTAL | {'slug_name': 'x', 'solutions': [{'solution': needs}, {'solution': needs}]}
  )
  assert graded(MERCURY, MERCURY.problems(tmp_path)[0], fenced(FAST), pool).status == 'missing'


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'solutions': ['x']}, 'total: every one of "solutions" must have "solution"'),
        ({'test_cases': 'x'}, 'total: test_cases must be JSON with input and expected'),
        ({'test_cases': '[{"input": 1}]'}, 'total: test_cases must be JSON with input and expected'),
        ({'convert_offline': None}, 'field "convert_offline" must be a string'),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path, changes, said):
  write_lines(tmp_path / 'eval.jsonl', TOTAL | changes)
  with pytest.raises(UserError, match=said):
    MERCURY.problems(tmp_path)
