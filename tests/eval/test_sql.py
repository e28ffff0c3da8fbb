"""Spider and BIRD: queries are graded by their rows, and nothing a query does reaches the database or the reference."""

import json
import shutil
import sqlite3

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval.sql import BIRD, SPIDER

from tests.eval.conftest import MALFORMED, graded, score

BAG = 'SELECT name FROM city WHERE size > 1'
ORDERED = 'SELECT name FROM city\nORDER\nBY size DESC'
QUERIES = [BAG, ORDERED, 'SELECT x FROM nowhere', 'SELECT mark, size, NULL FROM city WHERE size = 0.5']
QUERIES += ["SELECT CAST(x'ff41' AS TEXT)"]


@pytest.fixture
def folder(tmp_path):
  """The files of both benchmarks."""
  records = [
      {'db_id': 'geo', 'question': 'Which are large?', 'query': query, 'SQL': query, 'evidence': 'large: size > 1'}
      for query in QUERIES
  ]
  (tmp_path / 'dev.json').write_text(json.dumps(records))
  for name in ('database', 'dev_databases'):
    (tmp_path / name / 'geo').mkdir(parents=True)
    database = sqlite3.connect(tmp_path / name / 'geo/geo.sqlite')
    database.execute('CREATE TABLE city (name TEXT, size REAL, mark BLOB)')
    rows = [('Rome', 3, b''), ('Bern', 2, b''), ('Bern', 2, b''), ('Nod', 0.5, b'\xff'), (b'b\xc3\xa9', 0, b'')]
    database.executemany('INSERT INTO city VALUES (?, ?, ?)', rows)
    database.commit()
    database.close()
  return tmp_path


def fenced(query):
  return f'The query is:\n```sql\n{query};\n```\nDone.'


@pytest.mark.parametrize('suite', [SPIDER, BIRD], ids=['spider', 'bird'])
def test_prompts_hold_schema_question_and_evidence_and_not_the_answer(suite, folder):
  prompt = suite.prompt(suite.problems(folder)[0])
  for text in (prompt.text, prompt.messages[0]['content']):
    assert 'CREATE TABLE city' in text and 'Which are large?' in text and 'WHERE' not in text
    assert ('large: size > 1' in text) or suite is SPIDER


@pytest.mark.parametrize('suite', [SPIDER, BIRD], ids=['spider', 'bird'])
def test_the_reference_scores_full_in_both_forms(suite, folder, pool):
  for problem in [one for one in suite.problems(folder) if one.id != '2']:
    query = problem.fields['query']
    figures = {'pass@1': 100} | ({'as sets': 100} if suite is BIRD else {})
    assert score(suite, problem, fenced(query), pool) == figures
    assert suite.grade(problem, suite.continued(problem, query.removeprefix('SELECT')), pool).status == 'passed'


@pytest.mark.parametrize(
    ('number', 'query', 'passes', 'as_sets'),
    [
        (0, 'SELECT name FROM city WHERE size >= 2 ORDER BY name', True, True),
        (0, 'SELECT DISTINCT name FROM city WHERE size > 1', False, True),
        (0, "SELECT 'Rome' UNION ALL SELECT 'Rome' UNION ALL SELECT 'Bern'", False, True),
        (0, 'SELECT name, name FROM city WHERE size > 1', False, False),
        (0, 'SELECT name FROM city', False, False),
        (1, 'SELECT name FROM city ORDER BY -size', True, True),
        (1, 'SELECT name FROM city ORDER BY size', False, True),
        (3, "SELECT x'ff', 0.5, NULL", True, True),
        (4, "SELECT 'A'", True, True),
        (3, "SELECT x'fe', 0.5, NULL", False, False),
        (3, "SELECT x'ff', 0.5, ''", False, False),
    ],
)
def test_rows_are_a_bag_and_ordered_only_where_the_reference_orders(folder, pool, number, query, passes, as_sets):
  outcome = graded(BIRD, BIRD.problems(folder)[number], fenced(query), pool)
  assert ((outcome.status == 'passed'), outcome.figures['as_sets']) == (passes, as_sets)


@pytest.mark.parametrize(
    'answer',
    [
        *MALFORMED,
        *map(
            fenced, ['DROP TABLE city', 'DELETE FROM city', f'{BAG}; {BAG}', 'SELECT', '--', 'PRAGMA table_info(city)']
        ),
        *map(fenced, ["INSERT INTO city VALUES ('x', 9, '')", "SELECT load_extension('x')"]),
    ],
)
def test_wrong_and_malformed_answers_score_zero(folder, pool, answer):
  problem = BIRD.problems(folder)[0]
  assert score(BIRD, problem, answer, pool) == {'pass@1': 0, 'as sets': 0}
  assert graded(BIRD, problem, fenced(BAG), pool).status == 'passed'


def test_a_query_that_never_ends_times_out(folder, pool, monkeypatch):
  monkeypatch.setattr(SPIDER, '_seconds', 1)
  endless = 'WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n'
  assert graded(SPIDER, SPIDER.problems(folder)[0], fenced(endless), pool).status == 'timeout'


def test_a_megabyte_is_graded(folder, pool):
  problem = SPIDER.problems(folder)[0]
  assert graded(SPIDER, problem, fenced(BAG + ' ' * 1_000_000), pool).status == 'passed'
  assert graded(SPIDER, problem, fenced('SELECT ' + '(' * 1_000_000), pool).status == 'failed'


def test_a_reference_that_does_not_run_is_listed_and_not_scored(folder, pool):
  outcome = graded(SPIDER, SPIDER.problems(folder)[2], fenced(BAG), pool)
  assert outcome.status == 'missing' and 'no such table: nowhere' in outcome.reason


def test_each_benchmark_finds_its_file_where_both_are_in_one_folder(folder):
  for name, databases in (('a', 'dev_databases'), ('b', 'database')):
    (folder / name).mkdir()
    shutil.copy(folder / 'dev.json', folder / name)
    (folder / databases).rename(folder / name / databases)
  (folder / 'dev.json').unlink()
  assert len(SPIDER.problems(folder)) == len(BIRD.problems(folder)) == len(QUERIES)


def test_a_missing_or_damaged_file_is_one_clear_error(folder):
  (folder / 'database/geo/geo.sqlite').write_text('no database' * 100)
  with pytest.raises(UserError, match='geo.sqlite: file is not a database'):
    SPIDER.problems(folder)
  (folder / 'database/geo/geo.sqlite').unlink()
  with pytest.raises(UserError, match='geo.sqlite is missing; download database there'):
    SPIDER.problems(folder)
  (folder / 'dev.json').write_text(json.dumps([{'db_id': 'geo', 'question': '', 'query': ''}]))
  with pytest.raises(UserError, match='record 1: field "SQL" is missing'):
    BIRD.problems(folder)
