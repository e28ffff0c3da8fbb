"""BFCL in one turn: gold scores full on the published categories, and every verdict is the package's own."""

import importlib
import importlib.util
import json
import pathlib
import random
import sys
import types

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import bfcl, bfcl_values
from iquest_jax.eval.bfcl import SUITES

from tests.eval.conftest import MALFORMED, graded, score, write_lines

FUNCTION = {
    'name': 'geo.distance',
    'description': 'Distance of two places.',
    'parameters': {
        'type': 'dict',
        'properties': {
            'places': {'type': 'array', 'items': {'type': 'string'}},
            'digits': {'type': 'integer'},
            'scale': {'type': 'float'},
            'options': {'type': 'dict'},
            'origin': {'type': 'dict'},
            'stops': {'type': 'array', 'items': {'type': 'string'}},
            'format': {'type': 'string'},
        },
        'required': ['places'],
    },
}
ALLOWED = {
    'places': [['New York', 'Bern']],
    'digits': [2, ''],
    'scale': [1.0, ''],
    'options': [{'unit': ['km'], 'p': [1, '']}, ''],
    'origin': ['start', ''],
    'stops': ['path', ''],
}
RIGHT = {'places': ['New York', 'bern'], 'digits': 2, 'scale': 1, 'options': {'unit': 'KM'}}


def folder_of(path, functions=(FUNCTION,), truths=({'geo.distance': ALLOWED},), category='simple_python'):
  question = [[{'role': 'user', 'content': 'How far is it?'}]]
  write_lines(path / f'BFCL_v4_{category}.json', {'id': 'x_0', 'question': question, 'function': list(functions)})
  write_lines(path / f'possible_answer/BFCL_v4_{category}.json', {'id': 'x_0', 'ground_truth': list(truths)})
  return path


def tool_call(arguments, name='geo.distance'):
  return f'<tool_call>\n{json.dumps({"name": name, "arguments": arguments})}\n</tool_call>'


@pytest.fixture
def problem(tmp_path):
  return SUITES['simple_python'].problems(folder_of(tmp_path))[0]


def test_tools_are_defined_with_the_types_of_json_schema(problem):
  prompt = SUITES['simple_python'].prompt(problem)
  properties = prompt.tools[0]['parameters']['properties']
  assert [properties[name]['type'] for name in ('places', 'digits', 'scale', 'options')] == [
      'array',
      'integer',
      'number',
      'object',
  ]
  assert prompt.messages == [{'role': 'user', 'content': 'How far is it?'}] and not prompt.text


@pytest.mark.parametrize(
    'answer',
    [
        tool_call(RIGHT),
        '<think>geo.distance(1)</think>Well:' + tool_call({'places': ['New-York', 'BERN'], 'origin': 'start'}),
        '<think>geo.distance(1)</think>geo.distance(places=["NewYork", "Bern"], digits=2)',
        '```python\n[geo.distance(places=("New York", "Bern"), origin=start, scale=-1.0 + 2)]\n```',
        '<tool_call><function=geo.distance><parameter=places>["New York", "Bern"]</parameter>'
        '<parameter=digits>2</parameter></function></tool_call>',
    ],
)
def test_a_right_call_scores_full_in_every_form(problem, answer):
  assert score(SUITES['simple_python'], problem, answer) == {'pass@1': 100}


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'places': None}, 'required parameter places is missing'),
        ({'places': ['Bern', 'New York']}, 'places is'),
        ({'places': 'Bern'}, 'places is'),
        ({'digits': 3}, 'digits is 3'),
        ({'digits': '2'}, "digits is '2'"),
        ({'digits': 2.0}, 'digits is 2.0'),
        ({'digits': True}, 'digits is True'),
        ({'scale': 1.5}, 'scale is 1.5'),
        ({'options': {'p': 1}}, 'options is'),
        ({'options': {'unit': 'km', 'q': 1}}, 'options is'),
        ({'origin': 'end'}, 'origin is'),
        ({'origin': {}}, 'origin is'),
        ({'stops': list('path')}, 'stops is'),
        ({'format': 'x'}, 'unexpected parameter format'),
        ({'extra': 1}, 'unexpected parameter extra'),
    ],
)
def test_a_wrong_call_scores_zero_and_names_its_fault(problem, change, reason):
  arguments = {name: value for name, value in (RIGHT | change).items() if value is not None}
  outcome = graded(SUITES['simple_python'], problem, tool_call(arguments))
  assert outcome.status == 'failed' and reason in outcome.reason


@pytest.mark.parametrize(
    'answer',
    [
        *MALFORMED,
        tool_call(RIGHT, 'geo'),
        tool_call(RIGHT) * 2,
        'geo.distance(["New York", "Bern"])',
        'geo.distance("", places=["New York", "Bern"])',
        '<tool_call>{"name": 1}</tool_call>',
        tool_call(RIGHT) + '<tool_call>',
        '[geo.distance(**x)]',
        '1',
        '[1]',
        '<tool_call>' + '[' * 100_000,
        'geo.distance(places=10**10)',
    ],
)
def test_malformed_answers_score_zero(problem, answer):
  assert score(SUITES['simple_python'], problem, answer) == {'pass@1': 0}


def test_a_call_may_be_nested_a_hundred_levels_deep_and_no_deeper():
  nested = lambda levels: tool_call({'a': json.loads('[' * levels + ']' * levels)})
  assert len(bfcl.calls_of(nested(90))) == 1 and bfcl.calls_of(nested(150)) == []


@pytest.mark.parametrize('category', ['simple_python', 'simple_java', 'simple_javascript', 'parallel'])
def test_no_answer_breaks_the_grading(tmp_path, category):
  kinds = {'simple_java': ('integer', 'Array', 'HashMap'), 'simple_javascript': ('integer', 'array', 'dict')}
  number, array, mapping = kinds.get(category, ('integer', 'array', 'dict'))
  properties = {'a': {'type': number}, 'b': {'type': array}, 'c': {'type': mapping}}
  function = {'name': 'f', 'parameters': {'type': 'dict', 'properties': properties, 'required': []}}
  truth = {'f': {'a': [1, ''], 'b': [[1], ''], 'c': [{'k': [1]}, '']}}
  (one,) = SUITES[category].problems(folder_of(tmp_path, [function], [truth], category))
  deep = '{"name": "f", "arguments": {"b": ' + '[' * 950 + ']' * 950 + '}}'
  texts = [
      '1' * 5000,
      '[' * 2000 + ']' * 2000,
      '[' * 500_000,
      '{a: ' * 2000 + '}' * 2000,
      'new X[]{' * 4000,
      '"',
      '[,',
      '{:}',
  ]
  texts += ['new HashMap<>() {{ put(1); put("a", ); put }}', '[' + '1,' * 200_000 + ']', 'new ArrayList<' * 2000]
  answers = [tool_call({name: text}, 'f') for text in texts for name in 'abc']
  answers += [f'<tool_call>{deep}</tool_call>', f'f(a={"9" * 4000} * {"9" * 4000})', f'f(a={"9" * 6000})', 'f(a=1/0)']
  answers += [
      tool_call({'b': [[1], None, {}]}, 'f'),
      tool_call({'c': {'k': {}}}, 'f'),
      tool_call({'a': None}, 'f'),
      'f(b={1})',
  ]
  for answer in answers:
    assert graded(SUITES[category], one, answer).status == 'failed', answer[:80]


def test_a_megabyte_is_graded(problem):
  for answer in (tool_call({'places': ['x' * 1_000_000]}), 'f(' * 500_000, tool_call(RIGHT) * 10_000):
    assert graded(SUITES['simple_python'], problem, answer).status == 'failed'


def test_parallel_calls_count_in_any_order_and_each_once(tmp_path):
  truths = [{'geo.distance': {'places': [[name]]}} for name in ('Rome', 'Bern')]
  (one,) = SUITES['parallel'].problems(folder_of(tmp_path, truths=truths, category='parallel'))
  rome, bern = tool_call({'places': ['Rome']}), tool_call({'places': ['Bern']})
  assert graded(SUITES['parallel'], one, bern + rome).status == 'passed'
  for answer in (rome, rome + rome, rome + bern + bern):
    assert graded(SUITES['parallel'], one, answer).status == 'failed'


@pytest.mark.parametrize(
    ('language', 'kind', 'item', 'text', 'value'),
    [
        ('java', 'integer', '', '-12', -12),
        ('java', 'long', '', '12L', 12),
        ('java', 'long', '', '12', '12'),
        ('java', 'float', '', '1.5e3f', 1500.0),
        ('java', 'float', '', '1.5', '1.5'),
        ('java', 'double', '', '1.5', 1.5),
        ('java', 'boolean', '', 'true', True),
        ('java', 'boolean', '', 'True', 'True'),
        ('java', 'String', '', '"a"', '"a"'),
        ('java', 'Array', 'String', 'new String[]{"a, b", c}', ['"a, b"', 'c']),
        ('java', 'Array', 'integer', 'new int[] { 1, 2 }', [1, 2]),
        ('java', 'Array', 'integer', 'numbers', 'numbers'),
        ('java', 'ArrayList', 'String', 'new ArrayList<>(Arrays.asList("a", "b"))', ['a', 'b']),
        ('java', 'ArrayList', 'long', 'new ArrayList<Long>() {{ add(1L); add(2L); }}', [1, 2]),
        ('java', 'ArrayList', '', 'new ArrayList<>()', []),
        (
            'java',
            'HashMap',
            '',
            'new HashMap<String, Object>() {{ put("k", 1); put("v", "x"); put("w", true); }}',
            {'k': 1, 'v': 'x', 'w': True},
        ),
        ('java', 'HashMap', '', 'new HashMap<>()', {}),
        ('java', 'HashMap', '', 'map', 'map'),
        ('javascript', 'integer', '', '3', 3),
        ('javascript', 'Bigint', '', '3n', 3),
        ('javascript', 'Bigint', '', '3', '3'),
        ('javascript', 'float', '', '3.5', 3.5),
        ('javascript', 'Boolean', '', 'false', False),
        ('javascript', 'String', '', "'a'", 'a'),
        ('javascript', 'String', '', 'a', 'a'),
        ('javascript', 'any', '', 'f(1)', 'f(1)'),
        ('javascript', 'array', 'integer', '[1, 2]', [1, 2]),
        ('javascript', 'array', 'String', '[\'a\', "b"]', ['a', 'b']),
        ('javascript', 'array', '', 'new Array(1, true, "x")', [1, True, 'x']),
        ('javascript', 'array', 'array', '[[1, 2], ["a"]]', [[1, 2], ['a']]),
        ('javascript', 'array', '', 'list', 'list'),
        ('javascript', 'dict', '', '{a: 1, "b": "x", c: [1, "y"]}', {'a': 1, 'b': 'x', 'c': [1, 'y']}),
        ('javascript', 'dict', '', '{}', {}),
        ('javascript', 'dict', '', "{a: '1', b: true, c: name}", {'a': 1, 'b': True, 'c': 'name'}),
        ('javascript', 'dict', '', 'options', 'options'),
        ('javascript', 'dict', '', '{a: {b: "1:2"}}', {'a': {'b': '1:2'}}),
    ],
)
def test_values_of_java_and_javascript_are_converted(language, kind, item, text, value):
  got = bfcl_values.converted(text, kind, item, language)
  assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ('functions', 'truths', 'said'),
    [
        ([{'name': 'f'}], [], 'x_0: a function must have a name and parameters'),
        (
            [{'name': 'f', 'parameters': {'properties': {'a': {'type': 'int'}}, 'required': []}}],
            [],
            'x_0: type "int" is not',
        ),
        ([FUNCTION], [{'g': {}}], 'x_0: the answer calls "g"'),
        ([FUNCTION], ['geo'], 'x_0: the answer calls ""'),
    ],
)
def test_a_malformed_file_is_one_clear_error(tmp_path, functions, truths, said):
  with pytest.raises(UserError, match=said):
    SUITES['simple_python'].problems(folder_of(tmp_path, functions, truths))


def test_a_file_of_another_version_is_one_clear_error(tmp_path):
  folder_of(tmp_path)
  write_lines(tmp_path / 'possible_answer/BFCL_v4_simple_python.json', {'id': 'simple_0', 'ground_truth': []})
  with pytest.raises(UserError, match='has no answer for x_0'):
    SUITES['simple_python'].problems(tmp_path)
  (tmp_path / 'BFCL_v4_simple_python.json').rename(tmp_path / 'BFCL_v3_simple.json')
  with pytest.raises(UserError, match='must have BFCL_v4_simple_python.json and'):
    SUITES['simple_python'].problems(tmp_path)


# ---- With the data and the checker of the package.


@pytest.fixture(scope='module')
def package():
  """The folder of the installed package."""
  found = importlib.util.find_spec('bfcl_eval')
  if not found:
    pytest.skip('bfcl-eval is not installed (pip install --no-deps bfcl-eval)')
  return pathlib.Path(found.submodule_search_locations[0])


@pytest.fixture(scope='module')
def official(package):
  """The package's checker; the table of models that it imports, and with it every vendor's client, is left out."""
  stand_in = types.ModuleType('bfcl_eval.constants.model_config')
  stand_in.MODEL_CONFIG_MAPPING = {'gold': types.SimpleNamespace(underscore_to_dot=False)}
  sys.modules[stand_in.__name__] = stand_in
  checker = importlib.import_module('bfcl_eval.eval_checker.ast_eval.ast_checker')
  yield checker
  for name in [name for name in sys.modules if name.startswith('bfcl_eval')]:
    del sys.modules[name]


def first_allowed(values):
  """The first value that is given; keys of a dict hold lists of allowed values."""
  plain = lambda value: {k: v[0] for k, v in value.items() if v[0] != ''} if isinstance(value, dict) else value
  value = next((value for value in values if value != ''), '')
  return [plain(item) for item in value] if isinstance(value, list) else plain(value)


def gold(fields) -> list[dict]:
  """The calls that the answers allow, in JSON's types."""
  functions = {function['name']: function['parameters']['properties'] for function in fields['function']}
  calls = []
  for truth in fields['ground_truth']:
    ((name, allowed),) = truth.items()
    given = {key: first_allowed(values) for key, values in allowed.items() if key in functions[name] and values != ['']}
    calls.append({'name': name, 'arguments': given})
  return calls


def spelled(value, kind: str, item: str, language: str) -> str:
  """A value as Java or JavaScript writes it; a string where another type is asked for is a variable."""
  java = language == 'java'
  if isinstance(value, dict):
    if java:
      puts = ' '.join(f'put("{key}", {spelled(one, "", "", language)});' for key, one in value.items())
      return f'new HashMap<String, Object>() {{{{ {puts} }}}}'
    return '{' + ', '.join(f'{key}: {spelled(one, "", "", language)}' for key, one in value.items()) + '}'
  if isinstance(value, list):
    # The package takes the quotation marks of strings for a part of them in Java's arrays.
    bare = java and kind == 'Array'
    items = ', '.join(one if bare and isinstance(one, str) else spelled(one, item, '', language) for one in value)
    return {'Array': f'new X[]{{{items}}}', 'ArrayList': f'new ArrayList<X>(Arrays.asList({items}))'}.get(
        kind, f'[{items}]'
    )
  if isinstance(value, str):
    return f'"{value}"' if kind in ('', 'String') else value
  return json.dumps(value) + {'long': 'L', 'Bigint': 'n'}.get(kind, 'f' if java and kind == 'float' else '')


def in_language(calls, fields, language):
  if language == 'python':
    return calls
  properties = fields['function'][0]['parameters']['properties']

  def written(key, value):
    kind, item = properties[key]['type'], (properties[key].get('items') or {}).get('type', '')
    return value if isinstance(value, str) else spelled(value, kind, item, language)

  return [
      call | {'arguments': {key: written(key, value) for key, value in call['arguments'].items()}} for call in calls
  ]


def answer(calls):
  return ''.join(tool_call(call['arguments'], call['name']) for call in calls)


@pytest.mark.parametrize('category', list(SUITES))
def test_gold_scores_full_on_the_published_data(package, category):
  suite = SUITES[category]
  problems = suite.problems(package / 'data')
  assert len(problems) == {'simple_python': 400, 'simple_java': 100, 'simple_javascript': 50}.get(category, 200)
  golden = {one.id: answer(in_language(gold(one.fields), one.fields, suite.language)) for one in problems}
  failed = {one.id: graded(suite, one, golden[one.id]).reason for one in problems}
  # Elements of type `any` are text by the package's rules, and these two lists are to hold a number and booleans.
  unreachable = {'simple_java': ['simple_java_36', 'simple_java_65']}
  assert [key for key, reason in failed.items() if reason] == unreachable.get(category, [])
  assert not any(graded(suite, one, '').status == 'passed' for one in problems)


def changed(calls, rng):
  """The calls with one change that may or may not be accepted."""
  calls = json.loads(json.dumps(calls))
  call = rng.choice(calls)
  arguments = call['arguments']
  kind = rng.choice(
      ['drop', 'extra', 'name', 'double', 'swap', 'less', 'value', 'value', 'value', 'value', 'value', 'value']
  )
  if kind == 'double':
    calls.append(call)
  elif kind == 'swap':
    calls.reverse()
  elif kind == 'less':
    calls.remove(call)
  elif kind == 'name':
    call['name'] = call['name'].upper()
  elif kind == 'extra' or not arguments:
    arguments['unknown'] = 1
  elif kind == 'drop':
    del arguments[rng.choice(list(arguments))]
  else:
    key = rng.choice(list(arguments))
    value = arguments[key]
    options = [str(value), [value], {'a': value}, '', [], {}, 1, 1.0, True, None, 'some variable']
    if isinstance(value, str) and not value.startswith(('[', '{', 'new ')):  # a literal stays one
      options += [
          value.upper(),
          value.replace(' ', ''),
          value + '.',
          value + 'x',
          f'"{value}"',
          value.replace('"', "'"),
      ]
    if isinstance(value, (int, float)):
      options += [float(value), int(value), -value, value + 1]
    if isinstance(value, list):
      options += [value[::-1], value + value, value[1:], [str(one).upper() for one in value], [1.0, 'x'], [{}]]
    if isinstance(value, dict):
      options += [value | {'z': 1}, dict(list(value.items())[1:]), {k: str(v).upper() for k, v in value.items()}]
    arguments[key] = rng.choice(options)
  return calls


@pytest.mark.parametrize('category', list(SUITES))
def test_verdicts_equal_those_of_the_package(package, official, category):
  suite, rng, agreed = SUITES[category], random.Random(category), {True: 0, False: 0}
  language = getattr(official.Language, suite.language.upper())
  for one in suite.problems(package / 'data'):
    right = in_language(gold(one.fields), one.fields, suite.language)
    for calls in [right] + [changed(right, rng) for _ in range(6)]:
      theirs = [{call['name']: call['arguments']} for call in calls]
      try:
        checked = one.fields['function'], theirs, one.fields['ground_truth']
        accepted = official.ast_checker(*checked, language, category, 'gold')['valid']
      except (TypeError, KeyError, AttributeError, ValueError):
        accepted = False  # Their checker fails on values it does not expect.
      assert (graded(suite, one, answer(calls)).status == 'passed') == accepted, (
          one.id,
          calls,
          one.fields['ground_truth'],
      )
      agreed[accepted] += 1
  assert min(agreed.values()) > 50
