"""The engine: the same bytes at any number of requests, killed runs resume and pay nothing twice, nothing is lost."""

import collections
import dataclasses
import hashlib
import json
import re
import threading
import time

import pytest

from iquest_jax.data.documents import Conversation, Drop, Fact, File, from_json
from iquest_jax.data.synthesis import judges, run
from iquest_jax.data.synthesis.domain import Domain
from iquest_jax.endpoint.client import BudgetSpent, Endpoint, WrongModel
from iquest_jax.errors import UserError
from iquest_jax.journal import Journal

from tests.endpoint.scripted import Raw, ScriptedEndpoint

SEEDS = [File(f'seed{number}', f'{number}.txt', str(number)) for number in range(12)]


async def generate(document, tools):
  """A sum whose second number is drawn by chance; the model adds."""
  other = tools.rng.randint(100, 10**6)
  said = await tools.ask([{'role': 'user', 'content': f'{document.text} + {other}'}], max_tokens=8)
  return (document, other, said) if said else Drop('sums: no answer')


async def verify(candidate, tools):
  """Adds in a thread, and asks a second time with another seed."""
  document, other, said = candidate
  again = await tools.ask([{'role': 'user', 'content': f'{document.text} + {other}'}], max_tokens=8, seed=1)
  right = await tools.run(lambda: str(int(document.text) + other))
  if not said == again == right:
    return Drop('sums: wrong', said)
  return Fact(f'{document.id}-{other}', f'{document.text} + {other}?', said, checks=('added', 'asked again'))


SUMS = Domain('sums', (File,), generate, verify)


def add(body):
  return str(sum(map(int, body['messages'][0]['content'].split(' + '))))


def wrong_for(*numbers):
  """Adds, but says something else where the first number is one of these."""
  return lambda body: 'x' if int(body['messages'][0]['content'].split()[0]) in numbers else add(body)


def made(server, folder, count=12, seeds=SEEDS, domain=SUMS, **changes):
  """Runs and returns (result, JSONL, report as bytes)."""
  parallel = changes.pop('parallel', 8)
  settings = dict(parallel=parallel, waits_s=(0.01,), timeout_s=5, prices=(1000, 1000))
  settings |= {name: changes.pop(name) for name in ('budget', 'model', 'timeout_s') if name in changes}
  out = folder / 'sums.jsonl'
  with Endpoint(server.url, settings.pop('model', 'm'), cache=run.Files(out).cache, **settings) as endpoint:
    result = run.run(domain, seeds, out, endpoint, count=count, prices=(1000, 1000), parallel=parallel, **changes)
  return result, out.read_bytes(), run.Files(out).funnel.read_bytes()


def lines(data):
  return [from_json(line) for line in data.decode().splitlines()]


def test_requests_at_a_time_change_no_byte(tmp_path):
  def out_of_order(body):
    time.sleep(body['seed'] % 10 / 1000)
    return wrong_for(3, 7)(body)

  with ScriptedEndpoint(out_of_order) as server:
    results = [made(server, tmp_path / str(parallel), count=30, parallel=parallel)[1:] for parallel in (1, 2, 32)]
    assert server.most_at_once > 2
  assert results[0] == results[1] == results[2]
  report = json.loads(results[0][1])
  # Sample n starts from seed n % 12.
  assert report['funnel'] == {'read': 30, 'kept': 25, 'drops': {'sums: wrong': 5}, 'seen': {}}
  assert report['checks'] == {'added': 25, 'asked again': 25} and report['usage']['requests'] == 60
  assert [document.question.split()[0] for document in lines(results[0][0])] == [
      str(number % 12) for number in range(30) if number % 12 not in (3, 7)
  ]


def test_samples_of_one_seed_differ_and_follow_the_seed_of_the_run(tmp_path):
  with ScriptedEndpoint(add) as server:
    _, data, _ = made(server, tmp_path / 'a', count=20, seeds=SEEDS[:1])
    _, other, _ = made(server, tmp_path / 'b', count=20, seeds=SEEDS[:1], seed=1)
  assert len({document.question for document in (*lines(data), *lines(other))}) == 40


def test_a_killed_run_resumes_to_the_same_bytes_and_asks_nothing_twice(tmp_path):
  with ScriptedEndpoint(wrong_for(3)) as server:
    whole = made(server, tmp_path / 'whole')[1:]
    assert len(server.requests) == 24
  answered, hold = collections.Counter(), threading.Event()

  def slowly(body):
    key = json.dumps(body, sort_keys=True)
    if sum(answered.values()) >= 13 and not hold.is_set():
      return 503  # and the run ends with what it has
    answered[key] += 1
    return wrong_for(3)(body)

  with ScriptedEndpoint(slowly) as server:
    with pytest.raises(UserError, match='did not answer'):
      made(server, tmp_path / 'killed', parallel=3)
    folder = tmp_path / 'killed'
    kept = json.loads((folder / 'sums.funnel.json').read_bytes())['funnel']
    assert 0 < kept['read'] < 12 and len(lines((folder / 'sums.jsonl').read_bytes())) == kept['kept']
    # As a kill leaves it: no report, and a line that was cut off.
    for name in ('sums.jsonl', 'sums.funnel.json'):
      (folder / name).unlink()
    journal = (folder / 'sums.journal').read_bytes()
    (folder / 'sums.journal').write_bytes(journal + b'{"sample": 11, "se')
    hold.set()
    assert made(server, folder)[1:] == whole
    assert made(server, folder)[1:] == whole  # nothing is left of the line that was cut off
  assert sum(answered.values()) == 24 and set(answered.values()) == {1}


def test_a_finished_run_makes_no_request_and_a_larger_count_goes_on(tmp_path):
  with ScriptedEndpoint(add) as server:
    first = made(server, tmp_path, count=5)
    assert made(server, tmp_path, count=5)[1:] == first[1:] and len(server.requests) == 10
    _, data, _ = made(server, tmp_path, count=20)
    assert data.startswith(first[1]) and len(lines(data)) == 20 and len(server.requests) == 40
    assert made(server, tmp_path, count=5)[1:] == first[1:] and len(server.requests) == 40
    _, whole, _ = made(server, tmp_path / 'whole', count=20)
  assert data == whole


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'seed': 1}, 'seed 0 -> 1'),
        ({'model': 'other'}, 'model m -> other'),
        ({'domain': dataclasses.replace(SUMS, name='differences')}, 'domain sums -> differences'),
        ({'seeds': SEEDS[::-1]}, 'started from another document'),
        ({'seeds': [Drop('line: not JSON'), Conversation('c', ({'role': 'user', 'content': 'x'},))]}, 'of kind file'),
    ],
)
def test_another_run_in_the_same_place_is_refused_in_one_line(tmp_path, changes, says):
  with ScriptedEndpoint(add) as server:
    _, data, report = made(server, tmp_path)
    with pytest.raises(UserError, match=re.escape(says)) as error:
      made(server, tmp_path, **changes)
    assert '\n' not in str(error.value) and len(server.requests) == 24
  assert ((tmp_path / 'sums.jsonl').read_bytes(), (tmp_path / 'sums.funnel.json').read_bytes()) == (data, report)


def test_two_processes_do_not_write_one_file(tmp_path):
  journal = Journal(tmp_path / 'sums.journal', {'version': run.VERSION}, id)
  with ScriptedEndpoint(add) as server, pytest.raises(UserError, match='another process'):
    made(server, tmp_path)
  journal.close()


def test_a_damaged_line_of_the_journal_is_named(tmp_path):
  with ScriptedEndpoint(add) as server:
    made(server, tmp_path, count=3)
    journal = tmp_path / 'sums.journal'
    whole = journal.read_bytes().splitlines(keepends=True)
    for damage in (b'\x00\xff\n', b'[]\n', b'{"sample": 1}\n'):
      journal.write_bytes(b''.join([*whole[:2], damage, *whole[3:]]))
      with pytest.raises(UserError, match='line 3 is damaged'):
        made(server, tmp_path, count=3)
    journal.write_bytes(b''.join(whole[:2] + whole[3:]))  # as it says
    assert len(lines(made(server, tmp_path, count=3)[1])) == 3


def test_a_spent_budget_ends_a_run_cleanly_and_a_larger_one_resumes_it(tmp_path):
  with ScriptedEndpoint(add) as server:  # 13 tokens a request, so 24 of them cost 0.312 dollars; one may cost 0.4
    result, data, _ = made(server, tmp_path, budget=0.5, parallel=1)
    finished = len(lines(data))
    assert isinstance(result.stopped, BudgetSpent) and 0 < finished < 12 and len(server.requests) * 0.013 <= 0.5
    assert not made(server, tmp_path, budget=100)[0].stopped and len(server.requests) == 24
    whole = made(server, tmp_path / 'whole')[1:]
    assert made(server, tmp_path)[1:] == whole


def test_an_endpoint_with_another_model_stops_the_run(tmp_path):
  with ScriptedEndpoint(add, model='someone') as server, pytest.raises(WrongModel, match='someone'):
    made(server, tmp_path)
  assert (tmp_path / 'sums.jsonl').read_bytes() == b''


@pytest.mark.parametrize('said', [401, Raw('<html>', 200), Raw({'choices': []}), Raw(drop=True), Raw({}, delay=0.5)])
def test_an_endpoint_that_fails_stops_the_run_in_one_line_and_loses_nothing(tmp_path, said):
  served = []

  def answer(body):
    served.append(body)
    return add(body) if len(served) <= 10 else said

  with ScriptedEndpoint(answer) as server:
    with pytest.raises(UserError) as error:
      made(server, tmp_path, parallel=1, timeout_s=0.3)
    assert '\n' not in str(error.value)
  finished = lines((tmp_path / 'sums.jsonl').read_bytes())
  assert 0 < len(finished) < 12
  assert json.loads((tmp_path / 'sums.funnel.json').read_bytes())['funnel']['kept'] == len(finished)
  with ScriptedEndpoint(add) as server:  # on another port, so the cache is of no use
    assert made(server, tmp_path)[1:] == made(server, tmp_path / 'whole')[1:]


@pytest.mark.parametrize(
    ('said', 'rule'),
    [
        ('', 'sums: no answer'), ('nonsense', 'sums: wrong'), ({'content': None}, 'sums: no answer'),
        ({'content': 'ok', 'tool_calls': [{'function': {'name': 'f', 'arguments': '{'}}]}, 'sums: wrong'),
        ('<think>never ends', 'sums: no answer'),
    ],
)  # fmt: skip
def test_an_answer_of_no_use_is_a_counted_drop(tmp_path, said, rule):
  with ScriptedEndpoint(lambda body: said) as server:
    report = json.loads(made(server, tmp_path)[2])
  assert report['funnel'] == {'read': 12, 'kept': 0, 'drops': {rule: 12}, 'seen': {}}


def test_an_answer_that_was_cut_off_is_none(tmp_path):
  cut = lambda body: Raw({'model': 'm', 'choices': [{'message': {'content': add(body)}, 'finish_reason': 'length'}]})
  with ScriptedEndpoint(cut) as server:
    assert json.loads(made(server, tmp_path)[2])['funnel']['drops'] == {'sums: no answer': 12}


def refusing(context, said='x'):
  """Answers as a model whose context holds so many characters of a prompt and tokens of an answer."""

  def answer(body):
    length = len(body['messages'][0]['content'])
    if length + body['max_tokens'] <= context:
      return said(body) if callable(said) else said
    problem = f"This model's maximum context length is {context} tokens, you requested {length + body['max_tokens']}."
    return Raw({'error': {'message': problem, 'code': 'context_length_exceeded'}}, 400)

  return answer


def test_what_is_longer_than_the_context_is_a_counted_drop_and_does_not_end_the_run(tmp_path):
  seeds = [*SEEDS[:3], File('long', 'l.txt', '0' * 200 + '1')]
  with ScriptedEndpoint(refusing(100, add)) as server:
    result, data, _ = made(server, tmp_path, count=4, seeds=seeds)
  assert result.report['funnel']['drops'] == {'synthesis: longer than the context': 1} and len(lines(data)) == 3
  assert result.report['sha256'] == hashlib.sha256(data).hexdigest()


def test_as_much_is_asked_for_as_the_context_holds(tmp_path):
  async def generous(document, tools):
    said = await tools.ask([{'role': 'user', 'content': '1 + 2'}], max_tokens=1000)
    return (document, 2, said) if said else Drop('sums: no answer')

  domain = dataclasses.replace(SUMS, generate=generous)
  with ScriptedEndpoint(refusing(300, add)) as server:
    report = made(server, tmp_path / 'a', count=1, seeds=SEEDS[1:2], domain=domain)[0].report
    assert report['funnel']['kept'] == 1 and report['usage']['requests'] == 2
    assert [request.body['max_tokens'] for request in server.requests] == [1000, 500, 250, 8]
  cut = lambda body: Raw({'model': 'm', 'choices': [{'message': {'content': '3'}, 'finish_reason': 'length'}]})
  with ScriptedEndpoint(refusing(300, cut)) as server:
    report = made(server, tmp_path / 'b', count=1, seeds=SEEDS[1:2], domain=domain)[0].report
  assert report['funnel']['drops'] == {'synthesis: longer than the context': 1} and report['usage']['requests'] == 1


def test_what_enters_was_asked_once_was_checked_and_is_unicode(tmp_path):
  kinds = iter(range(12))

  async def odd(candidate, tools):
    fact = await verify(candidate, tools)
    match next(kinds) % 7:
      case 0:
        return dataclasses.replace(fact, checks=())
      case 1:
        return dataclasses.replace(fact, question='x\ud800')
      case 2:
        raise KeyError('an answer like no other')
      case 3:
        return dataclasses.replace(fact, question='The  same\nQuestion?')
      case 4:
        return dataclasses.replace(fact, question='the same question?')
      case 5:
        return dataclasses.replace(fact, id='')
    return fact

  with ScriptedEndpoint(add) as server:
    result, data, _ = made(server, tmp_path, domain=dataclasses.replace(SUMS, verify=odd), parallel=1)
  assert result.report['funnel']['drops'] == {
      'synthesis: nothing was checked': 2, 'synthesis: not Unicode': 2, 'synthesis: asked before': 3,
      'synthesis: an answer the domain did not foresee': 3,
  }  # fmt: skip
  assert len(lines(data)) == 2


def test_an_error_of_the_machine_ends_the_run_and_is_not_counted_as_a_bad_answer(tmp_path):
  async def full(candidate, tools):
    raise OSError('disk')

  with ScriptedEndpoint(add) as server, pytest.raises(OSError, match='disk'):
    made(server, tmp_path, domain=dataclasses.replace(SUMS, verify=full))


def test_an_interrupt_keeps_what_is_finished(tmp_path):
  served = []

  async def interrupted(candidate, tools):
    served.append(candidate)
    if len(served) == 6:
      raise KeyboardInterrupt
    return await verify(candidate, tools)

  with ScriptedEndpoint(add) as server:
    with pytest.raises(KeyboardInterrupt):
      made(server, tmp_path, domain=dataclasses.replace(SUMS, verify=interrupted), parallel=1)
    kept = lines((tmp_path / 'sums.jsonl').read_bytes())
    assert made(server, tmp_path)[1] == made(server, tmp_path / 'whole')[1] and len(kept) < 12


def test_judges_of_their_own_are_asked_by_name_and_counted(tmp_path):
  async def judged(candidate, tools):
    fact = await verify(candidate, tools)
    return dataclasses.replace(fact, checks=((await judges.judge(tools, fact.question, ('c',))).check(),))

  vote = lambda body: '{"argument": "x", "vote": "accept"}' if body['model'] != 'm' else add(body)
  with ScriptedEndpoint(vote) as server, Endpoint(server.url, 'a') as a, Endpoint(server.url, 'b') as b:
    result, data, _ = made(server, tmp_path, domain=dataclasses.replace(SUMS, verify=judged), judges=[a, b])
    assert collections.Counter(request.body['model'] for request in server.requests) == {'m': 24, 'a': 12, 'b': 12}
  assert result.report['judges'] == ['a', 'b'] and result.report['checks'] == {'judges unanimous': 12}
  assert result.report['usage'] == {'requests': 48, 'input_tokens': 480, 'output_tokens': 144, 'dollars': 0.624}


def test_requests_go_on_while_samples_are_verified(tmp_path):
  barrier = threading.Barrier(3, timeout=20)  # of two verifications in threads and one request

  async def together(candidate, tools):
    if candidate[0].text in '01':
      await tools.run(barrier.wait)
    return await verify(candidate, tools)

  def answer(body):
    if body['messages'][0]['content'].startswith('2 ') and not with_others:
      with_others.append(barrier.wait())
    return add(body)

  with_others = []
  with ScriptedEndpoint(answer) as server:
    made(server, tmp_path, count=3, domain=dataclasses.replace(SUMS, verify=together), parallel=2)
  assert with_others and not barrier.broken
