"""BFCL over several turns: the state of the services must be gold's after every turn, whatever the model writes."""

import importlib.util
import pathlib

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import bfcl_multi_turn
from iquest_jax.eval import run as runs
from iquest_jax.eval.bfcl_multi_turn import BASE, LONG_CONTEXT, MISS_FUNC, MISS_PARAM
from iquest_jax.sandbox.limits import Limits

from tests.eval.conftest import MALFORMED, graded, score, write_lines
from tests.eval.scripted import Scripted

# A service in the package's form and place, with its names.
SERVICE = """
class GorillaFileSystem:
  def __init__(self):
    self.files, self._read = {}, 0

  def _load_scenario(self, scenario, long_context=False):
    self.files = scenario['files']

  def touch(self, name: str):
    self.files[name] = ''

  def write(self, name: str, text: str = ''):
    self.files[name] = text
    return {'written': len(text)}

  def size(self, name: str):
    self._read += 1
    return {'size': len(self.files[name])}

  def wait(self):
    while True: pass
"""
TEXT = {'type': 'string'}
FUNCTIONS = [
    {
        'name': name,
        'description': name,
        'parameters': {'type': 'dict', 'properties': dict.fromkeys(keys, TEXT), 'required': []},
    }
    for name, keys in (('touch', ['name']), ('write', ['name', 'text']), ('size', ['name']), ('wait', []))
]
GOLD = [["touch('a')", "write(name='a', text='xyz')"], [], ["size(name='a')"]]
SAID = ['Make file a with xyz.', 'Do something impossible.', 'How large is it?']
RIGHT = ['[touch(name="a"), write(name="a", text="xyz")]', 'Done.', 'Impossible.', 'size("a")', 'It has 3 bytes.']


def files_of(folder, category='base', gold=tuple(GOLD), classes=('GorillaFileSystem',), **fields):
  turns = [[{'role': 'user', 'content': text}] for text in SAID]
  record = {'id': f'multi_turn_{category}_0', 'question': turns, 'involved_classes': list(classes), 'path': []}
  record |= {'initial_config': {'GorillaFileSystem': {'files': {'old': '12'}}}} | fields
  write_lines(folder / f'data/BFCL_v4_multi_turn_{category}.json', record)
  write_lines(
      folder / f'data/possible_answer/BFCL_v4_multi_turn_{category}.json',
      {'id': record['id'], 'ground_truth': list(gold)},
  )
  write_lines(folder / 'data/multi_turn_func_doc/gorilla_file_system.json', *FUNCTIONS)
  write_lines(folder / 'data/multi_turn_func_doc/math_api.json', FUNCTIONS[0])
  code = folder / 'eval_checker/multi_turn_eval/func_source_code/gorilla_file_system.py'
  code.parent.mkdir(parents=True, exist_ok=True)
  code.write_text(SERVICE)
  return folder


@pytest.fixture
def problem(tmp_path):
  return BASE.problems(files_of(tmp_path))[0]


def talked(suite, problem, answers, pool):
  """The messages of a conversation in which the model gives these answers."""
  messages = list(suite.prompt(problem).messages)
  for answer in answers:
    messages += [{'role': 'assistant', 'content': answer}]
    messages += suite.follow_up(problem, messages, pool)
  return messages


def test_gold_calls_score_full_in_any_order_and_number_of_steps(problem, pool):
  assert score(BASE, problem, RIGHT, pool) == {'pass@1': 100}
  call = '<tool_call>{"name": "write", "arguments": {"name": "a", "text": "xyz"}}</tool_call>'
  assert score(BASE, problem, ['[size(name="old")]', 'touch("a")', call, *RIGHT[1:]], pool) == {'pass@1': 100}


@pytest.mark.parametrize(
    ('answers', 'reason'),
    [
        (['write(name="a", text="xy")', *RIGHT[1:]], 'turn 1: GorillaFileSystem.files differs'),
        ([RIGHT[0], 'write(name="b")', *RIGHT[1:]], 'turn 1: GorillaFileSystem.files differs'),
        ([RIGHT[0], 'Done.', 'write(name="b")', *RIGHT[2:]], 'turn 3: GorillaFileSystem.files differs'),
        (['write(name="a", text="xyz")', *RIGHT[1:]], 'turn 1: no call gave None'),
        ([*RIGHT[:3], 'size(name="old")', 'It has 3 bytes.'], 'turn 3: no call gave {"size": 3}'),
        (['I will not.', *RIGHT[2:]], 'turn 1: no call'),
        (RIGHT[:3], 'ended after 2 of 3 turns'),
        (['size(name="old")'] * 21, 'more than 20 answers in a turn'),
        (
            ['__init__()', '_load_scenario({"files": {"old": "12", "a": "xyz"}})', *RIGHT[1:]],
            'turn 1: GorillaFileSystem.files differs',
        ),
        (['__import__("os").system("touch a")', 'eval("1")', 'files.update(a="xyz")', *RIGHT[1:]], 'turn 1: Gorilla'),
        *(([answer], 'turn 1: no call') for answer in MALFORMED),
    ],
)
def test_wrong_and_malformed_answers_score_zero(problem, pool, answers, reason):
  outcome = graded(BASE, problem, answers, pool)
  assert outcome.status == 'failed' and outcome.reason.startswith(reason)


def test_a_result_that_is_wanted_twice_must_come_twice(tmp_path, pool):
  (problem,) = BASE.problems(files_of(tmp_path, gold=[["touch('a')", "touch('b')"], [], []]))
  assert graded(BASE, problem, ['[touch("b"), touch("a")]', 'Done.', 'Done.', 'Done.'], pool).status == 'passed'
  answers = ['write("a", "")', 'write("b", "")', 'touch("a")', 'Done.', 'Done.', 'Done.']
  assert graded(BASE, problem, answers, pool).reason == 'turn 1: no call gave None'


def test_the_model_sees_results_and_then_the_next_turn(problem, pool):
  messages = talked(BASE, problem, RIGHT, pool)
  said = [(message['role'], message['content']) for message in messages if message['role'] != 'assistant']
  results = [('tool', 'None'), ('tool', '{"written": 3}')]
  assert said == [('user', SAID[0]), *results, ('user', SAID[1]), ('user', SAID[2]), ('tool', '{"size": 3}')]
  messages = talked(BASE, problem, ['size(name="none")', 'missing(name="a")'], pool)
  assert [message['content'] for message in messages if message['role'] == 'tool'] == [
      "Error during execution: 'none'",
      "Error during execution: name 'missing' is not defined",
  ]
  again = {'role': 'assistant', 'content': 'size(name="old")'}
  assert talked(BASE, problem, [again['content']] * 20, pool)[-1]['role'] == 'tool'
  assert BASE.follow_up(problem, [again] * 21, pool) == []


def test_a_run_holds_the_whole_conversation(problem, pool, tmp_path):
  said = lambda asked: RIGHT[sum(message['role'] == 'assistant' for message in asked.prompt.messages)]
  results = runs.run(BASE, [problem], runs.Plan.of(BASE, True), Scripted(said), tmp_path / 'run', pool)
  assert results['figures'] == {'pass@1': 100}
  (sample,) = results['results'][problem.id]['samples']
  roles = [message['role'] for message in sample['messages']]
  assert sample['answers'] == RIGHT and roles.count('tool') == 3 and roles.count('user') == 2


def test_functions_that_come_later_are_told_with_their_turn(tmp_path):
  (problem,) = MISS_FUNC.problems(files_of(tmp_path, 'miss_func', missed_function={'1': ['size', 'wait']}))
  prompt = MISS_FUNC.prompt(problem)
  assert [tool['name'] for tool in prompt.tools] == ['touch', 'write']
  answered = [*prompt.messages, {'role': 'assistant', 'content': 'I cannot.'}]
  told = MISS_FUNC.follow_up(problem, answered, None)
  assert '"name": "size"' in told[0]['content'] and told[1]['content'] == SAID[1]


def test_a_call_that_never_ends_times_out(problem, pool, monkeypatch):
  monkeypatch.setattr(bfcl_multi_turn, '_LIMITS', Limits(wall_s=1))
  assert graded(BASE, problem, ['wait()'], pool).status == 'timeout'
  assert BASE.follow_up(problem, [{'role': 'assistant', 'content': 'wait()'}], pool) == []


def test_a_megabyte_is_graded(problem, pool):
  calls = '<tool_call>{"name": "write", "arguments": {"name": "a", "text": "' + 'x' * 1_000_000 + '"}}</tool_call>'
  assert graded(BASE, problem, [calls, 'Done.'], pool).status == 'failed'


def test_a_problem_whose_library_is_not_installed_is_missing(tmp_path, monkeypatch):
  monkeypatch.setattr(bfcl_multi_turn, '_mpmath', dict)
  (problem,) = BASE.problems(files_of(tmp_path, classes=['MathAPI']))
  assert graded(BASE, problem, RIGHT).status == 'missing'


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        ({'gold': [['x = 1']]}, 'the answer must be calls with literals, got x = 1'),
        ({'classes': ['Gorilla']}, 'class Gorilla is unknown'),
        ({'initial_config': []}, 'field "initial_config" must be an object'),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path, fields, said):
  with pytest.raises(UserError, match=said):
    BASE.problems(files_of(tmp_path, **fields))


@pytest.mark.parametrize('suite', [BASE, MISS_FUNC, MISS_PARAM, LONG_CONTEXT], ids=lambda suite: suite.name)
def test_gold_scores_full_on_published_problems(suite, pool):
  found = importlib.util.find_spec('bfcl_eval')
  if not found:
    pytest.skip('bfcl-eval is not installed (pip install --no-deps bfcl-eval)')
  problems = suite.problems(pathlib.Path(found.submodule_search_locations[0]))
  assert len(problems) == 200
  for problem in problems[::100]:
    answers = []
    for turn in problem.fields['ground_truth']:
      positional = [call['positional'] for call in turn]
      parts = [
          [*map(repr, args), *(f'{key}={value!r}' for key, value in call['arguments'].items())]
          for args, call in zip(positional, turn)
      ]
      calls = [f'{call["name"]}({", ".join(part)})' for call, part in zip(turn, parts)]
      answers += [f'[{", ".join(calls)}]', 'Done.'] if calls else ['Done.']
    assert graded(suite, problem, answers, pool).status in ('passed', 'missing')
    assert graded(suite, problem, '', pool).status in ('failed', 'missing')
