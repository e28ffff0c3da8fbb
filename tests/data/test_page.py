"""The report shows every count and every sample, as text and never as markup, and needs no network."""

import collections
import html.parser
import io

import pytest
from rich.console import Console

from iquest_jax.data import page
from iquest_jax.data.funnel import Funnel

EVIL = '</pre><script>alert("1")</script>[bold]&amp;\x1b[31m\u202e'
SHOWN = '</pre><script>alert("1")</script>[bold]&amp;␛[31m\ufffd'


def funnel(read, seen=None, **drops):
  drops = {rule.replace('_', ' '): count for rule, count in drops.items()}
  return Funnel(read, read - sum(drops.values()), collections.Counter(drops), collections.Counter(seen or {})).to_json()


REPORT = {
    'funnels': {
        'text: deduplicate': funnel(90, {'held out': 7}, duplicate=12),
        'text: clean': funnel(96, too_short=4, too_long=1),
        'text: read': funnel(100, not_JSON=4),
        'text: decontaminate': funnel(91, contaminated=1),
        'chats: read': funnel(9_999),
    },
    'duplicates': {'file': {'clusters': 5, 'documents': 17}, 'commit': {'clusters': 0, 'documents': 0}},
    'contaminated': [{'document': 'd1', 'problem': 'humaneval/3', 'evidence': EVIL}],
    'characters': {'text': 4321},
    'languages': {'go': 1000, 'python': 3000},
}


def manifest(stage='sft'):
  segment = lambda documents, samples: {
      'examples': documents, 'rows': documents * 2, 'tokens': documents * 10, 'loss_weight': 1.0, 'samples': samples,
      'drops': {'too long for a row': 2}, 'languages': {'python': documents * 4, 'other': documents * 6},
      'checks': {'executed twice': documents},
  }  # fmt: skip
  entry = {'train': {'segments': [segment(30, ['<|im_start|>user\n<think>\n' + EVIL]), segment(11, [])]}, 'held_out': {}}
  shares = {'code': {'rows': 0.25, 'loss_weight': 0.375, 'epochs': 1.5}}
  return {'stage': stage, 'sources': {'code': entry}, 'shares': shares}


class Page(html.parser.HTMLParser):
  """Text and elements of a page; checks that what is opened is closed."""

  def __init__(self, text):
    super().__init__()
    self.text, self.elements, self.open, self.marks = '', collections.Counter(), [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.elements[tag] += 1
    assert not any(name.startswith('on') or name in ('src', 'srcset') for name, _ in attributes)
    assert all(value.startswith('#') for name, value in attributes if name == 'href')
    if tag != 'meta':
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] == ['mark']:
      self.marks.append(data)
    if self.open[-1:] != ['style']:
      self.text += data


@pytest.fixture(name='report')
def _report():
  return page.preparation(REPORT, [manifest()])


def printed(report, width=160):
  console = Console(file=io.StringIO(), width=width)
  page.tables(report, console)
  return console.file.getvalue()


def test_steps_are_in_the_order_in_which_documents_pass_and_nothing_is_lost(report):
  assert [(given, step) for given, step, _ in report.funnels] == [
      ('chats', 'read'), ('text', 'read'), ('text', 'clean'), ('text', 'decontaminate'), ('text', 'deduplicate'),
  ]  # fmt: skip
  assert report.totals() == {
      'documents read': 10_099, 'kept': 78, 'held out': 7, 'duplicates': 12, 'contaminated': 1, 'tokens in rows': 410,
  }  # fmt: skip
  (source,) = report.sources
  assert (source.examples, source.rows, source.tokens, source.rows_share, source.loss_share) == (41, 82, 410, 0.25, 0.375)
  assert source.drops == {'too long for a row': 4} and source.languages == {'other': 246, 'python': 164}


def test_terminal_and_page_show_every_count_and_rule(report):
  text = Page(page.page(report)).text
  for shown in (printed(report), text):
    for expected in (
        'text', 'read', 'clean', 'decontaminate', 'deduplicate', 'not JSON', 'too short', 'too long', '9,999', 'held out',
        'file', '17', 'humaneval/3', 'd1', 'sft', 'code', '82', '410', '25.0%', '37.5%', 'python 40%',
    ):  # fmt: skip
      assert expected in shown, expected
  assert 'commit' not in text.replace('commits', '') and 'go1,00025%' in text.replace(' ', '')
  assert 'too long for a row' in text


def test_the_terminal_leaves_out_steps_that_dropped_nothing_and_fits_80_columns():
  steps = ('read', 'clean', 'decontaminate', 'deduplicate')
  report = page.preparation({'funnels': {f'reasoning_thinking: {step}': funnel(8) for step in steps}}, [manifest()])
  text = printed(report, 80)
  assert 'reasoning_thinking' in text
  assert 'read' in text and 'deduplicate' in text and 'clean' not in text
  assert all(len(line) <= 80 for line in text.splitlines())


def test_whatever_documents_hold_is_shown_as_text(report):
  source = page.page(report)
  found = Page(source)
  assert found.text.count(SHOWN) == 2 and found.elements['script'] == 0 and '\x1b' not in source and '\u202e' not in source
  assert found.marks == ['<|im_start|>', '<think>']
  text = printed(report)
  assert SHOWN in text and '\x1b' not in text
  names = page.preparation({'funnels': {f'{EVIL}: {EVIL}': funnel(2, {EVIL: 1})}, 'languages': {EVIL: 1}}, [])
  assert Page(page.page(names)).elements['script'] == 0 and '[bold]' in printed(names)


def test_the_page_needs_no_network_and_is_written_whole(report, tmp_path):
  path = page.write(report, tmp_path / 'preparation.html')
  source = path.read_text(encoding='utf-8')
  assert source == page.page(report) and source.startswith('<!doctype html>')
  assert not any(word in source for word in ('http:', 'https:', 'url(', '@import'))
  assert 'prefers-color-scheme:dark' in source and 'name="viewport"' in source and '@media print' in source


def test_samples_are_printed_for_one_stage_and_left_to_the_page_for_several():
  one, two = (page.preparation(REPORT, [manifest(stage) for stage in stages]) for stages in (['sft'], ['sft', 'anneal']))
  assert 'Samples of code' in printed(one) and 'Samples of code' not in printed(two)
  assert Page(page.page(two)).elements['details'] == 2


def test_a_preparation_of_nothing_is_a_report_too():
  empty = page.preparation({}, [])
  assert Page(page.page(empty)).elements['section'] == 0 and printed(empty).strip()
  assert page.tables(empty, Console(file=io.StringIO(), width=40)) is None
