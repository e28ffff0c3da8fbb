"""sources.toml: what may stand in it, and one line for every mistake."""

import pytest

from iquest_jax.data import inputs
from iquest_jax.data.documents import Commit, Conversation, Fact, File
from iquest_jax.errors import UserError

GOOD = """
held_out = 5
evaluation = ["benchmarks/*.jsonl"]

[[input]]
name = "mine"
read = "git"
path = "repositories"
sources = ["code", "commits", "code_edit"]
"""


def load(tmp_path, text):
  (tmp_path / 'sources.toml').write_text(text)
  return inputs.load(tmp_path / 'sources.toml')


def test_paths_are_relative_to_the_file_and_kinds_follow_from_the_sources(tmp_path):
  loaded = load(tmp_path, GOOD)
  (mine,) = loaded.inputs
  assert mine.path == tmp_path / 'repositories' and mine.kinds == (File, Commit) and mine.filter and mine.near
  assert loaded.held_out == 5 and loaded.evaluation == (tmp_path / 'benchmarks/*.jsonl',) and loaded.licences == ()


@pytest.mark.parametrize(
    'change, reason',
    [
        (('[[input]]', '[input]'), r'sources.toml has no \[\[input\]\]'),
        (('[[input]]', '[[inputs]]'), r'sources.toml has no \[\[input\]\]'),
        (('read = "git"', 'read = "gti"'), 'input 1: read "gti" does not exist; did you mean "git"'),
        (('name = "mine"', ''), '"name" is missing or empty'),
        (('name = "mine"', 'name = "a/b"'), 'name must have letters, digits, - and _ only, got "a/b"'),
        (('sources = ["code"', 'source = ["code"'), '"source" does not exist; did you mean "sources"'),
        (('"commits"', '"commmits"'), 'source "commmits" does not exist; did you mean "commits"'),
        (('"commits"', '"web_text", "chat_instruct"'),
         '"chat_instruct" is made of a conversation, which "git" does not read'),
        (('"commits"', '7'), 'must be a list of names, got'),
        (('held_out = 5', 'held_out = "5"'), "held_out must be of type int, got '5'"),
        (('held_out = 5', 'held_out = true'), 'held_out must be of type int, got True'),
        (('held_out = 5', 'held_out = 0'), 'held_out must be above 0, got 0'),
        (('held_out = 5', 'heldout = 5'), '"heldout" does not exist; did you mean "held_out"'),
        (('held_out = 5', 'held_out ='), 'cannot be read'),
        (('[[input]]', GOOD.partition('\n\n')[2] + '[[input]]'), 'has two inputs "mine"; give each a name of its own'),
    ],
)
def test_a_mistake_is_one_line(tmp_path, change, reason):
  with pytest.raises(UserError, match=reason) as error:
    load(tmp_path, GOOD.replace(*change))
  assert '\n' not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(UserError, match='nowhere.toml is missing'):
    inputs.load(tmp_path / 'nowhere.toml')


SEMANTIC = GOOD + """
[semantic]
endpoint = "http://localhost:1/v1"
model = "m"
duplicates = 0.9
"""


def test_a_semantic_step_needs_an_endpoint_and_inputs_that_are_compared(tmp_path):
  semantic = load(tmp_path, SEMANTIC).semantic
  assert (semantic.model, semantic.duplicates, semantic.contamination) == ('m', 0.9, 0.9)
  for change, reason in (
      (('model = "m"', ''), '"model" is missing or empty'),
      (('duplicates = 0.9', 'duplicates = 1.5'), r'duplicates must be in \(0, 1\], got 1.5'),
      (('duplicates = 0.9', 'duplicate = 0.9'), '"duplicate" does not exist; did you mean "duplicates"'),
      (('read = "git"', 'read = "git"\nnear = false'), 'needs near = true in every input, "mine" has near = false'),
  ):
    with pytest.raises(UserError, match=reason):
      load(tmp_path, SEMANTIC.replace(*change))


def test_sources_without_an_input_are_named_together(tmp_path):
  loaded = load(tmp_path, GOOD)
  loaded.check(['code', 'commits'])
  with pytest.raises(UserError, match='no input is for "facts", "web_text"; add the names to the sources of an'):
    loaded.check(['web_text', 'code', 'facts'])


MADE = GOOD + """
[[input]]
name = "facts"
read = "git"
path = "repositories"
make = "facts"
sources = ["facts"]

[[input]]
name = "programs"
read = "generated"
generator = "programs"
count = 10
thinking = true
sources = ["reasoning_thinking"]
"""


def test_documents_are_made_of_others_or_generated(tmp_path):
  _, facts, programs = load(tmp_path, MADE).inputs
  assert (facts.reads, facts.kinds) == ((File,), (Fact,))
  assert (programs.generator, programs.count, programs.thinking, programs.kinds) == ('programs', 10, True, (Conversation,))


@pytest.mark.parametrize(
    'change, reason',
    [
        (('make = "facts"', 'make = "fact"'), 'make "fact" does not exist; did you mean "facts"'),
        (('make = "facts"', ''), '"facts" is made of a fact, which "git" does not read'),
        (('sources = ["facts"]', 'sources = ["code"]'), '"code" is made of a file, but make = "facts" gives a fact'),
        (('"programs"\ncount', '"program"\ncount'), 'generator "program" does not exist; did you mean "programs"'),
        (('generator = "programs"', ''), '"generator" is missing or empty'),
        (('count = 10', ''), 'count must be at least 1, got 0'),
        (('count = 10', 'count = 10\npath = "a"'), 'path has no meaning with read = "generated"; remove it'),
        (('make = "facts"', 'make = "facts"\ncount = 3'), 'count has no meaning with read = "git"; remove it'),
        (('read = "git"\npath = "repositories"\nmake', 'read = "chats"\npath = "a.jsonl"\nmake'),
         '"facts" are made of a file, which "chats" does not read'),
        (('make = "facts"', 'make = "facts"\nquality = { density = 2 }'), '"model" must name the file of a classifier'),
    ],
)  # fmt: skip
def test_a_mistake_in_what_is_made_is_one_line(tmp_path, change, reason):
  assert change[0] in MADE
  with pytest.raises(UserError, match=reason):
    load(tmp_path, MADE.replace(*change))
