"""Changes as edits: the old code and a request, answered by the new code or by the patch."""

from iquest_jax.data.build import edits
from iquest_jax.data.documents import Commit, Drop, Transition
from iquest_jax.text.tokenizer import Tokenizer

PATCH = 'diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n same\n--- x\n+++ y\n'


def test_an_edit_shows_both_sides_of_the_patch():
  assert edits.sides(PATCH) == ('same\n-- x\n', 'same\n++ y\n')
  request, answer = edits.conversation(Commit('1', 'Say y\n', PATCH)).messages
  assert request == {'role': 'user', 'content': 'Say y\n```\nsame\n-- x\n```'}
  assert answer == {'role': 'assistant', 'content': '```\nsame\n++ y\n```'}
  assert not edits.conversation(Commit('1', 'Add\n', 'diff --git a/a b/a\n@@ -0,0 +1 @@\n+new\n')).messages


def test_code_with_fences_stays_in_its_own():
  patch = 'diff --git a/a.md b/a.md\n@@ -1,3 +1,3 @@\n ````\n-x\n+y\n ````\n'
  _, answer = edits.conversation(Commit('1', 'Say y\n', patch)).messages
  assert answer['content'] == '`````\n````\ny\n````\n`````'


def test_an_edit_of_a_repository_shows_files_and_is_answered_by_the_patch():
  tokenizer = Tokenizer.train([PATCH], 300)
  transition = Transition('1', 'r', 'Say y\n', PATCH, (('a', 'same\n-- x\n'),), (('other', 'z\n'),))
  request, answer = edits.repository_conversation(transition, 2000, tokenizer).messages
  assert request == {'role': 'user', 'content': 'Say y\na\n```\nsame\n-- x\n```'}
  assert answer == {'role': 'assistant', 'content': f'```diff\n{PATCH}```'}
  long = edits.repository_conversation(transition, 100, tokenizer)
  assert isinstance(long, Drop) and long.rule == 'transition: no room for the files to edit'
  new = Transition('1', 'r', 'Say y\n', PATCH, ())
  assert edits.repository_conversation(new, 2000, tokenizer).rule == 'transition: no room for the files to edit'
