"""The loop closes: a model of this project, served, writes the samples of a domain."""

import json

from iquest_jax.data.documents import Drop, Fact, File
from iquest_jax.data.synthesis import domains, run
from iquest_jax.data.synthesis.domain import Domain
from iquest_jax.endpoint.client import Endpoint

from tests.serve.serving import NAME, serving, small_engine


async def continued(file, tools):
  said = await tools.ask([{'role': 'user', 'content': file.text}], max_tokens=1000, temperature=0.0)
  return said or Drop('continued: nothing said')


async def said_again(said, tools):
  return Fact(said, said, 'x', checks=('said',))


CONTINUED = Domain('continued', (File,), continued, said_again)


def test_a_served_stage_is_asked_for_what_fits_and_the_run_ends_with_counts(tmp_path):
  """Its context holds 256 tokens, less than a domain asks for, and than the prompt of some."""
  files = [File(f'f{size}', 'a.py', 'a' * size, 'r') for size in (8, 400)]
  with serving(small_engine()) as server, Endpoint(server.url, NAME, waits_s=()) as endpoint:
    made = run.run(CONTINUED, files, tmp_path / 'continued.jsonl', endpoint, count=2)
    facts = run.run(domains.load('facts'), files, tmp_path / 'facts.jsonl', endpoint, count=2)
  longer = 'synthesis: longer than the context'
  assert made.report['funnel']['read'] == 2 and made.report['usage']['requests'] == 1
  assert made.report['funnel']['drops'].get(longer, 0) >= 1 and not made.stopped
  assert facts.report['funnel'] == {'read': 2, 'kept': 0, 'drops': {longer: 2}, 'seen': {}}
  assert json.loads((tmp_path / 'facts.funnel.json').read_text()) == facts.report
