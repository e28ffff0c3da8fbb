"""launch.synthesize: a killed command resumes to the same bytes, budgets hold, and a wrong flag is one line."""

import json
import re
import threading
import time

import pytest

from tests.endpoint.scripted import ScriptedEndpoint
from tests.processes import finish, refusal

SEEDS = [
    {'kind': 'file', 'id': str(n), 'path': f'm{n}.py', 'repo': 'r/x', 'text': f'def f{n}(a, b={n}):\n  pass\n'}
    for n in range(9)
]


def say(body):
  """Asks for the default that the file has, and answers so; the file 4 has it wrong."""
  name, value = re.search(r'def (\w+)\(a, b=(\d+)', body['messages'][0]['content']).groups()
  if 'Write one question' in body['messages'][0]['content']:
    question = f'What is the default of `b` in `{name}`?'
    return json.dumps({'question': question, 'answer': value, 'quote': f'def {name}(a, b={value}):'})
  return json.dumps({'answer': value if value != '4' else '5'})


@pytest.fixture(name='seeds')
def _seeds(tmp_path):
  path = tmp_path / 'seeds.jsonl'
  path.write_text(''.join(json.dumps(seed) + '\n' for seed in SEEDS) + 'no JSON\n')
  return path


def arguments(server, seeds, out, /, **changes):
  flags = {'domain': 'facts', 'seeds': seeds, 'endpoint': getattr(server, 'url', server), 'model': 'm', 'out': out}
  flags |= {'count': 20, 'parallel': 2, 'prices': '1,2'} | changes
  return ['-m', 'launch.synthesize', *(f'--{name}={value}' for name, value in flags.items() if value is not None)]


def files(folder):
  return [(folder / f'facts{suffix}').read_bytes() for suffix in ('.jsonl', '.funnel.json')]


def test_a_killed_command_resumes_to_the_same_bytes_and_pays_nothing_twice(commands, seeds, tmp_path):
  with ScriptedEndpoint(say) as server:
    done = commands.run(arguments(server, seeds, tmp_path / 'whole'))
    assert '8 samples' in done.stdout and 'facts: another answer from the file' in done.stdout
    asked = len(server.requests)
  hold, answered = threading.Event(), []

  def until_held(body):
    if len(answered) >= 17:
      hold.wait(60)
    answered.append(json.dumps(body, sort_keys=True))
    return say(body)

  with ScriptedEndpoint(until_held) as server:
    killed = commands.start(arguments(server, seeds, tmp_path / 'killed'))
    cache = tmp_path / 'killed/facts.cache'
    deadline = time.monotonic() + 60
    while not (cache.exists() and cache.read_bytes().count(b'\n') >= 17):  # replies of 17 requests are on the disk
      assert time.monotonic() < deadline and killed.poll() is None
      time.sleep(0.02)
    killed.kill()
    killed.communicate(timeout=60)
    paid = set(answered)
    assert not (tmp_path / 'killed/facts.jsonl').exists()
    journal = (tmp_path / 'killed/facts.journal').read_bytes()
    assert 1 <= journal.count(b'\n') - 1 < 20
    server.requests.clear()
    hold.set()
    commands.run(arguments(server, seeds, tmp_path / 'killed', parallel=7))
    assert files(tmp_path / 'killed') == files(tmp_path / 'whole')
    again = [json.dumps(request.body, sort_keys=True) for request in server.requests]
  assert len(paid) == 17 and not paid & set(again) and len(again) == len(set(again)) == asked - 17
  assert (tmp_path / 'killed/facts.journal').read_bytes().startswith(journal)


def test_a_budget_ends_a_command_with_status_0_and_is_named(commands, seeds, tmp_path):
  with ScriptedEndpoint(say) as server:
    done = commands.run(arguments(server, seeds, tmp_path / 'made.jsonl', budget=0.002))
    assert 'budget of $0.002 is spent' in done.stdout and 'rerun the same command with a larger budget' in done.stdout
    tokens = json.loads((tmp_path / 'made.funnel.json').read_text())['usage']
    assert len(server.requests) * 16e-6 <= 0.002 and tokens['dollars'] <= 0.002
    assert json.loads((tmp_path / 'made.funnel.json').read_text())['unread'] == {'line: not JSON': 1}


def test_judges_share_the_budget_and_are_asked_by_name(commands, tmp_path):
  seeds = tmp_path / 'seeds.jsonl'
  seeds.write_text(json.dumps({'kind': 'file', 'id': 'a', 'path': 'a.md', 'text': 'a b c'}) + '\n')

  def judged(body):
    if 'Decide whether' in body['messages'][0]['content']:
      return '{"argument": "x", "vote": "accept"}'
    return 'Say why a loop may end early.' if 'Write a request' in body['messages'][0]['content'] else 'It has a `break`.'

  with ScriptedEndpoint(judged) as server:
    flags = arguments(server, seeds, tmp_path, domain='instructions', judges='m,a,b', count=8, budget=90)
    commands.run(flags)
    models = [request.body['model'] for request in server.requests]
  report = json.loads((tmp_path / 'instructions.funnel.json').read_text())
  assert report['funnel']['kept'] >= 1 and report['funnel']['drops'].keys() <= {
      'synthesis: asked before', 'instructions: constraint broken'
  }  # fmt: skip
  assert models.count('a') == models.count('b') > 0 and models.count('m') == 16 + models.count('a')
  assert report['judges'] == ['m', 'a', 'b'] and report['checks']['judges unanimous'] == report['funnel']['kept']


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'domain': 'mathematic'}, '--domain: domain "mathematic" does not exist; did you mean "mathematics"?'),
        ({'domain': None}, '--domain: domain "" does not exist; must be one of: api, '),
        ({'out': None}, '--out is missing'),
        ({'seeds': '/nowhere.jsonl'}, '/nowhere.jsonl'),
        ({'prices': '1'}, '--prices: must be two numbers'),
        ({'prices': '0,0', 'budget': 1}, 'needs prices'),
        ({'endpoint': 'ftp://x'}, 'http'),
        ({'key_env': 'NO_SUCH_KEY'}, 'NO_SUCH_KEY is not set'),
        ({'domain': 'questions'}, 'questions starts from documents of kind repository, and there is none'),
        ({'count': 0}, 'count'),
    ],
)
def test_a_wrong_flag_is_one_line(commands, seeds, tmp_path, changes, says):
  done = commands.run(arguments('http://localhost:1/v1', seeds, tmp_path / 'out', **changes), status=2)
  assert says in refusal(done)


def test_ctrl_c_ends_a_command_in_one_line(commands, seeds, tmp_path):
  hold = threading.Event()

  def slowly(body):
    if len(server.requests) > 40:
      hold.wait(30)
    return say(body)

  with ScriptedEndpoint(slowly) as server:
    process = commands.start(arguments(server, seeds, tmp_path, parallel=4), fresh=True)
    while len(server.requests) < 42:
      assert process.poll() is None
      time.sleep(0.02)
    process.send_signal(2)
    done = finish(process, status=1)
    hold.set()
  assert 'interrupted; what is finished is in' in refusal(done)
  assert json.loads((tmp_path / 'facts.funnel.json').read_text())['funnel']['kept'] >= 1
