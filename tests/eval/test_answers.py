"""Answers of the engine: those of sampling alone, cut at stop words, the same whatever else is asked."""

import pytest

from iquest_jax.eval.answers import Asked
from iquest_jax.eval.suite import Prompt
from iquest_jax.infer import text as infer_text
from iquest_jax.infer.engine import Engine, Request
from iquest_jax.infer.sampler import GREEDY, Sampling
from iquest_jax.text.tokenizer import IM_END, Tokenizer

from tests.eval import small_stage

HOT = Sampling(temperature=1.0, seed=5)
CHAT = Prompt(messages=[{'role': 'user', 'content': 'a <|im_end|>'}])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return small_stage.write(tmp_path_factory.mktemp('run'))


@pytest.fixture
def answers(run, monkeypatch):
  return small_stage.answers(run, monkeypatch)


def by_id(answers, asked):
  return {answer.id: answer for answer in answers.answer(asked)}


def test_an_answer_is_what_the_engine_draws_for_its_id(run, answers):
  tokenizer = Tokenizer.load(run.tokenizer)
  asked = [Asked(7, Prompt('def '), 20, HOT), Asked(2**31 - 1, CHAT, 9, HOT), Asked(0, Prompt('return'), 1, GREEDY)]
  got = by_id(answers, asked)
  engine = Engine(answers.model, answers.params, 3)  # the same compiled step
  for one in asked:
    ids = infer_text.turn(tokenizer, CHAT.messages) if one.prompt is CHAT else tokenizer.encode(one.prompt.text)
    drawn = list(engine.run([Request(one.id, ids, one.length, one.sampling, tokenizer.ends)]))
    text = tokenizer.decode([token.token for token in drawn if token.end != 'stop'])
    assert got[one.id] == (one.id, text, drawn[-1].end, len(drawn))


def test_order_and_neighbours_change_no_answer(answers):
  asked = [Asked(id, Prompt('def ' * (id + 1)), 12, HOT) for id in range(5)]
  together = by_id(answers, asked)
  assert by_id(answers, asked[::-1]) == together
  assert by_id(answers, asked[3:4])[3] == together[3]
  assert len({answer.text for answer in together.values()}) > 1


def test_special_tokens_in_a_prompt_stay_text(run, answers):
  tokenizer = Tokenizer.load(run.tokenizer)
  ids = list(answers._ids(CHAT))
  assert ids.count(tokenizer.id(IM_END)) == 1 and tokenizer.id(IM_END) not in answers._ids(Prompt('<|im_end|>'))


def test_an_answer_ends_before_the_first_stop_word_and_costs_no_more_tokens(answers):
  asked = [Asked(id, Prompt('def '), 20, HOT) for id in range(6)]
  whole = by_id(answers, asked)
  one = next(one for one in asked if whole[one.id].end == 'length' and len(whole[one.id].text) > 20)
  text = whole[one.id].text
  word = text[11:14]
  stopped = Asked(one.id, Prompt('def ', stop=['never said', word]), 20, HOT)
  got = by_id(answers, [stopped if other is one else other for other in asked])
  assert got[one.id][1:3] == (text[: text.find(word)], 'stop') and got[one.id].tokens < 20
  assert {id: answer for id, answer in got.items() if id != one.id} == {
      id: answer for id, answer in whole.items() if id != one.id
  }


def test_a_prompt_may_fill_the_context_and_no_more(answers):
  size = answers._engine.size
  fits, full = Prompt('=' * (size - 3)), Prompt('=' * size)
  got = by_id(answers, [Asked(1, fits, 40, HOT), Asked(2, full, 40, HOT)])
  assert got[1].end in ('length', 'stop') and 1 <= got[1].tokens <= 3
  assert got[2] == (2, '', 'context', 0)


def test_settings_say_which_checkpoint_answers(run, answers):
  assert answers.settings == {
      'stage': 'sft_instruct', 'size': 'small', 'step': 12, 'fingerprint': 'f' * 16,
      'tokenizer': Tokenizer.load(run.tokenizer).fingerprint,
  }  # fmt: skip
