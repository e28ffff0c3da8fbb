"""Facts by a model: what its file does not bear out, and what readers do not find again, is rejected."""

import asyncio
import dataclasses
import json
import re

import pytest

from iquest_jax.data.documents import Drop, File
from iquest_jax.data.synthesis import definitions, facts

SOURCE = '''"""Retries."""
__version__ = '1.4.2'
LIMIT = 40


def retry(call, attempts=5, delay=0.25):
  """Since 2021."""
  if attempts < 1:
    raise ValueError('attempts')


class Quick:
  def run(self, speed=8):
    pass


class Slow:
  def run(self, speed=2):
    pass
'''
FILE = File('a', 'tools/retry.py', SOURCE, 'acme/tools')
GOOD = facts.Candidate(
    FILE, 'What is the default of `delay` in `retry`?', '0.25', 'def retry(call, attempts=5, delay=0.25):'
)
CHECKS = (
    'length', 'names its subject', 'answer not in question', 'independent of time', 'no address', 'answer in source',
    'one definition', 'second reading', 'answered again from source',
)  # fmt: skip


def reading(answer):
  return json.dumps({'answer': answer})


def verified(tools, candidate, *readings):
  return asyncio.run(facts.DOMAIN.verify(candidate, tools(*readings)))


def test_a_right_fact_names_its_file_and_what_it_passed(tools):
  said = json.dumps({'question': GOOD.question, 'answer': '0.25', 'quote': GOOD.quote})
  made = asyncio.run(facts.DOMAIN.generate(FILE, tools(f'```json\n{said}\n```')))
  assert made == GOOD
  fact = verified(tools, made, reading('0.25'), reading('`0.25`'), f'Here it is: {reading("0.25.")}')
  assert fact.question == f'In the file `tools/retry.py` of the repository `acme/tools`: {GOOD.question}'
  assert (fact.answer, fact.path, fact.repo, fact.checks) == ('0.25', FILE.path, FILE.repo, CHECKS)


@pytest.mark.parametrize(
    ('changes', 'rule'),
    [
        ({'answer': '0.5'}, 'facts: answer not in its quote'),
        ({'quote': 'def retry(call, delay=0.25):'}, 'facts: answer not in its quote'),
        ({'answer': '0.2'}, 'fact: answer not in the source'),  # a piece of 0.25
        ({'question': 'Is 0.25 the default of `delay` in `retry`?'}, 'fact: answer in the question'),
        ({'question': 'Which value is the default of `delay` in `retry 0.25`?'}, 'fact: answer in the question'),
        # It stands in the path.
        ({'question': 'What raises `ValueError`, not `run`?', 'answer': 'retry'}, 'fact: answer in the question'),
        ({'question': 'What is the current default of `delay` in `retry`?'}, 'fact: changes with time'),
        ({'question': "What is `__version__` beside `LIMIT`?", 'answer': '1.4.2', 'quote': "__version__ = '1.4.2'"},
         'fact: changes with time'),
        ({'question': 'What is a good default of `delay` in `retry`?'}, 'facts: not objective'),
        ({'question': 'In this file, what is the default of `delay`?'}, 'fact: points at what is not shown'),
        ({'question': 'What is the default delay?'}, 'facts: names no subject'),
        ({'question': 'What is the default of `pause`?'}, 'facts: names no subject'),
        ({'question': 'What is the default of speed in `run`?', 'answer': '8', 'quote': 'def run(self, speed=8):'},
         'facts: subject defined twice'),
        ({'question': 'Name the default of `delay`.'}, 'facts: not one question'),
        ({'answer': SOURCE[:200], 'quote': SOURCE}, 'fact: more than one line'),
    ],
)  # fmt: skip
def test_a_fact_that_its_file_does_not_bear_out_is_rejected_without_a_request(tools, changes, rule):
  assert verified(tools, dataclasses.replace(GOOD, **changes)).rule == rule


def test_a_method_is_one_subject_with_its_class(tools):
  question = 'What is the default of `speed` in the method `run` of `Slow`?'
  made = facts.Candidate(FILE, question, '2', 'def run(self, speed=2):')
  assert verified(tools, made, *[reading('2')] * 3).checks == CHECKS


@pytest.mark.parametrize('wrong', [reading('5'), reading('SEVERAL'), reading('NONE'), 'no JSON', ''])
@pytest.mark.parametrize('place', range(3))
def test_one_reader_with_another_answer_rejects_a_fact(tools, wrong, place):
  readings = [reading('0.25')] * 3
  readings[place] = wrong
  assert verified(tools, GOOD, *readings).rule == 'facts: another answer from the file'


def test_a_plausible_wrong_fact_is_rejected_by_the_readers(tools):
  question = 'What does `retry` check before it calls?'
  made = dataclasses.replace(GOOD, question=question, answer='delay')  # stands in the quote, and is another parameter
  assert verified(tools, made, *[reading('attempts')] * 3).rule == 'facts: another answer from the file'


GO = File('b', 'wait.go', 'package wait\n\nfunc Wait(delay int, name string) error {\n\treturn nil\n}\n', 'acme/tools')
CPP = File('c', 'wait.cpp', 'struct Wait {\n  int delay = 40;\n  long other = 5;\n};\n', 'acme/tools')


@pytest.mark.parametrize(
    ('file', 'question', 'wrong', 'quote', 'right'),
    [
        (FILE, 'What is the default of `delay` in `retry`?', 'attempts', GOOD.quote, '0.25'),
        (FILE, 'What is the default of `delay` in `retry`?', '5', GOOD.quote, '0.25'),
        (FILE, 'What is the default of delay in `retry`?', 'call', GOOD.quote, '0.25'),
        (FILE, 'What does `delay` default to in `retry`?', '1', '  if attempts < 1:', '0.25'),
        (FILE, 'What is the default of `speed` in the method `run` of `Slow`?', '8', 'def run(self, speed=8):', '2'),
        (FILE, 'What is the value of `LIMIT`, which `retry` does not use?', '5', GOOD.quote, None),
        (FILE, 'What is the default of `delay`, not of `attempts`, in `retry`?', '5', GOOD.quote, None),
        (FILE, 'Which error does `retry` raise?', 'attempts', "    raise ValueError('attempts')", 'ValueError'),
        (FILE, 'What is the value of `LIMIT`?', '1', '  if attempts < 1:', '40'),
        (GO, 'What is the type of `delay` in `Wait`?', 'string', 'func Wait(delay int, name string) error {', 'int'),
        (GO, 'What is the return type of `Wait`?', 'int', 'func Wait(delay int, name string) error {', 'error'),
        (CPP, 'What is the default of `delay` in `Wait`?', '5', 'long other = 5;', '40'),
        (CPP, 'What is the type of `delay` in `Wait`?', 'long', 'long other = 5;', 'int'),
    ],
)  # fmt: skip
def test_an_answer_about_a_definition_is_held_against_it_whatever_readers_say(tools, file, question, wrong, quote, right):
  said = lambda answer, quote: verified(tools, facts.Candidate(file, question, answer, quote), *[reading(answer)] * 3)
  assert said(wrong, quote).rule in (definitions.UNCONFIRMED, definitions.UNRELATED, 'fact: answer in the question')
  if not right:
    return
  line = next(line for line in file.text.splitlines() if re.search(rf'(?<![\w.]){right}(?!\w)', line))
  assert not isinstance(said(right, line.strip()), Drop)


@pytest.mark.parametrize('said', ['', 'no', '{"question": "x?"}', '{"question": "x?", "answer": 3, "quote": "x"}', '[1]'])
def test_an_answer_that_is_no_fact_is_dropped(tools, said):
  assert asyncio.run(facts.DOMAIN.generate(FILE, tools(said))).rule == 'facts: malformed answer'


def test_readers_do_not_see_the_answer():
  asked = []

  async def ask(messages, **settings):
    asked.append((messages[0]['content'].replace(SOURCE, ''), settings['seed']))
    return reading('0.25')

  from iquest_jax.data.synthesis.domain import Tools

  assert not isinstance(asyncio.run(facts.DOMAIN.verify(GOOD, Tools(ask, None))), Drop)
  assert not any('0.25' in prompt for prompt, _ in asked) and len({seed for _, seed in asked} - {0}) == 3
