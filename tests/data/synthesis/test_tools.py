"""Tool use: calls fit their definitions, results are those of the functions, and a reader makes the same calls."""

import asyncio
import copy
import dataclasses
import json

import pytest

from iquest_jax.data.documents import Drop, File
from iquest_jax.data.synthesis import schemas
from iquest_jax.data.synthesis import tools as tool_use

DEFINED = [
    {
        'name': 'find_train',
        'description': 'The number of the next train between two towns.',
        'parameters': {
            'type': 'object',
            'properties': {
                'start': {'type': 'string', 'enum': ['Bern', 'Ulm']},
                'goal': {'type': 'string'},
                'after': {'type': 'integer', 'minimum': 0, 'maximum': 23},
            },
            'required': ['start', 'goal'],
        },
    },
    {
        'name': 'price',
        'description': 'What a ticket costs.',
        'parameters': {'type': 'object', 'properties': {'train': {'type': 'integer'}}, 'required': ['train']},
    },
]
IMPLEMENTATION = """
TRAINS = {('Bern', 'Ulm'): 715, ('Ulm', 'Bern'): 716}
def find_train(start, goal, after=0):
  return {'train': TRAINS[start, goal], 'hour': after + 1}
def price(train):
  return {'francs': train / 10}
"""
REQUEST = 'I am in Bern and have to be in Ulm today. What does the next train cost?'
CALLS = [
    {'name': 'find_train', 'arguments': {'start': 'Bern', 'goal': 'Ulm'}, 'result': {'train': 715, 'hour': 1}},
    {'name': 'price', 'arguments': {'train': 715}, 'result': {'francs': 71.5}},
]
ANSWER = 'Train 715 costs 71.5 francs.'
GOOD = tool_use.Candidate(DEFINED, IMPLEMENTATION, REQUEST, CALLS, ANSWER, 'acme/rail')
AGAIN = [json.dumps({'name': call['name'], 'arguments': call['arguments']}) for call in CALLS]
AGAIN += ['{"name": "done", "arguments": {}}']


def verified(tools, candidate, *answers):
  return asyncio.run(tool_use.DOMAIN.verify(candidate, tools(*answers)))


def changed(place, **changes):
  calls = copy.deepcopy(CALLS)
  calls[place] |= changes
  return {'calls': calls}


def test_an_exchange_whose_calls_run_and_are_made_again_is_kept(tools):
  said = f"""## Tools
```json
{json.dumps(DEFINED)}
```
## Implementation
```python{IMPLEMENTATION}```
## Request
{REQUEST}
## Calls
{json.dumps(CALLS)}
## Answer
{ANSWER}"""
  made = asyncio.run(tool_use.DOMAIN.generate(File('a', 'rail.py', 'x = 1', 'acme/rail'), tools(said)))
  assert made == dataclasses.replace(GOOD, implementation=IMPLEMENTATION[1:])
  kept = verified(tools, made, *AGAIN)
  assert [message['role'] for message in kept.messages] == ['user', 'assistant', 'tool', 'assistant', 'tool', 'assistant']
  assert kept.messages[1]['tool_calls'] == [{'name': 'find_train', 'arguments': {'start': 'Bern', 'goal': 'Ulm'}}]
  assert json.loads(kept.messages[4]['content']) == {'francs': 71.5} and kept.tools == tuple(DEFINED)
  checks = (
      'calls fit the definitions', 'results by execution', 'answer states a value of the result',
      'no other numbers in the answer', 'calls made again',
  )  # fmt: skip
  assert kept.checks == checks and kept.repo == 'acme/rail'


@pytest.mark.parametrize(
    ('changes', 'rule'),
    [
        (changed(1, result={'francs': 71.6}), 'tools: another result when run'),
        ({'implementation': IMPLEMENTATION + 'import random\ndef price(train): return random.random()'},
         'tools: depends on chance or time'),
        ({'implementation': 'import time\n' + IMPLEMENTATION.replace('train / 10', '71.5 + 0 * time.time()')},
         'tools: depends on chance or time'),
        ({'implementation': IMPLEMENTATION + 'count = []\ndef price(train):\n  count.append(1)\n  return {"francs": 71.5}\n'
          'def find_train(start, goal):\n  return {"train": 715, "hour": 1 + len(count)}'},
         'tools: another result when run again'),
        ({'implementation': 'def find_train(start, goal): raise SystemExit(0)'}, 'tools: another result when run'),
        ({'implementation': ''}, 'tools: another result when run'),
        (changed(0, name='find_bus'), 'tools: call does not fit'),
        (changed(0, arguments={'start': 'Bern'}), 'tools: call does not fit'),
        (changed(0, arguments={'start': 'Rome', 'goal': 'Ulm'}), 'tools: call does not fit'),
        (changed(0, arguments={'start': 'Bern', 'goal': 'Ulm', 'class': 1}), 'tools: call does not fit'),
        (changed(0, arguments={'start': 'Bern', 'goal': 'Ulm', 'after': 24}), 'tools: call does not fit'),
        (changed(1, arguments={'train': '715'}), 'tools: call does not fit'),
        (changed(1, arguments={'train': True}), 'tools: call does not fit'),
        ({'calls': []}, 'tools: no calls, or too many'),
        ({'calls': [CALLS[1]] * 2}, 'tools: call made twice'),
        ({'calls': [{'name': 'price', 'arguments': {'train': 715}}]}, 'tools: call without a result'),
        ({'calls': ['price(715)']}, 'tools: call does not fit'),
        ({'tools': []}, 'tools: wrong definitions'),
        ({'tools': [DEFINED[0], DEFINED[0]]}, 'tools: wrong definitions'),
        ({'answer': 'It is not dear.'}, 'tools: answer does not state the result'),
        ({'answer': 'It costs 171.5 francs.'}, 'tools: answer does not state the result'),
        ({'answer': 'It costs 71.55 francs.'}, 'tools: answer does not state the result'),
        ({'answer': 'It costs -71.5 francs.'}, 'tools: answer does not state the result'),
        ({'answer': 'Take the train A71.5.'}, 'tools: answer does not state the result'),
        ({'answer': 'It costs 80 francs, not 71.5.'}, 'tools: answer denies the result'),
        ({'answer': "It doesn't cost 71.5 francs."}, 'tools: answer denies the result'),
        ({'answer': 'It costs 71.5 francs and leaves at 8.'}, 'tools: answer states other numbers'),
        ({'answer': 'It costs 71.5 francs on platform B2.'}, 'tools: answer states other numbers'),
        ({'answer': 'It costs 71.5 or 1,071.5 francs.'}, 'tools: answer states other numbers'),
        ({'request': REQUEST + ' I heard 71.5.'}, 'tools: answer in question'),
    ],
)  # fmt: skip
def test_an_exchange_that_code_can_refute_is_rejected_without_a_request(tools, changes, rule):
  assert verified(tools, dataclasses.replace(GOOD, **changes)).rule == rule


@pytest.mark.parametrize(
    'answer',
    ['Train 715 costs 71.50 francs.', '71.5.', '(train 715, hour 1): 71.5', 'It is 71.5francs.', 'At hour 1: 71.5 each'],
)
def test_a_number_may_be_written_in_other_forms(tools, answer):
  kept = verified(tools, dataclasses.replace(GOOD, answer=answer), *AGAIN)
  assert not isinstance(kept, Drop), kept


@pytest.mark.parametrize(
    ('place', 'said'),
    [
        (0, '{"name": "find_train", "arguments": {"start": "Ulm", "goal": "Bern"}}'),
        (0, '{"name": "find_train", "arguments": {"start": "Bern", "goal": "Ulm", "after": 0}}'),
        (1, '{"name": "done", "arguments": {}}'),
        (2, '{"name": "price", "arguments": {"train": 716}}'),
        (2, 'done'),
        (1, ''),
    ],
)
def test_a_reader_who_makes_another_call_rejects_an_exchange(tools, place, said):
  answers = [*AGAIN[:place], said, *AGAIN[place + 1 :]]
  assert verified(tools, GOOD, *answers).rule == 'tools: another call'


@pytest.mark.parametrize('said', ['', 'no', '## Tools\n[]\n## Request\nx', '## Tools'])
def test_an_answer_that_is_no_exchange_is_dropped(tools, said):
  made = asyncio.run(tool_use.DOMAIN.generate(File('a', 'a.py', 'x'), tools(said)))
  assert made.rule == 'tools: malformed answer'


@pytest.mark.parametrize(
    'parameters',
    [
        {'type': 'string'}, {'type': 'object', 'properties': []}, {'type': 'object', 'required': ['x']},
        {'type': 'object', 'properties': {'x': {'type': 'date'}}}, {'type': 'object', 'properties': {'x': {}}},
        {'type': 'object', 'properties': {'x': {'type': 'string', 'pattern': '^a'}}},
        {'type': 'object', 'properties': {'x': {'type': 'string', 'enum': []}}},
        {'type': 'object', 'properties': {'x': {'type': 'array', 'items': {'type': 'any'}}}}, None, [],
    ],
)  # fmt: skip
def test_a_definition_that_could_not_be_checked_is_refused(parameters):
  assert schemas.problem_of_tools([{'name': 'f', 'description': 'd', 'parameters': parameters}])


@pytest.mark.parametrize(
    ('kind', 'right', 'wrong'),
    [
        ('string', ['', 'a'], [1, None, []]), ('integer', [0, -3], [1.0, True, '1']), ('boolean', [True], [1, 'true']),
        ('number', [1, 2.5], [True, float('nan'), float('inf'), '1']), ('array', [[], [1]], [{}, 'ab']),
        ('object', [{}], [[], None]),
    ],
)  # fmt: skip
def test_a_value_has_the_type_of_its_parameter(kind, right, wrong):
  defined = [{'name': 'f', 'parameters': {'type': 'object', 'properties': {'x': {'type': kind}}}}]
  fits = lambda value: not schemas.problem_of_call({'name': 'f', 'arguments': {'x': value}}, defined)
  assert all(map(fits, right)) and not any(map(fits, wrong))


def test_values_inside_lists_and_objects_are_checked():
  item = {'type': 'object', 'properties': {'n': {'type': 'integer', 'enum': [1, 2]}}, 'required': ['n']}
  schema = {'type': 'object', 'properties': {'list': {'type': 'array', 'items': item}}}
  defined = [{'name': 'f', 'description': 'd', 'parameters': schema}]
  assert not schemas.problem_of_tools(defined)
  wrong = lambda value: schemas.problem_of_call({'name': 'f', 'arguments': {'list': value}}, defined)
  assert not wrong([{'n': 1}, {'n': 2}]) and not wrong([])
  assert wrong([{'n': 3}]) and wrong([{}]) and wrong([{'n': True}]) and wrong([{'n': 1, 'm': 1}]) and wrong([1])
