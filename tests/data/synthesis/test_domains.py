"""The table of domains: each loads, and nonsense that a model says is a counted drop in every one of them."""

import json

import pytest

from iquest_jax.data.documents import Commit, File, Problem, Repository, Transition
from iquest_jax.data.synthesis import domains, run
from iquest_jax.endpoint.client import Endpoint
from iquest_jax.errors import UserError

from tests.endpoint.scripted import ScriptedEndpoint

SOURCE = '"""Sums."""\n\ndef add(a, b=1):\n  """Returns the sum of two numbers."""\n  return a + b\n'
PATCH = '--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n'
SEEDS = [
    File('f', 'sums.py', SOURCE, 'acme/sums'),
    File('s', 'a.sql', 'CREATE TABLE t (a INTEGER);\nINSERT INTO t VALUES (1);\nINSERT INTO t VALUES (2);\n'),
    Repository('r', 'acme/sums', (('a.py', 'import b\n'), ('b.py', 'x = 1\n'))),
    Commit('c', 'Two', PATCH),
    Transition('t', 'acme/sums', 'Two', PATCH, (('a.py', 'x = 1\n'),)),
    Problem('p', 'Print the sum.', ({'input': '1 2', 'output': '3'},), 'print(sum(map(int, input().split())))\n'),
]
NONSENSE = [
    '', 'no', '{}', '[]', 'null', '[' * 5000, '\ud83d', '\0', '```json\n{"question": 1, "answers": 3}\n```',
    '## Problem\n## Tools', '## Statement\nx\n## Examples\n7\n## Solution\n```\n## Generator\n', '<think>',
    '```python\nwhile True: pass\n```',
]  # fmt: skip


@pytest.mark.parametrize('name', domains.DOMAINS)
def test_nonsense_is_a_counted_drop(tmp_path, pool, name):
  domain, said = domains.load(name), iter(NONSENSE * 50)
  assert domain.name == name and domain.takes
  out = tmp_path / 'made.jsonl'
  with ScriptedEndpoint(lambda body: next(said)) as server, Endpoint(server.url, 'm', parallel=1) as endpoint:
    report = run.run(domain, SEEDS, out, endpoint, count=14, pool=pool, parallel=1).report
  funnel = report['funnel']
  assert funnel['read'] == 14 and funnel['kept'] == 0 and out.read_bytes() == b''
  assert all(rule.startswith((f'{name}: ', 'verify: ', 'judges: ')) for rule in funnel['drops']), funnel
  assert not any(character.isdigit() for character in json.dumps(list(funnel['drops'])))


def test_a_domain_that_does_not_exist_is_named_with_the_nearest():
  with pytest.raises(UserError, match='did you mean "mathematics"'):
    domains.load('mathematic')
