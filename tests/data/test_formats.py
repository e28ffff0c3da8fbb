"""From documents to examples: builders, formats and the table of sources."""

import numpy as np
import pytest

from experiments import mixtures
from iquest_jax.data import sources
from iquest_jax.data.documents import Commit, Conversation, File, FimSplit, RepositoryView
from iquest_jax.data.format import commit as commit_format
from iquest_jax.data.format import fim as fim_format
from iquest_jax.data.format import repository as repository_format
from iquest_jax.data.format import text as text_format
from iquest_jax.errors import UserError
from iquest_jax.text.example import build
from iquest_jax.text.tokenizer import SMALLEST, Tokenizer

TOKENIZER = Tokenizer.train([], SMALLEST)
SPLIT = FimSplit('a', 'b', 'c')

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
    'completion in a repository, suffix first': (
        repository_format.segments(RepositoryView('r', BEFORE[:1], 'z.py', FimSplit('a', 'b', 'c', suffix_first=True))),
        '<|repo_name|>r\n<|file_sep|>x.py\nx = 1\n<|file_sep|>z.py\n'
        '<|fim_prefix|><|fim_suffix|>c<|fim_middle|>ab<|im_end|>',
    ),
}


@pytest.mark.parametrize('name', FORMATTED)
def test_a_format_writes_what_the_report_shows_and_learns_all_of_it(name):
  segments, text = FORMATTED[name]
  example = build(TOKENIZER, segments)
  assert TOKENIZER.decode(example.tokens) == text and example.loss_weights.min() == 1
  for token in ('<|endoftext|>', '<|im_end|>'):
    assert np.count_nonzero(example.tokens == TOKENIZER.id(token)) == text.count(token)


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
