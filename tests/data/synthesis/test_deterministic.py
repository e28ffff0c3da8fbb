"""Solutions that pass by luck, by the clock or by counting are rejected, so that every preparation keeps the same ones."""

import json
import os

import pytest

from iquest_jax.data.documents import Drop, Problem
from iquest_jax.data.synthesis import chance, execution
from iquest_jax.data.synthesis.verify import verify
from iquest_jax.sandbox import languages

PAIRS = [(1, 2), (30, 4), (5, 5), (-8, 9)]
CALLS = tuple({'input': json.dumps(pair), 'output': json.dumps(sum(pair))} for pair in PAIRS)
RUNS = tuple({'input': f'{a} {b}\n', 'output': f'{a + b}\n'} for a, b in PAIRS)


def rule(pool, solution, tests=CALLS, function='add', language='python'):
  found = verify(Problem('a', 'Add.', tests, solution, function, language), pool)
  return found.rule if isinstance(found, Drop) else 'kept'


@pytest.mark.parametrize(
    'solution',
    [
        'C = []\nR = "3 34 10 1".split()\ndef add(a, b):\n  C.append(a)\n  return int(R[len(C) - 1])\n',
        'C = []\nR = "3 34 10 1".split()\ndef add(a, b):\n  C.append(a)\n  return int(R[len(C) % 4 - 1])\n',
        'C = []\ndef add(a, b):\n  C.append(a)\n  return a + b if len(C) < 5 else 0\n',
        'L = [0]\ndef add(a, b):\n  L.append(a)\n  return a + b if L[-2] in (0, 1, 30, 5) else 0\n',
    ],
)
def test_a_function_that_depends_on_earlier_calls_is_rejected(pool, solution):
  assert rule(pool, solution) == 'verify: not deterministic'


def test_a_function_may_remember_what_it_computed(pool):
  assert rule(pool, 'known = {}\ndef add(a, b):\n  return known.setdefault((a, b), a + b)\n') == 'kept'


def test_a_program_that_counts_its_runs_in_a_file_is_rejected(pool):
  counting = 'f = open("n", "a+")\nf.write("x")\nf.seek(0)\nn = len(f.read())\n'
  assert rule(pool, counting + 'print("3 34 10 1".split()[n % 4 - 1])\n', RUNS, '') == 'verify: not deterministic'
  shell = 'echo >> n\nset -- 3 34 10 1\nn=$(wc -l < n)\necho ${@:(n - 1) % 4 + 1:1}\n'
  assert rule(pool, shell, RUNS, '', 'bash') == 'verify: not deterministic'


def test_a_result_that_depends_on_the_order_of_a_set_is_rejected(pool):
  code, words = 'print(*set(input().split()))\n', ['b a', 'x y z', 'u v', 'r s t']
  lucky = execution.outputs(code, words, pool)
  tests = tuple({'input': one, 'output': out} for one, out in zip(words, lucky))
  assert rule(pool, code, tests, '') == 'verify: not deterministic'
  calls = tuple({'input': json.dumps([one]), 'output': json.dumps(out.split())} for one, out in zip(words, lucky))
  assert rule(pool, 'def f(text):\n  return list(set(text.split()))\n', calls, 'f') == 'verify: not deterministic'
  ordered = tuple({'input': json.dumps([one]), 'output': json.dumps(sorted(out.split()))} for one, out in zip(words, lucky))
  assert rule(pool, 'def f(text):\n  return sorted(set(text.split()))\n', ordered, 'f') == 'kept'


def test_functions_of_other_languages_are_called_again_in_another_order(pool):
  if languages.missing('javascript', pool.backend == 'landlock' and os.geteuid() == 0):
    pytest.skip('node is not installed')
  counting = 'let n = 0;\nfunction add(a, b) { n += 1; return n > 4 ? 0 : a + b; }\n'
  assert rule(pool, counting, language='javascript') == 'verify: wrong answer'
  assert rule(pool, counting.replace('4 ? 0 : ', '4 ? b + a : '), language='javascript') == 'kept'
  # Every process answers right, but only the first.
  first = "const fs = require('fs');\nconst n = fs.existsSync('n');\nfs.writeFileSync('n', '');\n"
  assert rule(pool, f'{first}const add = (a, b) => n ? 0 : a + b;', language='javascript') == 'verify: not deterministic'


@pytest.mark.parametrize(
    ('code', 'seen'),
    [
        ('import random\nx = random.random() < .9', 'random.random'),
        ('import random as r\nx = r.choice([1, 2])', 'random.choice'),
        ('from random import randint as f\nx = f(1, 2)', 'random.randint'),
        ('from random import *\nx = randint(1, 2)', 'random.*'),
        ('import random\nx = random.Random().random()', 'random.Random'),
        ('import random\nrandom.seed()\nx = random.random()', 'random.random'),
        ('import random\nrandom.seed(None)\nx = random.random()', 'random.random'),
        ('import random\nrandom.seed(1)\nrandom.seed()\nx = random.random()', 'random.random'),
        ('import random\nrandom.seed(1)\nx = random.SystemRandom().random()', 'random.SystemRandom'),
        ('import random, time\nrandom.seed(time.time())', 'time.time'),
        ('import random\nx = getattr(random, "random")()', 'random'),
        ('import time\nx = time.time_ns() % 2', 'time.time_ns'),
        ('from time import perf_counter', 'time.perf_counter'),
        ('import datetime\nx = datetime.date.today().year', '.today'),
        ('from datetime import datetime as d\nx = d.now()', '.now'),
        ('import os\nx = os.getpid() % 2', 'os.getpid'),
        ('from os import urandom', 'os.urandom'),
        ('import uuid\nx = uuid.uuid4()', 'uuid.uuid4'),
        ('import secrets', 'secrets'),
        ('x = __import__("random").random()', '__import__'),
        ('import importlib\nx = importlib.import_module("time")', 'importlib'),
        ('x = id([]) % 32', 'id'),
        ('x = sorted([[], []], key=id)', 'id'),
        ('x = hash("a") % 2', 'hash'),
        ('x = "a".__hash__() % 2', '__hash__'),
    ],
)
def test_chance_and_time_are_seen_in_python(pool, code, seen):
  assert chance.decides('python', code) == seen
  assert rule(pool, f'{code}\ndef add(a, b):\n  return a + b\n') == 'verify: depends on chance or time'


@pytest.mark.parametrize(
    'code',
    [
        'import random\nrandom.seed(7)\nx = random.random()',
        'import random\nx = random.Random(7).shuffle([1])',
        'from random import Random\nx = Random(x=7)',
        'import time\ntime.sleep(0)',
        'import datetime\nx = datetime.date(2024, 1, 2).isoformat()',
        'import os\nx = os.path.join("a", "b")',
        'import uuid\nx = uuid.uuid5(uuid.NAMESPACE_DNS, "a")',
        'def f(id, now):\n  return id + now',
        'for id in range(3): print(id)',
        'class A:\n  def __hash__(self):\n    return hash((1, 2))',
        'class A:\n  def now(self):\n    return 1\nx = A().now()',
        '"""Takes time, at random: now, id, hash."""',
        'def broken(',
        '-' * 100_000 + '1',
        'x = "\ud800"',
    ],
)
def test_what_only_looks_like_chance_is_allowed_in_python(code):
  assert chance.decides('python', code) == ''


OTHERS = {
    'javascript': (['Math.random()', 'Date.now()', 'new Date()', 'new Date', 'process.hrtime()'],
                   ['Math.round(1)', 'new Date(2020, 1)', 'update(1)', 'new Dates()']),
    'java': (['Math.random()', 'new Random()', 'System.nanoTime()', 'LocalDate.now()', 'Collections.shuffle(list)'],
             ['new Random(7)', 'LocalDate.of(2020, 1, 1)', 'Collections.shuffle(list, new Random(7))', 'known()']),
    'c': (['srand(time(NULL));', 'time(0)', 'clock()', 'getpid()'], ['int time = 0;', 'rand()', 'time(hours)']),
    'cpp': (['std::random_device r;', 'std::chrono::steady_clock::now()', 'time(nullptr)'], ['std::mt19937 r(7);']),
    'go': (['rand.Intn(2)', 'time.Now()', 'os.Getpid()'], ['rand.New(rand.NewSource(7))', 'time.Duration(3)', 'brand.X']),
    'rust': (['SystemTime::now()', 'std::time::Instant::now()'], ['Duration::from_secs(1)', 'Instantly::new()']),
    'bash': (['echo $RANDOM', 'date +%s', 'echo $$', 'shuf x'], ['update x', 'echo $RANDOMLY_NAMED_NOT']),
    'sql': (['select random();', "select date('now');", 'select CURRENT_DATE;'], ["select date('2020-01-01');"]),
}  # fmt: skip


@pytest.mark.parametrize('language', OTHERS)
def test_chance_and_time_are_seen_in_other_languages(language):
  refused, allowed = OTHERS[language]
  for code in refused:
    assert chance.decides(language, code), code
  for code in allowed:
    assert not chance.decides(language, code), code
