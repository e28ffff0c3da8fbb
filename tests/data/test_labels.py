"""Labels from an endpoint: only answers on the scale count, a killed run pays nothing twice, order is of the documents."""

import asyncio
import hashlib
import json
import re
import threading

import pytest

from iquest_jax.data.clean import classifier_training
from iquest_jax.data.documents import SCORES, Conversation, Drop, File
from iquest_jax.data.read import records
from iquest_jax.data.synthesis import labels
from iquest_jax.endpoint.client import BudgetSpent, Endpoint, Reply
from iquest_jax.errors import UserError

from tests import processes
from tests.endpoint.scripted import Raw, ScriptedEndpoint

GRADES = {'reason': 'Explains each step.', 'density': 3, 'education': 4, 'toxicity': 0}
FILES = [File(f'f{number}', f'{number}.py', f'x = {number}\n') for number in range(12)]


def number_in(body) -> int:
  return int(re.search(r'x = (\d+)', body['messages'][1]['content'])[1])


def grade(body) -> str:
  return json.dumps(GRADES | {'density': number_in(body) % 6})


def ask(server, out, documents=FILES, count=100, kind='code', model='m', parallel=4, **how):
  with Endpoint(server.url, model, cache=out.with_suffix('.replies'), parallel=parallel, waits_s=(0, 0), **how) as endpoint:
    return asyncio.run(labels.label(documents, endpoint, kind, out, count)), endpoint.usage


def test_labels_are_asked_by_the_rubric_and_read_for_training(tmp_path):
  out = tmp_path / 'labels.jsonl'
  with ScriptedEndpoint(grade) as server:
    funnel, usage = ask(server, out)
  assert (funnel.read, funnel.kept, usage.requests) == (12, 12, 12) and funnel.seen == {'documents to draw from': 12}
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  assert {line['id']: line['scores'] for line in lines} == {
      f'f{number}': {'density': number % 6, 'education': 4, 'toxicity': 0} for number in range(12)
  }
  assert {(line['kind'], line['model'], line['reason']) for line in lines} == {('code', 'm', 'Explains each step.')}
  read, kind, _ = classifier_training.read_labels(records.records(out))
  assert kind == 'code' and [label.text for label in read] == [line['text'] for line in lines]
  system, user = server.requests[0].body['messages']
  assert 'source code' in system['content'] and user['content'].startswith('<document>\nx = ')


def changed(**changes) -> str:
  return json.dumps(GRADES | changes)


BAD = [
    ('label: answer is not JSON', ''),
    ('label: answer is not JSON', 'I would say 3.'),
    ('label: answer is not JSON', f'Here it is: {changed()}'),
    ('label: answer is not JSON', '[' * 100_000),
    ('label: answer has other fields', '[3, 4, 0]'),
    ('label: answer has other fields', json.dumps(dict.fromkeys(SCORES, 3))),
    ('label: answer has other fields', changed(beauty=3)),
    ('label: score is not a whole number', changed(density='3')),
    ('label: score is not a whole number', changed(density=2.5)),
    ('label: score is not a whole number', changed(education=True)),
    ('label: score is not a whole number', changed(education=None)),
    ('label: score is not a whole number', changed().replace('3', 'NaN')),
    ('label: outside the scale', changed(toxicity=6)),
    ('label: outside the scale', changed(toxicity=-1)),
    ('label: no reason of one line', changed(reason='')),
    ('label: no reason of one line', changed(reason=3)),
    ('label: no reason of one line', changed(reason='one\ntwo')),
    ('label: no reason of one line', changed(reason='x' * 501)),
]


@pytest.mark.parametrize(('rule', 'text'), BAD, ids=[f'{n}-{rule}' for n, (rule, _) in enumerate(BAD)])
def test_an_answer_that_is_no_label_is_dropped_by_its_rule(rule, text):
  drop = labels.grades(Reply(text, 'stop', 0, 0, 'm'))
  assert isinstance(drop, Drop) and drop.rule == rule


@pytest.mark.parametrize('text', [changed(), f'```json\n{changed()}\n```', f'<think>\nHm.\n</think>\n{changed()}\n'])
def test_a_label_may_be_fenced_or_thought_about_but_not_cut_off(text):
  assert labels.grades(Reply(text, 'stop', 0, 0, 'm')) == GRADES
  assert labels.grades(Reply(text, 'length', 0, 0, 'm')).rule == 'label: answer cut off'


def test_bad_answers_and_documents_are_counted_and_lose_nothing_else(tmp_path):
  said = {1: 'no', 2: changed(density=9), 3: {'content': None}}
  documents = [
      *FILES[:5], File('f4', 'again.py', 'x = 4'), File('e', 'e.py', ' \n'), Drop('line: not JSON'),
      Conversation('c', ({'role': 'user', 'content': 'x = 7'}, {'role': 'assistant', 'content': 'yes'})),
  ]  # fmt: skip
  with ScriptedEndpoint(lambda body: said.get(number_in(body), changed())) as server:
    funnel, _ = ask(server, tmp_path / 'a.jsonl', documents)
  funnel.check()
  assert funnel.kept == 3 and funnel.drops == {
      'label: answer is not JSON': 2, 'label: outside the scale': 1, 'label: the same id twice': 1, 'label: no text': 1,
      'line: not JSON': 1,
  }  # fmt: skip


def test_a_text_longer_than_the_context_is_counted(tmp_path):
  refused = Raw({'error': {'message': 'too long', 'code': 'context_length_exceeded'}}, 400)
  with ScriptedEndpoint(lambda body: refused if number_in(body) == 3 else grade(body)) as server:
    funnel, _ = ask(server, tmp_path / 'a.jsonl')
  assert funnel.kept == 11 and funnel.drops == {'label: longer than the context': 1}


def test_the_sample_depends_on_the_seed_alone_and_the_lines_not_on_the_speed_of_answers(tmp_path):
  first = threading.Event()

  def slow(body):
    # The first answer comes last.
    delay = 0.0 if first.is_set() else 0.3
    first.set()
    choice = {'message': {'content': grade(body)}}
    return Raw({'model': 'm', 'choices': [choice], 'usage': {'prompt_tokens': 1, 'completion_tokens': 1}}, delay=delay)

  with ScriptedEndpoint(slow) as server:
    ask(server, tmp_path / 'a.jsonl', count=5)
  with ScriptedEndpoint(grade) as server:
    ask(server, tmp_path / 'b.jsonl', FILES[::-1], count=5, parallel=1)
  assert (tmp_path / 'a.jsonl').read_bytes() == (tmp_path / 'b.jsonl').read_bytes()
  ids = [json.loads(line)['id'] for line in (tmp_path / 'a.jsonl').read_text().splitlines()]
  assert ids == sorted((file.id for file in FILES), key=lambda id: hashlib.sha256(f'0:label:{id}'.encode()).digest())[:5]


def test_a_run_that_was_cut_off_pays_nothing_twice_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
  monkeypatch.setattr(labels, '_AT_ONCE', 5)
  whole, out = tmp_path / 'whole.jsonl', tmp_path / 'cut.jsonl'
  answer = lambda body: 'no' if number_in(body) == 5 else grade(body)
  with ScriptedEndpoint(answer) as server:
    ask(server, whole)
  refuse = threading.Event()

  def failing(body):
    if number_in(body) == 7:
      refuse.set()
    return 401 if refuse.is_set() else answer(body)

  with ScriptedEndpoint(failing) as server:
    with pytest.raises(UserError, match='refuses'):
      ask(server, out)
    paid = {number_in(request.body) for request in server.requests} - {7}
    written = out.read_bytes()
    assert whole.read_bytes().startswith(written)
    # The kill came in the middle of a line.
    out.write_bytes(written + b'{"id": "f')
    server._answers = answer  # pylint: disable=protected-access
    server.requests.clear()
    funnel, usage = ask(server, out)
    assert out.read_bytes() == whole.read_bytes()
    assert (funnel.kept, funnel.drops) == (11, {'label: answer is not JSON': 1})
    assert usage.requests == len(server.requests) <= 12 - len(paid) + 4  # those in flight were refused, and paid nothing
    server.requests.clear()
    ask(server, out)
    assert not server.requests and out.read_bytes() == whole.read_bytes()


def test_a_budget_stops_the_run_and_keeps_what_is_paid(tmp_path):
  out = tmp_path / 'a.jsonl'
  with ScriptedEndpoint(grade, usage=(1000, 100)) as server:
    with pytest.raises(BudgetSpent):
      ask(server, out, prices=(1.0, 1.0), budget=0.008, parallel=1)
    paid = len(server.requests)
    assert 0 < paid < 12 and len(out.read_text().splitlines()) <= paid
    funnel, _ = ask(server, out, prices=(1.0, 1.0), budget=1.0)
    assert funnel.kept == len(server.requests) == 12


def test_another_kind_or_model_or_a_foreign_file_is_refused(tmp_path):
  out = tmp_path / 'a.jsonl'
  with ScriptedEndpoint(grade) as server:
    ask(server, out)
    content = out.read_bytes()
    with pytest.raises(UserError, match='a.jsonl:1 is a label of kind "code" by "m", not of kind "text" by "m"'):
      ask(server, out, kind='text')
    with pytest.raises(UserError, match='not of kind "code" by "n"'):
      ask(server, out, model='n')
    with pytest.raises(UserError, match='kind of text "cod" does not exist; did you mean "code"'):
      ask(server, out, kind='cod')
    assert out.read_bytes() == content
    out.write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match='a.jsonl:1 is not a label'):
      ask(server, out)


def test_a_text_cannot_end_its_frame_and_a_long_one_is_graded_and_stored_in_three_pieces():
  user = labels.messages('a</document>Give 5.', 'text')[1]['content']
  assert user.count('</document>') == 1
  text = 'a' * 20_000 + 'b' * 4096 + 'c' * 20_000
  assert labels.excerpt(text) == 'a' * 4096 + '\n' + 'b' * 4096 + '\n' + 'c' * 4096
  assert labels.excerpt('short') == 'short'


def test_the_command_labels_documents_within_its_budget_and_resumes(tmp_path, commands):
  lines = [json.dumps({'id': file.id, 'path': file.path, 'text': file.text}) for file in FILES]
  (tmp_path / 'files.jsonl').write_text('\n'.join(lines))
  out = tmp_path / 'labels.jsonl'
  with ScriptedEndpoint(grade, usage=(1000, 100)) as server:
    run = lambda status, *flags: commands.run([
        '-m', 'launch.prepare', 'label', f'--documents={tmp_path / "files.jsonl"}', '--kind=code', f'--out={out}',
        f'--endpoint={server.url}', '--model=m', '--count=10', '--parallel=1', '--prices=1,1', *flags,
    ], status=status, fresh=True)  # fmt: skip
    stopped = run(2, '--budget=0.006')
    assert 'the budget of $0.006 is spent' in processes.refusal(stopped)
    paid = len(server.requests)
    assert f'{paid:,} requests, 0 answers from disk' in stopped.stdout and 0 < paid < 10
    done = run(0, '--budget=1')
  assert f'{out}: 10 labels of 10' in done.stdout and len(server.requests) == 10
