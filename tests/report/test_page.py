"""The page shows what the files of a chain say, whatever they hold, and needs neither network nor script."""

import json
import re

import pytest

from iquest_jax.errors import UserError
from iquest_jax.report import page

from tests.report import small_chain
from tests.report.small_chain import Page

EVIL = '</pre></style><script>alert("1")</script><img src=x onerror=alert(1)>&amp;\x1b[31m\u202e\ud800"\'--><b>'
SHOWN = '</pre></style><script>alert("1")</script><img src=x onerror=alert(1)>&amp;␛[31m\ufffd\ufffd"\'--><b>'


def test_every_section_says_what_the_files_say(read, files):
  text = Page(page.page(read(files))).text
  flat = ' '.join(text.split())
  for expected in (
      '2 of 4', 'rl_thinking', 'not started', '15 of 20 steps',  # lineage
      'aaaa000000000001', 'bbbb000000000002', '1111111111111111', 'dense_to_loop', 'pretrain, step 20',
      'v1-7', '4 × TPU v6e',
      '6.00 → 4.00', '3.00 → 1.00',  # held-out loss
      'pass rate, held out', '0.400 → 0.600', 'pass rate, sampled', '0.75 → 0.75', 'clip fraction',
      'grpo; 2 prompts × 3 roll-outs per step; reward = 1 × pass rate + 0.5 × overlong; logged only: thinking',  # rewards
      'embedder', 'mlp 0-3', 'gradient norm', 'update / weight',  # layer groups
      'solved', '62.5', '+22.5', 'p9', 'no compiler',  # evaluation
      '25.0 %', '37.5 %', '1.5', 'plateau', 'facts no score', 'code 50.0%, facts 50.0%',  # mixture
      'text', '1,000', '955', '− duplicate 35', 'held out 50', '− check: wrong 3,988', '39 files in 4 clusters',  # data
      '4,321', '25.0 %', '0.5 s', '20.0 %', '90 s', 'rollout', '3.5 s',  # throughput
      'Task easy', 'Let me think.', 'failed: f(3): 4 is not 5', '7 of 20 tests', 'hidden test: [3] → 5', 'Easy.', 'x * 2',
  ):  # fmt: skip
    assert expected in flat or expected in text, expected
  assert 'cannot be read' not in text and 'cross-entropy' not in text


def test_what_is_not_there_is_said_in_one_line_in_its_place(read):
  found = read({'pretrain/config.json': '{"stage": "pretrain", "size": "tiny"}'})
  text = Page(page.page(found)).text
  for line in (
      'pretrain: no checkpoint yet', 'No stage has reported a loss yet.', 'No stage of this chain learns from rewards yet.',
      'No stage has been evaluated yet.', 'There are no sampled answers yet', 'Its rows have no manifest here.',
      'No documents have been prepared', 'No stage has reported its speed yet.', 'not started',
      'No stage has reported its layer groups yet.',
  ):  # fmt: skip
    assert line in text, line
  assert found.files.problems == []


def test_an_unfinished_evaluation_is_said(read, files):
  files['rl_thinking/evaluation/20/small_programs/records.jsonl'] = '{}\n{}\n{}\n{"cut'
  assert 'rl_thinking, step 20: not finished; 2 samples so far.' in Page(page.page(read(files))).text


def test_a_folder_without_a_stage_is_refused(read):
  with pytest.raises(UserError, match='holds no stage; name the folder of a chain'):
    read({'rows/pretrain/manifest.json': '{}'})


def hostile(value):
  """A value of JSON in which every text, names of fields of free mappings included, is hostile."""
  free = (
      'figures',
      'rewards',
      'shares',
      'loss_by_source',
      'funnels',
      'drops',
      'seen',
      'missing',
      'results',
      'weights',
      'reasons',
  )
  if isinstance(value, dict):
    renamed = (
        lambda name, inner: {f'{key}{EVIL}': hostile(one) for key, one in inner.items()}
        if name in free
        else hostile(inner)
    )
    return {name: renamed(name, inner) if isinstance(inner, dict) else hostile(inner) for name, inner in value.items()}
  if isinstance(value, list):
    return [hostile(inner) for inner in value]
  return (
      value + EVIL
      if isinstance(value, str) and value not in ('eval', 'train', 'agent', 'assistant', 'pretrain')
      else value
  )


def test_whatever_files_hold_is_shown_as_text(read, files):
  changed = {}
  for path, text in files.items():
    values = [hostile(json.loads(line)) for line in text.splitlines()]
    changed[path] = small_chain.lines(values) if path.endswith('.jsonl') else json.dumps(values[0])
  source = page.page(read(changed))
  found = Page(source)  # no attribute that runs or loads, and all that is opened is closed
  assert found.text.count(SHOWN) > 60
  assert not {'script', 'img', 'link', 'iframe', 'object', 'form', 'title/script'} & set(found.elements)
  assert not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]', source)
  assert 'alert' not in found.rules


def test_names_of_files_are_shown_as_text(read, files):
  name = '<b onclick=alert(1)>&amp;'
  found = read(files | {f'{name}/config.json': '{', f'pretrain/evaluation/5/{name}/results.json': '{'})
  assert len(found.files.problems) == 2
  assert Page(page.page(found)).text.count(name) >= 4


def test_the_page_may_load_and_run_nothing(read, files):
  source = page.page(read(files))
  assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in source
  assert not re.search(r'url\(|@import|https?:', source)


def test_the_page_is_written_whole_and_the_same_from_the_same_files(read, files, tmp_path):
  first = page.write(read(files), tmp_path / 'report.html').read_bytes()
  assert page.write(read(files), tmp_path / 'report.html').read_bytes() == first
  assert not list(tmp_path.glob('*.partial'))


DAMAGE = [b'{"cut', b'\x00\xff\xfe', b'[1, 2]\n', b'', b'null\n', b'{"kind": 3}\n', b'[' * 100_000]
long = lambda *values: pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize('damage', [*DAMAGE[:3], *map(long, DAMAGE[3:])])
def test_a_damaged_file_is_named_and_the_rest_is_shown(read, files, damage):
  for path in files:
    found = read(files | {path: damage})
    text = page.page(found)
    # Lines that a kill cut off, and JSON without what is asked for, are not damage.
    if path.endswith('.json') and damage != b'{"kind": 3}\n':
      assert any(problem.startswith(f'{path}: ') for problem in found.files.problems), (path, damage)
      assert f'{path}: ' in text
    assert 'pretrain' in text and 'rl_instruct' in text


def test_a_damaged_line_is_counted_and_the_others_are_shown(read, files):
  path = 'pretrain/metrics.jsonl'
  whole = files[path].splitlines(keepends=True)
  found = read(files | {path: ''.join([*whole[:5], 'dam{aged\n', *whole[5:], '{"kind": "train", "st'])})
  assert found.files.problems == [f'{path}: 1 damaged line left out']
  assert found.get('pretrain').records == read(files).get('pretrain').records


@pytest.mark.parametrize('every', [4, long(1)])
def test_values_of_any_type_never_end_the_report(read, files, every):
  """Each part of each file in turn becomes a value of another type."""
  strange = [None, True, -1, 1e400, 10**400, 'x', [], [{}], {}, {'x': {'y': []}}, [[['x']]]]
  turn = 0
  read(files)
  for path, text in files.items():
    values = [json.loads(line) for line in text.splitlines()[:3]]
    for place in list(places(values))[::every]:
      turn += 1
      changed = json.loads(json.dumps(values))
      inner = changed
      for key in place[:-1]:
        inner = inner[key]
      inner[place[-1]] = strange[turn % len(strange)]
      page.page(read({path: small_chain.lines(changed) if path.endswith('.jsonl') else json.dumps(changed[0])}))
    read({path: text})
  assert turn > 400 / every


def places(value, path=()):
  if len(path) > 1:
    yield path
  if isinstance(value, (dict, list)):
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
      yield from places(inner, (*path, key))
