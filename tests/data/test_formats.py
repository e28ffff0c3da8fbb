"""From documents to examples: builders, formats and the table of sources."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import mixtures
from iquest_jax.data import sources
from iquest_jax.data.build import context as context_builder
from iquest_jax.data.build import fim
from iquest_jax.data.documents import Commit, Conversation, File, FimSplit, Repository, RepositoryView
from iquest_jax.data.format import commit as commit_format
from iquest_jax.data.format import fim as fim_format
from iquest_jax.data.format import repository as repository_format
from iquest_jax.data.format import text as text_format
from iquest_jax.data.read.jsonl import read_jsonl
from iquest_jax.data.tiny import packages
from iquest_jax.errors import UserError
from iquest_jax.text.example import build
from iquest_jax.text.tokenizer import Tokenizer

CODE = [document.text for document, _ in zip(packages.code(), range(60))]
TOKENIZER = Tokenizer.train(CODE, 600)
SPLIT = FimSplit('a', 'b', 'c')


def whole(split):
  return split.prefix + split.middle + split.suffix


@given(st.text(), st.sampled_from(fim.LEVELS), st.integers())
def test_a_cut_loses_nothing_of_any_text(text, level, seed):
  assert whole(fim.split(text, level, random.Random(seed))) == text


@given(st.sampled_from(CODE), st.sampled_from(fim.LEVELS), st.integers(), st.sampled_from(['\n', '\r\n', '\r']))
def test_a_cut_loses_nothing_of_real_code(code, level, seed, ending):
  text = code.replace('\n', ending)
  assert whole(fim.split(text, level, random.Random(seed))) == text


@pytest.mark.parametrize('ending', ['\n', '\r\n'])
def test_syntax_levels_cut_whole_nodes(ending):
  text = ending.join(['é = "ü" + f(1)', 'def g(a):', '  """ö"""', '  return a', 'y = f"{x!r:>{w}}"', ''])
  middles = {level: {fim.split(text, level, random.Random(i)).middle for i in range(200)} for level in fim.LEVELS}
  assert middles['function'] == {ending.join(['def g(a):', '  """ö"""', '  return a'])}
  assert {'é = "ü" + f(1)', 'return a', 'y = f"{x!r:>{w}}"'} <= middles['statement']
  assert {'"ü"', 'f(1)', '1', 'é', 'a', 'f"{x!r:>{w}}"'} <= middles['expression']
  assert not {'x', 'w'} & middles['expression']  # Python 3.11 does not know positions inside an f-string
  assert all(text.startswith(middle) or ending + middle in text for middle in middles['lines'] if middle)


BEFORE = (('x.py', 'x = 1'), ('y.py', 'y = 2\n'))
FORMATTED = {
    'text': (text_format.segments(File('1', 'a.py', 'x = 1\n')), 'x = 1\n<|endoftext|>'),
    'commit': (commit_format.segments(Commit('1', 'Say y\n', 'diff\n')), 'Say y\n\ndiff\n<|endoftext|>'),
    'whole file': (fim_format.segments(File('1', 'a.py', 'x = 1\n')), 'x = 1\n<|endoftext|>'),
    'completion': (fim_format.segments(SPLIT), '<|fim_prefix|>a<|fim_suffix|>c<|fim_middle|>b<|im_end|>'),
    'repository': (
        repository_format.segments(RepositoryView('r', BEFORE, 'z.py', 'z = 3')),
        '<|repo_name|>r\n<|file_sep|>x.py\nx = 1\n<|file_sep|>y.py\ny = 2\n<|file_sep|>z.py\nz = 3<|endoftext|>',
    ),
    'completion in a repository': (
        repository_format.segments(RepositoryView('r', BEFORE, 'z.py', SPLIT)),
        '<|repo_name|>r\n<|file_sep|>x.py\nx = 1\n<|file_sep|>y.py\ny = 2\n<|file_sep|>z.py\n'
        '<|fim_prefix|>a<|fim_suffix|>c<|fim_middle|>b<|im_end|>',
    ),
}


@pytest.mark.parametrize('name', FORMATTED)
def test_a_format_writes_what_the_report_shows_and_learns_all_of_it(name):
  segments, text = FORMATTED[name]
  example = build(TOKENIZER, segments)
  assert TOKENIZER.decode(example.tokens) == text and example.loss_weights.min() == 1
  for token in ('<|endoftext|>', '<|im_end|>'):
    assert np.count_nonzero(example.tokens == TOKENIZER.id(token)) == text.count(token)


@pytest.mark.parametrize('source', ['file_level', 'repository_level'])
@pytest.mark.parametrize('context', [128, 512])
def test_half_of_the_files_are_completions_and_each_fits_a_row(corpus, source, context):
  completions, documents = 0, list(zip(read_jsonl(corpus, source), range(120)))
  for document, _ in documents:
    example = sources.render(source, document, TOKENIZER, context, 0)
    again = sources.render(source, document, TOKENIZER, context, 0)
    assert np.array_equal(example.tokens, again.tokens)
    if TOKENIZER.id('<|fim_middle|>') in example.tokens:
      completions += 1
      assert len(example.tokens) <= context
  assert 0.35 < completions / len(documents) < 0.65


def test_a_completion_shows_the_two_most_similar_files():
  names = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta_', 'theta', 'iota_']
  # File n shares the first n names with the target; each name alone is on a line.
  target = '\n'.join(names) + '\n'
  files = tuple((f'{n}.py', '\n'.join([*names[:n], f'other_{n}', ''])) for n in (5, 1, 7, 3, 0))
  shown = set()
  repository = Repository('1', 'r', (*files, ('t.py', target)))
  for seed in range(60):
    view = context_builder.repository(repository, 2000, TOKENIZER, random.Random(seed))
    if isinstance(view.target, FimSplit) and view.path == 't.py':
      assert whole(view.target) == target
      shown.add(tuple(path for path, _ in view.context))
  assert shown == {('5.py', '7.py')}  # the most similar one comes last, next to the target


def test_a_document_of_the_wrong_kind_is_named():
  with pytest.raises(UserError, match='"7" of "chat_instruct" must be a conversation, got a file'):
    sources.check('chat_instruct', File('7', 'a', 'b'))
  with pytest.raises(UserError, match='"7" of "code_edit" must be a commit, got a conversation'):
    sources.check('code_edit', Conversation('7', ()))
  with pytest.raises(UserError, match='did you mean "web_text"'):
    sources.check('web_txt', File('7', 'a', 'b'))


def test_a_commit_that_edits_nothing_gives_an_empty_example():
  commit = Commit('1', 'Add', 'diff --git a/a b/a\n@@ -0,0 +1 @@\n+new')
  example = sources.render('code_edit', commit, TOKENIZER, 64, 0)
  assert len(example.tokens) == len(example.loss_weights) == 0


def test_tools_of_a_conversation_reach_the_example():
  conversation = Conversation('1', ({'role': 'user', 'content': 'hi'},), ({'name': 'search'},))
  example = sources.render('agent_trajectories', conversation, TOKENIZER, 64, 0)
  assert '<tools>\n{"name": "search"}\n</tools>' in TOKENIZER.decode(example.tokens)


def test_mixtures_and_the_table_name_the_same_sources():
  tables = [value for name, value in vars(mixtures).items() if name.isupper()]
  phases = [phase for table in tables for phase in (table if isinstance(table, tuple) else (table,))]
  assert len(phases) == 11 and set().union(*phases) == sources.SOURCES.keys()
