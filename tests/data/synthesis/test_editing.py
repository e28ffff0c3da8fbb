"""Edits: the answer is the real change, and the instruction must lead to it without giving it away."""

import asyncio
import dataclasses
import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.documents import Commit, Drop, Transition
from iquest_jax.data.synthesis import editing, hunks

OLD = '# Sizes.\ndef area(w, h):\n  return w * h\n\n\ndef edge(w, h):\n  return w + h\n'
NEW = OLD.replace('return w + h', 'return 2 * (w + h)  # all four sides').replace('Sizes', 'Sizes of rectangles')
BLANK = ' '
PATCH = f"""diff --git a/lib/size.py b/lib/size.py
index 1..2 100644
--- a/lib/size.py
+++ b/lib/size.py
@@ -1,4 +1,4 @@
-# Sizes.
+# Sizes of rectangles.
 def area(w, h):
   return w * h
{BLANK}
@@ -5,3 +5,3 @@ def area(w, h):
{BLANK}
 def edge(w, h):
-  return w + h
+  return 2 * (w + h)  # all four sides
"""
INSTRUCTION = 'Function edge is to give the length of all four sides, not of two; say so at the end of its line.'
TRANSITION = Transition('t', 'me/size', 'Fix edge', PATCH, (('lib/size.py', OLD),))
GOOD = editing.Candidate('lib/size.py', OLD, PATCH, INSTRUCTION, ('', f'{NEW}\n\n'), 'me/size')


def verified(tools, candidate):
  return asyncio.run(editing.DOMAIN.verify(candidate, tools()))


def test_a_change_that_its_instruction_leads_to_is_kept(tools):
  asked = tools(INSTRUCTION, 'I cannot.', f'```python\n# another comment\n{NEW}```')
  made = asyncio.run(editing.DOMAIN.generate(TRANSITION, asked))
  assert made.instruction == INSTRUCTION and made.old == OLD
  found = verified(tools, made)
  assert found.checks == editing.CHECKS and found.repo == 'me/size'
  request, answer = (message['content'] for message in found.messages)
  assert request == f'{INSTRUCTION}\n\nlib/size.py\n```\n{OLD}```' and answer == f'```\n{NEW}```'


def test_a_commit_is_an_edit_of_what_its_hunk_shows(tools):
  patch = PATCH[: PATCH.index('@@ -1,4')] + PATCH[PATCH.index('@@ -5,3') :]
  old, new = '\ndef edge(w, h):\n  return w + h\n', '\ndef edge(w, h):\n  return 2 * (w + h)  # all four sides\n'
  answers = INSTRUCTION, f'```python\n{new}```', ''
  made = asyncio.run(editing.DOMAIN.generate(Commit('c', 'Fix edge', patch), tools(*answers)))
  assert made.old == old and verified(tools, made).messages[1]['content'] == f'```\n{new}```'
  assert asyncio.run(editing.DOMAIN.generate(Commit('c', 'Fix', PATCH), tools())).rule == 'editing: no old text'


@pytest.mark.parametrize(
    ('changes', 'rule'),
    [
        ({'attempts': (NEW.replace('2 *', '3 *'), OLD)}, 'editing: the change does not follow from the instruction'),
        ({'attempts': (OLD, '')}, 'editing: the change does not follow from the instruction'),
        ({'attempts': (NEW.replace('  return', 'return'),)}, 'editing: the change does not follow from the instruction'),
        ({'attempts': ()}, 'editing: the change does not follow from the instruction'),
        ({'instruction': ''}, 'editing: no instruction'),
        ({'instruction': 'Write return 2 * (w + h)  # all four sides.'}, 'editing: the instruction gives code away'),
        ({'instruction': f'```diff\n{PATCH}```'}, 'editing: the instruction gives code away'),
        ({'old': OLD.replace('w * h', 'w*h')}, 'editing: the patch does not apply'),
        ({'old': '\n' + OLD}, 'editing: the patch does not apply'),
        ({'patch': 'nonsense'}, 'editing: the patch does not apply'),
        ({'patch': PATCH[: PATCH.index('@@ -5')], 'attempts': (OLD,)}, 'editing: nothing changes'),
    ],
)
def test_planted_wrong_edits_are_rejected(tools, changes, rule):
  found = verified(tools, dataclasses.replace(GOOD, **changes))
  assert isinstance(found, Drop) and found.rule == rule


@pytest.mark.parametrize(
    ('changes', 'rule'),
    [
        ({'patch': ''}, 'editing: not one file'),
        ({'patch': PATCH + PATCH.replace('size', 'other')}, 'editing: not one file'),
        ({'patch': PATCH + '+  x\n' * 100}, 'editing: large change'),
        ({'files': ()}, 'editing: no old text'),
        ({'files': (('lib/size.py', OLD * 1000),)}, 'editing: long file'),
    ],
)
def test_changes_that_are_not_small_edits_of_one_file_are_dropped(tools, changes, rule):
  assert asyncio.run(editing.DOMAIN.generate(dataclasses.replace(TRANSITION, **changes), tools())).rule == rule


_LINES = st.lists(st.sampled_from(['a\n', 'b\n', '\n', '-- x\n', '++ y\n', '@@ z\n', 'c\f\r\n']), max_size=12)


@given(old=_LINES, new=_LINES, ends=st.tuples(st.booleans(), st.booleans()), context=st.integers(0, 3))
def test_a_patch_by_difflib_turns_the_old_text_into_the_new_one(old, new, ends, context):
  old, new = ([*lines, 'end'] if end else lines for lines, end in zip((old, new), ends))
  lines = difflib.unified_diff(old, new, 'a/x', 'b/x', n=context)
  marked = ''.join(line if line.endswith('\n') else f'{line}\n\\ No newline at end of file\n' for line in lines)
  if marked:
    patch = f'diff --git a/x b/x\n{marked}'
    assert hunks.apply(''.join(old), patch) == ''.join(new) and hunks.paths(patch) == ['x']
