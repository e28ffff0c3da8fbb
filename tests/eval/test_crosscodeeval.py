"""CrossCodeEval: one statement of a completion is compared, by exact match and by edit similarity."""

import random
import time

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import crosscodeeval
from iquest_jax.eval.crosscodeeval import CSHARP, PYTHON, PYTHON_BM25, similarity

from tests.eval.conftest import MALFORMED, graded, score, write_lines

RECORD = {
    'prompt': 'import store\n\ndef save(item):\n  try:\n    return store.put(',
    'groundtruth': 'item.key,\n        item)',
    'right_context': '\n',
    'metadata': {'task_id': 'project_cc_python/1', 'repository': 'x', 'file': 'x.py'},
    'crossfile_context': {'text': '# def put(key, item)\n', 'list': []},
}


@pytest.fixture
def folder(tmp_path):
  write_lines(tmp_path / 'data/python/line_completion.jsonl', RECORD)
  write_lines(tmp_path / 'data/python/line_completion_rg1_bm25.jsonl', RECORD)
  record = RECORD | {'prompt': 'class A { int f() {\n  return this.', 'groundtruth': 'total(1); // sum'}
  write_lines(tmp_path / 'data/csharp/line_completion.jsonl', record)
  return tmp_path


def test_retrieved_code_stands_in_front_of_the_file_where_asked_for(folder):
  for suite, text in ((PYTHON, RECORD['prompt']), (PYTHON_BM25, '# def put(key, item)\n' + RECORD['prompt'])):
    prompt = suite.prompt(suite.problems(folder)[0])
    assert (prompt.text, prompt.messages) == (text, ())


@pytest.mark.parametrize(
    ('suite', 'completion'),
    [
        (PYTHON, RECORD['groundtruth']),
        (PYTHON, 'item.key,\n        item)  # done\n    finally:\n      pass\n'),
        (CSHARP, 'total(1);\n}\nint g() { }'),
        (CSHARP, 'total(1); // sum'),
    ],
)
def test_the_truth_scores_full_whatever_follows_it(folder, suite, completion):
  (problem,) = suite.problems(folder)
  assert score(suite, problem, completion) == {'exact match': 100, 'edit similarity': 100}


@pytest.mark.parametrize(
    ('prompt', 'completion', 'statement'),
    [
        ('x = f(', '1)\ny = 2\n', '1)'),
        ('x = f(', '1,\n  2)\ny = 2\n', '1,\n  2)'),
        ('x = ', '"""a\nb"""\ny', '"""a\nb"""'),
        ('x = ', '1', '1'),
        ('x = ', '\n1\n', '\n1'),
        ('try:\n  x = f(', '(1),\n  2)\n  y = 2\n', '(1),\n  2)'),
        ('x = f(', '1\n' * 30, '1\n' * 19 + '1'),
    ],
)
def test_python_is_cut_where_the_file_so_far_parses(prompt, completion, statement):
  assert crosscodeeval.cut(prompt, completion, 'python') == statement


@pytest.mark.parametrize(
    ('completion', 'statement'),
    [('a;b', 'a;'), ('if (a) { b', 'if (a) {'), ('} else', '} else'), ('a', 'a'), ('{;', '{;')],
)
def test_other_languages_are_cut_at_the_first_mark(completion, statement):
  assert crosscodeeval.cut('', completion, 'java') == statement


def test_similarity_equals_the_textbook_distance():
  rng = random.Random(0)
  for _ in range(200):
    a, b = (''.join(rng.choices('ab(=', k=rng.randrange(12))) for _ in range(2))
    table = list(range(len(b) + 1))  # Insertions and deletions only.
    for i, letter in enumerate(a, start=1):
      above = table
      table = [i]
      for j, other in enumerate(b, start=1):
        table.append(above[j - 1] if letter == other else 1 + min(above[j], table[j - 1]))
    expected = 100 * (1 - table[-1] / (len(a) + len(b))) if a or b else 100
    assert similarity(a, b) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize('answer', [*MALFORMED, 'item)\n', 'item.key,\n  itemx)\n'])
def test_wrong_and_malformed_answers_match_nothing(folder, answer):
  (problem,) = PYTHON.problems(folder)
  figures = score(PYTHON, problem, answer)
  assert figures['exact match'] == 0 and figures['edit similarity'] < 100
  assert score(PYTHON, problem, '') == {'exact match': 0, 'edit similarity': 0}


def test_a_megabyte_is_graded_in_bounded_time(folder):
  (problem,) = PYTHON.problems(folder)
  start = time.monotonic()
  for answer in ('x' * 1_000_000, 'x\n' * 500_000, '(' * 1_000_000):
    assert graded(PYTHON, problem, answer).status == 'failed'
  assert time.monotonic() - start < 30


def test_a_file_of_another_version_is_one_clear_error(tmp_path):
  for changes, said in (
      ({'groundtruth': None}, 'field "groundtruth" must be a string'),
      ({'metadata': {}}, 'metadata has no "task_id"'),
      ({'crossfile_context': {}}, 'crossfile_context has no "text"'),
  ):
    write_lines(tmp_path / 'python/line_completion_rg1_bm25.jsonl', RECORD | changes)
    with pytest.raises(UserError, match=said):
      PYTHON_BM25.problems(tmp_path)
