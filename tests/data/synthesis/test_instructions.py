"""Instructions: code checks what a constraint says, and judges decide about the rest."""

import asyncio
import dataclasses
import json
import random

import pytest

from iquest_jax.data.documents import File
from iquest_jax.data.synthesis import instructions
from iquest_jax.data.synthesis.instructions import Candidate
from iquest_jax.text import instructions as verifiable

REQUEST = 'Explain to a beginner why a dictionary finds a key faster than a list does.'
ANSWER = '- It hashes the key.\n- The hash names the place.\n- A list has to be searched.'
CONSTRAINTS = ({'check': 'bullets', 'count': 3}, {'check': 'contains', 'word': 'place', 'count': 1})
GOOD = Candidate(REQUEST, CONSTRAINTS, ANSWER, 'acme/maps')
ACCEPT, REJECT = (json.dumps({'argument': 'x', 'vote': word}) for word in ('accept', 'reject'))


def verified(tools, candidate, *votes):
  return asyncio.run(instructions.DOMAIN.verify(candidate, tools(*votes)))


def test_an_answer_that_keeps_the_constraints_and_convinces_is_kept(tools):
  kept = verified(tools, GOOD, *[ACCEPT] * 3)
  asked = f'{REQUEST}\n\n{verifiable.rendered(CONSTRAINTS)}'
  assert [message['content'] for message in kept.messages] == [asked, ANSWER]
  assert kept.checks == ('constraints kept', 'answer not in question', 'judges unanimous') and kept.repo == 'acme/maps'
  assert verified(tools, GOOD, ACCEPT, REJECT, ACCEPT, *[ACCEPT, REJECT, ACCEPT]).checks[-1] == 'judges by majority'


@pytest.mark.parametrize(
    ('changes', 'rule'),
    [
        ({'answer': ANSWER + '\n- More.'}, 'instructions: constraint broken'),
        ({'answer': ANSWER.replace('place', 'spot')}, 'instructions: constraint broken'),
        ({'answer': ' '}, 'instructions: no answer'),
        ({'answer': REQUEST, 'constraints': ()}, 'instructions: answer repeats the question'),
        ({'answer': 'why a dictionary finds a key faster', 'constraints': ()}, 'instructions: answer repeats the question'),
    ],
)
def test_what_code_can_refute_is_rejected_without_a_request(tools, changes, rule):
  assert verified(tools, dataclasses.replace(GOOD, **changes)).rule == rule


def test_an_answer_that_does_not_convince_is_rejected(tools):
  assert verified(tools, GOOD, REJECT, REJECT, REJECT).rule == 'judges: rejected unanimously'
  assert verified(tools, GOOD, REJECT, REJECT, ACCEPT, REJECT, REJECT, ACCEPT).rule == 'judges: rejected by majority'
  assert verified(tools, GOOD, '', 'no', '{}').rule == 'judges: too few votes'


def test_the_request_is_answered_with_its_constraints_and_by_chance_without(tools):
  asked, seen = [], set()

  async def ask(messages, **settings):
    asked.append(messages[0]['content'])
    return REQUEST if len(asked) % 2 else ANSWER

  for seed in range(200):
    with_chance = dataclasses.replace(tools(), ask=ask, rng=random.Random(seed))
    made = asyncio.run(instructions.DOMAIN.generate(File('a', 'a.md', 'some words about dictionaries'), with_chance))
    assert made.request == REQUEST and made.answer == ANSWER and asked[-1] == made.asked
    seen |= {constraint['check'] for constraint in made.constraints} or {'none'}
  assert seen == {'none', *verifiable.CHECKS}


@pytest.mark.parametrize('said', ['', 'x', 'x' * 5000])
def test_a_request_of_no_use_is_dropped(tools, said):
  made = asyncio.run(instructions.DOMAIN.generate(File('a', 'a.md', 'words'), tools(said)))
  assert made.rule == 'instructions: malformed request'
