"""From documents to examples: builders, formats and the table of sources."""

import dataclasses

import numpy as np
import pytest

from experiments import mixtures
from iquest_jax.data import sources
from iquest_jax.data.build.fim import Proportions
from iquest_jax.data.documents import Commit, Conversation, File, FimSplit, RepositoryView
from iquest_jax.data.format import commit as commit_format
from iquest_jax.data.format import fim as fim_format
from iquest_jax.data.format import repository as repository_format
from iquest_jax.data.format import text as text_format
from iquest_jax.text.example import build
from iquest_jax.text.tokenizer import SMALLEST, Tokenizer

TOKENIZER = Tokenizer.train([], SMALLEST)
SPLIT = FimSplit('a', 'b', 'c')
HOW = sources.Rendering(context=64, seed=0, learn='all', fim=Proportions(0.5, 0.5, {'lines': 1.0}))

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


def test_a_commit_that_edits_nothing_gives_an_empty_example():
  commit = Commit('1', 'Add', 'diff --git a/a b/a\n@@ -0,0 +1 @@\n+new')
  (example,) = sources.render('code_edit', commit, TOKENIZER, HOW)
  assert len(example.tokens) == len(example.loss_weights) == 0


def test_tools_of_a_conversation_reach_the_example():
  conversation = Conversation('1', ({'role': 'user', 'content': 'hi'},), ({'name': 'search'},))
  (example,) = sources.render('agent_trajectories', conversation, TOKENIZER, HOW)
  assert '<tools>\n{"name": "search"}\n</tools>' in TOKENIZER.decode(example.tokens)


def test_what_is_learned_of_a_chat_follows_from_the_stage():
  messages = ({'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'yes'})
  learned = {}
  for learn in sources.LEARN:
    how = dataclasses.replace(HOW, learn=learn)
    (example,) = sources.render('chat_instruct', Conversation('1', messages), TOKENIZER, how)
    learned[learn] = TOKENIZER.decode(example.tokens[example.loss_weights == 1])
  assert learned['assistant'] == 'yes<|im_end|>'
  assert learned['all'] == '<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n'


def test_completions_follow_the_proportions_of_the_stage():
  file = File('1', 'a.py', 'def f(x):\n  return x\n' * 3)
  shares = {}
  for share in (0.0, 1.0):
    how = dataclasses.replace(HOW, fim=Proportions(share, spm=0.0, levels={'lines': 1.0}))
    shares[share] = TOKENIZER.decode(sources.render('file_level', file, TOKENIZER, how)[0].tokens)
  assert shares[0.0] == f'{file.text}<|endoftext|>' and shares[1.0].startswith('<|fim_prefix|>')


def test_the_mixtures_name_every_source_of_the_table():
  tables = [value for name, value in vars(mixtures).items() if name.isupper()]
  phases = [phase for table in tables for phase in (table if isinstance(table, tuple) else (table,))]
  assert len(phases) == 13 and set().union(*phases) == sources.SOURCES.keys()
