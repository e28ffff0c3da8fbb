"""Problem sets: hidden tests stay hidden, reference solutions pass, and whatever cannot be used is named and counted."""

import ast
import dataclasses
import json

import pytest

from iquest_jax.data.documents import Drop, Problem, to_json
from iquest_jax.data.synthesis import execution
from iquest_jax.data.tiny import programs
from iquest_jax.errors import UserError
from iquest_jax.rl import problems
from iquest_jax.rl.problems import of_problem
from iquest_jax.rl.tools import executed
from iquest_jax.text import chat, example
from iquest_jax.text.tokenizer import SMALLEST, Tokenizer

TOKENIZER = Tokenizer.train(['f(3) == 6\nWrite a Python function f(x) that returns twice x.\n'] * 3, SMALLEST + 32)
SMALL = programs.problems(0, 'rl', 30)


def calls(*pairs):
  return tuple({'input': json.dumps(list(given)), 'output': json.dumps(result)} for *given, result in pairs)


ADD = Problem(
    'add', 'add(1, 2) == 3\nAdd two numbers: add(a, b).', calls((1, 2, 3), (4, 5, 9), (6, 7, 13)),
    'def add(a, b):\n  return a + b\n', 'add', difficulty='easy',
)  # fmt: skip
ECHO = Problem(
    'sum', 'Print the sum of the numbers.', ({'input': '20 22\n', 'output': '42\n'}, {'input': '1 1', 'output': '2'}),
    'print(sum(map(int, input().split())))',
)  # fmt: skip


def write(path, *records):
  line = lambda one: to_json(one) if isinstance(one, Problem) else one if isinstance(one, str) else json.dumps(one)
  path.write_text(''.join(line(one) + '\n' for one in records))
  return path


def load(path, pool, **how):
  how = {'max_prompt_tokens': 200, **how}
  paths = path if isinstance(path, list) else [path]
  return problems.load(paths, TOKENIZER, pool, paths[0].with_suffix('.executed'), **how)


def pairs(prompt):
  return [(test['input'], test['output']) for test in prompt.problem.tests]


def test_small_programs_become_prompts_whose_solutions_pass(tmp_path, pool):
  path = write(tmp_path / 'rl.jsonl', *[dataclasses.asdict(one) for one in SMALL])
  found = load(path, pool)
  assert not found.drops and found.without_solution == 0
  assert [prompt.id for prompt in found.prompts] == [one.id for one in SMALL]
  assert [prompt.messages for prompt in found.prompts] == [({'role': 'user', 'content': one.request},) for one in SMALL]
  names = {1: 'easy', 2: 'medium', 3: 'hard'}
  assert [prompt.difficulty for prompt in found.prompts] == [names[one.level] for one in SMALL]
  assert found.prompts[0].problem.function == 'f'


def test_no_hidden_test_stands_in_the_text_or_the_ids_of_a_prompt():
  """Where the examples are among the tests, as in competitive problems."""
  small = [one for one in programs.problems(1, 'rl', 200) if one.level > 1]
  for one in small:
    shown = [ast.literal_eval(f'({line[2:].replace(") == ", ",")})') for line in one.request.splitlines()[:-1]]
    problem = Problem(one.id, one.request, calls(*one.tests[:3], *shown, *one.tests[3:]), function='f')
    prompt = of_problem(problem)
    text, ids = prompt.messages[0]['content'], example.build(TOKENIZER, chat.prompt(prompt.messages)).tokens.tolist()
    written = lambda given, result: f'f({given!r}) == {result!r}'
    assert all(written(*pair) in text for pair in shown)
    for given, result in pairs(prompt):
      (given,), result = json.loads(given), json.loads(result)
      assert written(given, result) not in text
      encoded = TOKENIZER.encode(written(given, result))
      assert all(ids[at : at + len(encoded)] != encoded for at in range(len(ids)))
    assert len(prompt.problem.tests) <= len(one.tests)


def test_tests_that_the_statement_shows_are_not_scored():
  assert pairs(of_problem(ADD)) == [('[4, 5]', '9'), ('[6, 7]', '13')]
  sample = dataclasses.replace(ECHO, statement='Print the sum.\nInput:\n1 1\nOutput:\n2', tests=(*ECHO.tests, *ECHO.tests))
  sample = dataclasses.replace(sample, tests=(*sample.tests, {'input': '3 4', 'output': '7'}))
  assert pairs(of_problem(sample)) == [('20 22\n', '42\n'), ('3 4', '7')]


def test_the_name_of_a_function_is_asked_for_where_the_statement_lacks_it():
  prompt = of_problem(dataclasses.replace(ADD, statement='Sum both.'))
  assert prompt.messages[0]['content'] == 'Sum both.\n\nWrite a function `add`.'
  assert of_problem(ADD).messages[0]['content'] == ADD.statement


def test_at_most_so_many_tests_are_chosen_whatever_their_order():
  tests = calls(*((n, n + 100, 2 * n + 100) for n in range(50)))
  many = dataclasses.replace(ADD, tests=tests)
  chosen = pairs(of_problem(many))
  assert len(chosen) == 20 and chosen != [(test['input'], test['output']) for test in tests[:20]]
  assert set(pairs(of_problem(dataclasses.replace(many, tests=tests[::-1])))) == set(chosen)
  assert set(pairs(of_problem(many, 5))) < set(chosen)
  assert set(pairs(of_problem(dataclasses.replace(many, id='other')))) != set(chosen)


def test_official_forms_of_competitive_problems_are_read_and_executed(tmp_path, pool):
  functional = {
      'problem_id': 7, 'question': 'Double it: twice(x).', 'solutions': json.dumps(['def twice(x): return 2 * x']),
      'input_output': json.dumps({'fn_name': 'twice', 'inputs': [[3], [4]], 'outputs': [6, 8]}),
  }  # fmt: skip
  stdin = {
      'name': 'sum', 'description': 'Print the sum.', 'public_tests': {'input': ['20 22'], 'output': ['42']},
      'private_tests': {'input': ['1 1'], 'output': ['2']},
      'solutions': {'language': [3], 'solution': [ECHO.solution]},
  }  # fmt: skip
  cases = [{'input': given, 'output': printed, 'testtype': 'stdin'} for given, printed in (('31', '62'), ('4', '8'))]
  unconfirmed = {'question_id': 'lcb', 'question_content': 'Print twice the number.', 'metadata': '{}'}
  unconfirmed['public_test_cases'] = json.dumps(cases)
  found = load(write(tmp_path / 'x.jsonl', functional, stdin, unconfirmed), pool)
  assert not found.drops and found.without_solution == 1
  assert [(one.id, one.problem.function, pairs(one)) for one in found.prompts] == [
      ('7', 'twice', [('[3]', '6'), ('[4]', '8')]),
      ('sum', '', [('20 22', '42'), ('1 1', '2')]),
      ('lcb', '', [('31', '62'), ('4', '8')]),
  ]


def test_named_tools_are_executed_and_defined_ones_are_not(tmp_path, pool):
  asked, checks = [{'role': 'user', 'content': 'What is 2 + 3?'}], [{'check': 'tool_calls', 'calls': []}]
  record = lambda id, *tools: {'id': id, 'messages': asked, 'checks': checks, 'tools': list(tools)}
  known = executed(pool)
  (defined,) = [known['calculator'].definition]
  path = write(
      tmp_path / 'x.jsonl', record('both', 'python', 'calculator'), record('defined', defined), record('other', 'shell'),
      record('mixed', 'calculator', defined),
  )  # fmt: skip
  found = load(path, pool, max_prompt_tokens=900)
  assert {prompt.id: prompt.executes for prompt in found.prompts} == {'both': ('python', 'calculator'), 'defined': ()}
  assert found.prompts[0].tools == (known['python'].definition, defined) and found.prompts[1].tools == (defined,)
  other, mixed = (drop.evidence for drop in found.drops)
  assert other.endswith('"tools" must be definitions, or names of calculator, python, got "shell"')
  assert 'got {"type": "function", ' in mixed


def test_what_cannot_be_used_is_named_and_counted(tmp_path, pool):
  asked = ({'role': 'user', 'content': 'In five words.'},)
  kept = {'id': 'words', 'messages': asked, 'checks': [{'check': 'most_words', 'count': 5}]}
  path = write(
      tmp_path / 'x.jsonl',
      ADD,
      '{"cut',
      {'id': 'none', 'statement': 'Nothing to test.'},
      {'id': 'shown', 'statement': 'g(1) == 2, g(3) == 4', 'function': 'g', 'tests': calls((1, 2), (3, 4))},
      {'id': 'malformed', 'statement': 'Call g.', 'function': 'g', 'tests': [{'input': '1', 'output': '2'}]},
      dataclasses.replace(ADD, id='constant', tests=calls((4, 5, 9), (5, 4, 9))),
      dataclasses.replace(ADD, id='wrong', tests=calls((4, 5, 9), (6, 7, 14))),
      dataclasses.replace(ADD, id='broken', solution='def add(a, b): import sys; sys.exit(0)'),
      dataclasses.replace(ADD, id='long', statement='Add. ' * 300),
      dataclasses.replace(ECHO, id='add'),
      {**dataclasses.asdict(SMALL[0]), 'level': 9},
      {**kept, 'id': 'unscored', 'checks': []},
      {**kept, 'id': 'misspelt', 'checks': [{'check': 'most_word', 'count': 5}]},
      {**kept, 'messages': [{'role': 'nobody', 'content': ''}]},
      kept,
  )
  found = load(path, pool)
  assert [prompt.id for prompt in found.prompts] == ['add', 'words']
  assert found.prompts[1].checks == ({'check': 'most_words', 'count': 5},) and found.prompts[1].messages == asked
  assert found.dropped == {
      'line: not JSON': 1,
      'problem: duplicate id': 1,
      'problem: hidden tests pass on anything': 1,
      'problem: malformed small program': 1,
      'problem: no hidden test': 1,
      'problem: no tests': 1,
      'problem: prompt too long': 1,
      'problem: the reference solution does not run': 1,
      'problem: the reference solution fails a test': 1,
      'prompt: checks that cannot be made': 1,
      'prompt: malformed': 1,
      'prompt: nothing to score it by': 1,
      'verify: malformed test': 1,
  }
  evidence = {drop.rule: drop.evidence for drop in found.drops}
  assert evidence['problem: the reference solution fails a test'].startswith('wrong: wrong answer: ')
  assert '14' in evidence['problem: the reference solution fails a test']
  assert evidence['problem: duplicate id'].endswith('x.jsonl:10: add')


def test_a_solution_is_executed_once_and_again_only_if_anything_of_it_changes(tmp_path, pool, monkeypatch):
  wrong = dataclasses.replace(ADD, id='wrong', tests=calls((4, 5, 9), (6, 7, 14)))
  runs, rejects = [], execution.rejects
  monkeypatch.setattr(problems.execution, 'rejects', lambda *args: (runs.append(args[1]), rejects(*args))[1])
  path = write(tmp_path / 'x.jsonl', ADD, wrong)
  first = load(path, pool)
  assert len(runs) == 2 and load(path, pool) == first and len(runs) == 2
  remembered = path.with_suffix('.executed')
  remembered.write_bytes(remembered.read_bytes() + b'{"key": "cut o')
  assert load(path, pool) == first and len(runs) == 2
  load(write(path, dataclasses.replace(ADD, tests=ADD.tests[:2] + calls((1, 1, 2))), wrong), pool)
  assert len(runs) == 3 and b'cut o' not in remembered.read_bytes()
  remembered.write_bytes(b'{}\n' + remembered.read_bytes())
  with pytest.raises(UserError, match='line 1 is damaged; delete it to have its problem executed again'):
    load(path, pool)


def test_a_solution_that_is_stopped_by_a_limit_is_tried_again(tmp_path, monkeypatch):
  results = [Drop('verify: timeout', 'more than 10 s'), None, *[Drop('verify: crashed', 'by signal 9')] * 2]
  monkeypatch.setattr(problems.execution, 'rejects', lambda *_: results.pop(0))
  assert len(load(write(tmp_path / 'x.jsonl', ADD), None).prompts) == 1
  with pytest.raises(UserError, match=r'no problem can be used \(problem: the reference solution does not run: 1\); fix'):
    load(write(tmp_path / 'y.jsonl', ADD), None)
  assert not results


@pytest.mark.parametrize('lines', [(), ('{}', '[]')])
def test_a_set_of_which_nothing_remains_is_refused(tmp_path, lines):
  with pytest.raises(UserError, match=r'x.jsonl: no problem can be used \((the files are empty|line.*: 1)'):
    load(write(tmp_path / 'x.jsonl', *lines), None)
  with pytest.raises(UserError, match='missing'):
    load(tmp_path / 'missing.jsonl', None)
