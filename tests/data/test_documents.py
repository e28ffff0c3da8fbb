"""Documents: one line of JSON of every kind and back, and what is wrong with a line that is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data.documents import (
    DIFFICULTIES,
    Commit,
    Conversation,
    Fact,
    File,
    Parallel,
    Preference,
    Problem,
    Repository,
    Transition,
    content_id,
    from_json,
    texts,
    to_json,
)

_TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=20)
_ID = _TEXT.filter(bool)
_ANY_FILES = st.lists(st.tuples(_TEXT, _TEXT), max_size=3).map(tuple)
_FILES = _ANY_FILES.filter(bool)
_MESSAGES = st.lists(st.fixed_dictionaries({'role': st.sampled_from(('user', 'assistant')), 'content': _TEXT}), min_size=1)
_TESTS = st.lists(st.fixed_dictionaries({'input': _TEXT, 'output': _TEXT}), min_size=1, max_size=2).map(tuple)
_CHECKS = st.lists(_TEXT, max_size=2).map(tuple)
_DIFFICULTY = st.sampled_from(('', *DIFFICULTIES))
DOCUMENTS = st.one_of(
    st.builds(File, _ID, _TEXT, _TEXT, _TEXT, _TEXT),
    st.builds(Repository, _ID, _TEXT, _FILES, _TEXT),
    st.builds(Commit, _ID, _TEXT, _TEXT, _TEXT),
    # A patch may only add files, and a repository may hold no others.
    st.builds(Transition, _ID, _TEXT, _TEXT, _TEXT, _ANY_FILES, _ANY_FILES, st.tuples(_TEXT, _TEXT)),
    st.builds(Problem, _ID, _TEXT, _TESTS, _TEXT, _TEXT, _TEXT, _DIFFICULTY, _CHECKS),
    st.builds(
        Conversation, _ID, _MESSAGES.map(tuple), st.lists(st.dictionaries(_TEXT, _TEXT), max_size=2).map(tuple), _TEXT,
        st.one_of(st.just(()), _TESTS), _TEXT, _DIFFICULTY, _CHECKS,
    ),
    st.builds(Fact, _ID, _TEXT, _TEXT, _TEXT, _TEXT, _CHECKS),
    st.builds(Preference, _ID, _MESSAGES.map(tuple), _ID, _ID, _TEXT, st.just(({'name': 'a'},))),
    st.builds(Parallel, _ID, st.lists(st.tuples(_TEXT, _TEXT), min_size=2, max_size=3).map(tuple), _TESTS, _TEXT, _CHECKS),
)


@given(DOCUMENTS)
def test_a_document_of_any_kind_is_one_line_and_back(document):
  line = to_json(document)
  assert '\n' not in line and from_json(line) == document
  assert all(isinstance(text, str) for text in texts(document))


def test_a_line_says_its_kind_and_may_leave_out_defaults():
  assert from_json('{"kind": "file", "id": "1", "path": "a", "text": "b"}') == File('1', 'a', 'b')
  written = '{"kind": "file", "id": "1", "path": "a", "text": "b", "repo": "", "licence": ""}'
  assert to_json(File('1', 'a', 'b')) == written


@pytest.mark.parametrize(
    'line, reason',
    [
        ('{"id": "1", "files": [["a", "b"]]', "Expecting ',' delimiter"),
        ('[]', 'a document must be a JSON object, got list'),
        ('{"id": "1"}', '"kind" must be one of file, repository, commit, transition, problem, conversation, fact, '
         'parallel, preference, got null'),
        ('{"kind": ["file"]}', 'got ["file"]'),
        ('{"kind": "file", "path": "a", "text": "b"}', '"id" is missing'),
        ('{"kind": "file", "id": "", "path": "a", "text": "b"}', '"id" is missing or empty'),
        ('{"kind": "file", "id": "1", "path": "a"}', '"text" is missing'),
        ('{"kind": "file", "id": 3, "path": "a", "text": "b"}', '"id" must be a string, got int'),
        ('{"kind": "file", "id": "1", "path": "a", "text": "b", "source": "c"}', 'a file has no field "source"'),
        ('{"kind": "repository", "id": "1", "name": "r", "files": []}', '"files" is missing or empty'),
        ('{"kind": "repository", "id": "1", "name": "r", "files": [["a"]]}', '"files" must be a list of [path, text]'),
        ('{"kind": "commit", "id": "1", "message": "a", "patch": null}', '"patch" must be a string'),
        ('{"kind": "problem", "id": "1", "statement": "a", "tests": []}', '"tests" is missing or empty'),
        ('{"kind": "problem", "id": "1", "statement": "a", "tests": [1]}', '"tests" must be a list of objects'),
        ('{"kind": "transition", "id": "1", "repo": "", "message": "", "patch": "", "files": [["a", ""]], "span": ["b"]}',
         '"span" must be two strings'),
        ('{"kind": "fact", "id": "1", "question": "a", "answer": "b", "checks": "c"}',
         '"checks" must be a list of strings'),
        ('{"kind": "parallel", "id": "1", "sides": [["go", "a"]], "tests": [{}]}',
         '"sides" must have at least two languages'),
        ('{"kind": "problem", "id": "1", "statement": "a", "tests": [{}], "difficulty": "mild"}',
         '"difficulty" must be one of easy, medium, hard, got "mild"'),
        ('{"kind": "preference", "id": "1", "messages": [{"role": "user", "content": "a"}], "chosen": "", "rejected": "b"}',
         '"chosen" is missing or empty'),
        ('{"kind": "preference", "id": "1", "messages": [{"role": "user", "content": "a"}], "chosen": "b"}',
         '"rejected" is missing or empty'),
        ('{"kind": "conversation", "id": "1", "messages": []}', '"messages" is missing or empty'),
        ('{"kind": "conversation", "id": "1", "messages": [3]}', '"messages" must be a list of objects'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "bot", "content": ""}]}', 'got "bot"'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "user", "content": null}]}', '"content"'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "user", "content": "", "thinking": 1}]}', '"thinking"'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "user", "content": "", "tool_calls": [{}]}]}',
         '"tool_calls"'),
        ('{"kind": "conversation", "id": "1", "messages": [{"role": "user", "content": ""}], "tools": ["a"]}', '"tools"'),
    ],
)  # fmt: skip
def test_a_line_that_is_no_document_says_why(line, reason):
  with pytest.raises(ValueError) as error:
    from_json(line)
  assert reason in str(error.value) and '\n' not in str(error.value)


def test_the_text_of_a_preference_is_both_answers_and_what_they_answer():
  messages = ({'role': 'user', 'content': 'a'},)
  assert sorted(texts(Preference('1', messages, 'b', 'c', rule='d'))) == ['a', 'b', 'c']


def test_an_id_of_content_tells_where_its_parts_end():
  assert content_id('a', 'b') == content_id('a', 'b') != content_id('ab') != content_id('a\nb')
  assert len(content_id('é')) == 16
