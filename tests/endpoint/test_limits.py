"""Limits per minute, and a budget that no request exceeds."""

import asyncio
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.endpoint.client import BudgetSpent, Endpoint
from iquest_jax.endpoint.limits import Pace
from iquest_jax.errors import UserError

from tests.endpoint.scripted import Raw, ScriptedEndpoint


@given(
    per_minute=st.floats(1, 1000),
    requests=st.lists(st.tuples(st.floats(0, 90), st.floats(0.1, 300)), max_size=60),
)
def test_no_minute_has_more_than_the_limit_and_one_request(per_minute, requests):
  pace, now, sent = Pace(per_minute), 0.0, []
  for pause, amount in requests:
    now += pause
    sent.append((now + pace.reserve(now, amount), amount))
  for number, (start, _) in enumerate(sent):
    within = [amount for at, amount in sent[number:] if at < start + 60]
    assert sum(within[:-1]) <= per_minute * (1 + 1e-6)
  assert all(wait <= later for (wait, _), (later, _) in zip(sent, sent[1:]))


def test_without_a_limit_nothing_waits():
  assert Pace(0).reserve(5.0, 1e9) == 0 and Pace(0).reserve(5.0, 1) == 0


def test_what_was_reserved_and_not_used_is_given_back():
  pace = Pace(60)
  assert pace.reserve(0, 10) == 0 and pace.reserve(0, 1) == 10
  pace.give_back(9)
  assert pace.reserve(0, 1) == 2
  pace.give_back(-4)
  assert pace.reserve(0, 1) == 7


def many(server, count, cache=None, **settings):
  """Replies or errors to so many requests, and the usage."""
  settings = {'parallel': 8, 'waits_s': ()} | settings
  with Endpoint(server.url, 'm', cache=cache, **settings) as endpoint:

    async def every():
      asked = [endpoint.complete(f'{i:03}', max_tokens=10) for i in range(count)]
      return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(every()), endpoint.usage


def test_requests_are_spaced_by_the_limit_on_requests():
  with ScriptedEndpoint() as server:
    start = time.monotonic()
    many(server, 6, requests_per_minute=600)
  assert time.monotonic() - start >= 0.5  # five spaces of 100 ms


def test_the_limit_on_tokens_counts_what_answers_used_not_what_they_might_have():
  for usage, least, most in (((10, 0), 0.0, 0.4), ((300, 300), 0.9, 5.0)):
    with ScriptedEndpoint(usage=usage) as server:
      start = time.monotonic()
      many(server, 3, parallel=1, tokens_per_minute=60_000)
      assert least <= time.monotonic() - start < most


PRICES = (1000.0, 2000.0)  # 10 + 3 tokens cost $0.016


def test_a_budget_ends_a_run_before_it_is_exceeded_and_a_larger_one_resumes_it(tmp_path):
  with ScriptedEndpoint() as server:
    seen, usage = many(server, 40, tmp_path / 'c', budget=0.6, prices=PRICES)
    said = [one for one in seen if not isinstance(one, Exception)]
    assert len(said) == len(server.requests) == usage.requests and 0.1 < usage.cost <= 0.6
    assert usage.cost == pytest.approx(0.016 * len(said))
    assert {type(one) for one in seen if isinstance(one, Exception)} == {BudgetSpent}
    message = str(next(one for one in seen if isinstance(one, BudgetSpent)))
    assert message.startswith('endpoint: the budget of $0.6 is spent') and 'a larger budget to resume' in message
    again, free = many(server, 40, tmp_path / 'c', budget=0.6, prices=PRICES)
    assert len(server.requests) == usage.requests and free.cost == 0 and free.cached == len(said)
    assert [isinstance(one, Exception) for one in again] == [isinstance(one, Exception) for one in seen]
    rest, more = many(server, 40, tmp_path / 'c', budget=2, prices=PRICES)
  assert not [one for one in rest if isinstance(one, Exception)] and len(server.requests) == 40
  assert usage.cost + more.cost == pytest.approx(40 * 0.016)


@pytest.mark.parametrize('parallel', [1, 8])
def test_no_bill_within_the_bounds_of_the_requests_exceeds_the_budget(parallel):
  usages = iter([(200, 10), (1, 0), (300, 10), (150, 2)] * 20)

  def answer(body):
    tokens = dict(zip(('prompt_tokens', 'completion_tokens'), next(usages)))
    return Raw({'choices': [{'text': 'a'}], 'usage': tokens}, delay=0.002)

  with ScriptedEndpoint(answer) as server:
    seen, usage = many(server, 40, budget=3, prices=PRICES, parallel=parallel)
  assert usage.cost <= 3 and len(server.requests) == usage.requests >= 8
  assert any(isinstance(one, BudgetSpent) for one in seen)


def test_after_a_bill_beyond_the_budget_nothing_more_is_sent_and_the_answer_is_kept(tmp_path):
  with ScriptedEndpoint(usage=(10**9, 10**9)) as server:
    seen, usage = many(server, 3, tmp_path / 'c', budget=1, prices=PRICES, parallel=1)
    assert seen[0].text == '4' and [type(one) for one in seen[1:]] == [BudgetSpent] * 2 and len(server.requests) == 1
    assert many(server, 1, tmp_path / 'c', budget=1, prices=PRICES)[0][0].text == '4' and len(server.requests) == 1


def test_what_a_server_does_not_report_and_a_try_that_timed_out_cost_the_most_they_can():
  bound = None
  for answer, settings in (('4', {'usage': None}), (Raw('', delay=0.5), {}), (Raw(drop=True), {})):
    with ScriptedEndpoint(lambda body, answer=answer: answer, **settings) as server:
      usage = many(server, 1, prices=PRICES, timeout_s=0.2)[1]
    bound = usage.cost if bound is None else bound
    assert usage.cost == bound > 0.3
  with ScriptedEndpoint(lambda body: 500) as server:
    assert many(server, 1, prices=PRICES)[1].cost == 0


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        ({'budget': -1.0}, 'must not be negative'),
        ({'budget': math.nan}, 'must not be negative'),
        ({'prices': (1.0, -1.0)}, 'must not be negative'),
        ({'prices': (1.0,)}, 'must not be negative'),
        ({'budget': 5.0}, 'budget: needs prices'),
    ],
)
def test_a_budget_that_cannot_work_is_refused(settings, says):
  with pytest.raises(UserError, match=says):
    Endpoint('http://h/v1', 'm', **settings)
