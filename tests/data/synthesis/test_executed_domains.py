"""The domains that execute, from seeds to files, against a scripted endpoint."""

import json

import pytest

from iquest_jax.data.documents import File, from_json
from iquest_jax.data.synthesis import domains, run
from iquest_jax.endpoint.client import Endpoint

from tests.data.synthesis import test_api, test_competition, test_editing, test_sql, test_terminal, test_translation
from tests.endpoint.scripted import ScriptedEndpoint


def fenced(code, language='python'):
  return f'<think>\nLet me see.\n</think>\n```{language}\n{code}\n```'


SHELL = {'Task': test_terminal.TASK, 'Setup': test_terminal.SETUP, 'Check': test_terminal.CHECK}
SHELL = ''.join(f'## {name}\n{text}\n' for name, text in (SHELL | {'Solution': test_terminal.SOLUTION}).items())
QUERY = f'## Data\ngiven\n## Query\n{fenced(test_sql.QUERY, "sql")}'
# Per domain: a seed, what the model says in turn, and its last answer in a wrong form with the rule that finds it.
SCRIPTS = {
    'api': (test_api.FILE, [test_api.ANSWER, fenced(test_api.AGAIN)], fenced(test_api.AGAIN.replace('True', 'False')),
            'api: another solution does not pass'),
    'competition': (File('a', 'a.py', 'x = 1'), [test_competition.ANSWER, fenced(test_competition.SIMPLE)],
                    fenced(test_competition.SIMPLE.replace('== 0', '== 1')), 'verify: wrong answer'),
    'editing': (test_editing.TRANSITION, [test_editing.INSTRUCTION, 'No.', fenced(test_editing.NEW)],
                fenced(test_editing.OLD), 'editing: the change does not follow from the instruction'),
    'sql': (test_sql.FILE, [QUERY, test_sql.QUESTION, fenced(test_sql.QUERY, 'sql')],
            fenced("SELECT name FROM city WHERE name IN ('Bonn', 'Köln')", 'sql'), 'sql: other rows on varied data'),
    'terminal': (File('a', 'a.sh', 'ls'), [SHELL, fenced(test_terminal.AGAIN, 'bash')], fenced('true', 'bash'),
                 'terminal: another solution does not reach the goal'),
    'translation': (test_translation.PROBLEM, [fenced(test_translation.JAVASCRIPT, 'js')],
                    fenced(test_translation.JAVASCRIPT.replace('|| null', ''), 'js'), 'verify: wrong answer'),
}  # fmt: skip


def made(name, seed, answers, out, pool):
  left = list(answers)
  with ScriptedEndpoint(lambda body: left.pop(0)) as server, Endpoint(server.url, 'm') as endpoint:
    return run.run(domains.load(name), [seed], out, endpoint, count=1, pool=pool).report


@pytest.mark.parametrize('name', SCRIPTS)
def test_right_samples_are_kept_and_wrong_ones_counted_by_their_rule(name, tmp_path, pool):
  seed, answers, wrong, rule = SCRIPTS[name]
  report = made(name, seed, answers, tmp_path / 'right.jsonl', pool)
  assert report['funnel'] == {'read': 1, 'kept': 1, 'drops': {}, 'seen': {}} and report['usage']['requests'] == len(answers)
  document = from_json((tmp_path / 'right.jsonl').read_text())
  assert document.checks and report['checks'] == dict.fromkeys(sorted(document.checks), 1)
  report = made(name, seed, [*answers[:-1], wrong], tmp_path / 'wrong.jsonl', pool)
  assert report['funnel']['drops'] == {rule: 1} and not (tmp_path / 'wrong.jsonl').read_text()
  report = made(name, seed, [''] * len(answers), tmp_path / 'silent.jsonl', pool)
  (found,) = report['funnel']['drops']
  assert found.startswith(name) and json.loads((tmp_path / 'silent.funnel.json').read_text()) == report
