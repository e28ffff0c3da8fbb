"""Inspection shows every token of a row, what is special, where segments end, and what is learned."""

import io

import numpy as np
import pytest
from rich.console import Console

from iquest_jax.data import inspect
from iquest_jax.data.rows import packing
from iquest_jax.errors import UserError
from iquest_jax.text import chat
from iquest_jax.text.example import Example, build
from iquest_jax.text.tokenizer import Tokenizer

from tests.small_rows import write_manifest, write_segment

CONTEXT = 96
CHAT = (
    {'role': 'user', 'content': 'Zähle 🦊!'},
    {'role': 'assistant', 'content': 'one', 'thinking': 'hm'},
)


@pytest.fixture(name='tokenizer', scope='module')
def _tokenizer():
  return Tokenizer.train(['a b c'], 300)


@pytest.fixture(name='row', scope='module')
def _row(tokenizer):
  plain = Example(np.asarray(tokenizer.encode('x = 1\n<|im_end|>\x1b[31m\u202e')), np.full(1, 1.0, np.float32))
  plain = Example(plain.tokens, np.where(np.arange(len(plain.tokens)) < 3, 0.5, 1.0).astype(np.float32))
  examples = [build(tokenizer, chat.segments(CHAT)), plain]
  (row,) = packing.pack(examples, CONTEXT, True, packing.Counts())
  return row


def shown(renderable, width=80, colour=True):
  console = Console(file=io.StringIO(), width=width, force_terminal=colour, color_system='standard' if colour else None)
  console.print(renderable, soft_wrap=True)
  return console.file.getvalue()


def styles(renderable):
  """[(text, style)] as a terminal would show them."""
  console = Console(width=80, color_system='standard', force_terminal=True, legacy_windows=False)
  return [(s.text, str(s.style)) for s in console.render(renderable) if s.text.strip()]


def test_all_text_of_a_row_is_shown_with_its_special_tokens(row, tokenizer):
  text = shown(inspect.render(row, tokenizer), colour=False)
  assert '<|im_start|>user\nZähle 🦊!<|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</think>\none<|im_end|>' in text
  assert 'segment 1 · ' in text and 'segment 2 · ' in text and 'segment 3' not in text


def test_learned_text_is_plain_and_the_rest_is_dim_or_italic(row, tokenizer):
  found = styles(inspect.render(row, tokenizer))
  of = lambda part: [style for text, style in found if part in text and not text.startswith('─')]
  assert of('user') == ['dim'] and of('Zähle') == ['dim'] and of('one') == ['none'] or of('one') == ['default']
  assert all('italic' in style for style in of('x')[:1])
  specials = of('<|im_start|>')
  assert all('magenta' in style for style in specials) and 'dim' in specials[0]
  assert 'dim' not in of('<|im_end|>')[1] and 'magenta' in of('<|im_end|>')[1]
  assert 'cyan' in of('<think>')[0]


def test_text_that_only_looks_special_is_not_marked_and_moves_no_cursor(row, tokenizer):
  found = styles(inspect.render(row, tokenizer))
  assert not any('magenta' in style for text, style in found if '\N{SYMBOL FOR ESCAPE}' in text or '[31m' in text)
  text = shown(inspect.render(row, tokenizer), colour=False)
  assert '\x1b' not in text and '\u202e' not in text and '\N{SYMBOL FOR ESCAPE}[31m\ufffd' in text
  look_alike = [style for text, style in found if '<|im_end|>' in text]
  assert 'magenta' not in look_alike[-1]


def test_the_summary_counts_tokens_segments_padding_and_what_is_learned(row):
  used, learned = np.count_nonzero(row['segment_ids']), np.count_nonzero(row['loss_weights'])
  assert inspect.summary(row) == f'{used} tokens · 2 segments · {learned / used:.0%} learned · {CONTEXT - used} of padding'


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory, row, tokenizer):
  folder = tmp_path_factory.mktemp('rows')
  sources = {
      name: {split: [write_segment(folder, name, split, [row] * 5, CONTEXT)] for split in ('train', 'held_out')}
      for name in ('code', 'commits')
  }
  write_manifest(folder, sources, CONTEXT, tokenizer.fingerprint)
  return folder


def show(folder, tokenizer, **options):
  console = Console(file=io.StringIO(), width=100)
  inspect.show(folder, tokenizer, console, **options)
  return console.file.getvalue()


def test_rows_of_every_source_are_shown_evenly_spread(folder, tokenizer):
  text = show(folder, tokenizer)
  for name in ('code', 'commits'):
    assert f'{name} · row 0 of 5' in text and f'{name} · row 2 of 5' in text
  assert text.count('one<|im_end|>') == 4
  text = show(folder, tokenizer, source='code', count=50)
  assert text.count('code · row') == 5 and 'commits' not in text


def test_what_cannot_be_inspected_is_one_line(folder, tokenizer, tmp_path):
  other = Tokenizer.train(['d e f'], 310)
  for arguments, options, reason in (
      ((tmp_path, tokenizer), {}, 'inspect: .* has no rows; name the folder of a stage'),
      ((folder, tokenizer), {'source': 'commit'}, 'inspect: source.*commit.*commits'),
      ((folder, other), {}, 'another tokenizer'),
  ):
    with pytest.raises(UserError, match=reason) as error:
      show(*arguments, **options)
    assert '\n' not in str(error.value)
