"""Formats: what is learned in a chat, and that filling in the middle loses nothing."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data import fim, formats, sources
from iquest_jax.data.documents import Document
from iquest_jax.data.tiny import packages
from iquest_jax.errors import UserError
from iquest_jax.text import chat
from iquest_jax.text.example import build
from iquest_jax.text.tokenizer import Tokenizer

FILES = [document.files[0] for document, _ in zip(packages.code(), range(60))]
TOKENIZER = Tokenizer.train([text for _, text in FILES], 600)
MESSAGES = st.lists(
    st.fixed_dictionaries({'role': st.sampled_from(['system', 'user', 'assistant']), 'content': st.text()}),
    min_size=1,
    max_size=5,
)


@given(MESSAGES)
def test_only_what_the_assistant_says_and_its_end_is_learned(messages):
  example = build(TOKENIZER, chat.segments(messages))
  parts = ''.join(f'<|im_start|>{m["role"]}\n{m["content"]}<|im_end|>\n' for m in messages)
  assert TOKENIZER.decode(example.tokens) == parts
  learned = TOKENIZER.decode(example.tokens[example.loss_weights == 1])
  assert learned == ''.join(f'{m["content"]}<|im_end|>' for m in messages if m['role'] == 'assistant')
  assert set(np.unique(example.loss_weights)) <= {0.0, 1.0}
  ends = example.tokens == TOKENIZER.id('<|im_end|>')
  assert ends.sum() == len(messages)  # whatever the contents say


def test_tool_calls_and_answers_stand_as_the_report_has_them():
  call = {'role': 'assistant', 'content': 'Look.', 'tool_calls': [{'name': 'search', 'arguments': {'pattern': 'é'}}]}
  assert chat.rendered(call) == (
      'assistant',
      'Look.\n<tool_call>\n{"name": "search", "arguments": {"pattern": "é"}}\n</tool_call>',
  )
  answer = {'role': 'tool', 'content': 'none'}
  assert chat.rendered(answer) == ('user', '<tool_response>\nnone\n</tool_response>')


@given(st.text(), st.sampled_from(fim.LEVELS), st.integers())
def test_a_cut_loses_nothing_of_any_text(text, level, seed):
  assert ''.join(fim.split(text, level, random.Random(seed))) == text


@given(st.sampled_from(FILES), st.sampled_from(fim.LEVELS), st.integers(), st.sampled_from(['\n', '\r\n', '\r']))
def test_a_cut_loses_nothing_of_real_code(file, level, seed, ending):
  text = file[1].replace('\n', ending)
  assert ''.join(fim.split(text, level, random.Random(seed))) == text


@pytest.mark.parametrize('ending', ['\n', '\r\n'])
def test_syntax_levels_cut_whole_nodes(ending):
  text = ending.join(['é = "ü" + f(1)', 'def g(a):', '  """ö"""', '  return a', 'y = f"{x!r:>{w}}"', ''])
  middles = {level: {fim.split(text, level, random.Random(i))[1] for i in range(200)} for level in fim.LEVELS}
  assert middles['function'] == {ending.join(['def g(a):', '  """ö"""', '  return a'])}
  assert {'é = "ü" + f(1)', 'return a', 'y = f"{x!r:>{w}}"'} <= middles['statement']
  assert {'"ü"', 'f(1)', '1', 'é', 'a', 'f"{x!r:>{w}}"'} <= middles['expression']
  assert not {'x', 'w'} & middles['expression']  # inside an f-string Python 3.11 does not know the place
  assert all(text.startswith(middle) or ending + middle in text for middle in middles['lines'] if middle)


def test_the_file_format_is_the_reports():
  example = build(TOKENIZER, fim.file_segments(('a', 'b', 'c')))
  assert TOKENIZER.decode(example.tokens) == '<|fim_prefix|>a<|fim_suffix|>c<|fim_middle|>b<|im_end|>'
  assert example.loss_weights.min() == 1


def test_the_repository_format_is_the_reports():
  before = [('x.py', 'x = 1'), ('y.py', 'y = 2\n')]
  example = build(TOKENIZER, fim.repository_segments('r', before, ('z.py', ('a', 'b', 'c'))))
  assert TOKENIZER.decode(example.tokens) == (
      '<|repo_name|>r\n<|file_sep|>x.py\nx = 1\n<|file_sep|>y.py\ny = 2\n<|file_sep|>z.py\n'
      '<|fim_prefix|>a<|fim_suffix|>c<|fim_middle|>b<|im_end|>'
  )


@pytest.mark.parametrize('source', ['file_level', 'repository_level'])
@pytest.mark.parametrize('context', [128, 512])
def test_half_of_the_files_are_completions_and_each_fits_a_row(source, context):
  completions, all_ = 0, 0
  for document, _ in zip(sources.read(source, 0), range(120)):
    example = formats.render(source, document, TOKENIZER, context, 0)
    again = formats.render(source, document, TOKENIZER, context, 0)
    assert np.array_equal(example.tokens, again.tokens)
    all_ += 1
    if TOKENIZER.id('<|fim_middle|>') in example.tokens:
      completions += 1
      assert len(example.tokens) <= context
  assert 0.35 < completions / all_ < 0.65


def test_a_document_of_the_wrong_kind_is_named():
  text = Document('7', 'chat_instruct', (('a', 'b'),))
  with pytest.raises(UserError, match='"7" of "chat_instruct" has no messages'):
    formats.check('chat_instruct', text)
  with pytest.raises(UserError, match='"7" of "code_edit" is no commit'):
    formats.check('code_edit', text)
  with pytest.raises(UserError, match='did you mean "web_text"'):
    formats.check('web_txt', text)


def test_a_commit_that_edits_nothing_gives_an_empty_example():
  patch = 'diff --git a/a b/a\n@@ -0,0 +1 @@\n+new'
  example = formats.render('code_edit', Document('1', '', (('message', 'Add'), ('patch', patch))), TOKENIZER, 64, 0)
  assert len(example.tokens) == len(example.loss_weights) == 0


def test_every_source_has_a_format():
  assert formats.FORMATS.keys() == sources.BUILT_IN.keys()
