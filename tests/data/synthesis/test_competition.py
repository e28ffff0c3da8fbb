"""Competition problems: examples, two programs and generated inputs must agree, and the tests must be able to say no."""

import asyncio
import dataclasses

import pytest

from iquest_jax.data.documents import Drop, File
from iquest_jax.data.synthesis import competition
from iquest_jax.data.synthesis.verify import CHECKS

STATEMENT = 'A list of n numbers is given, n on the first line. Print how many pairs of them have an even sum.'
SOLUTION = """n = int(input())
odd = sum(int(word) % 2 for word in input().split())
even = n - odd
print(odd * (odd - 1) // 2 + even * (even - 1) // 2)
"""
SIMPLE = """n = int(input())
a = list(map(int, input().split()))
print(sum((a[i] + a[j]) % 2 == 0 for i in range(n) for j in range(i)))
"""
GENERATOR = """import random
seed = int(input())
random.seed(seed)
n = seed % 7 + 1
print(n)
print(*(random.randint(0, 99) for _ in range(n)))
"""
EXAMPLES = ({'input': '3\n1 3 5\n', 'output': '3\n'}, {'input': '2\n1 2\n', 'output': '0\n'})
GOOD = competition.Candidate(STATEMENT, EXAMPLES, SOLUTION, SIMPLE, GENERATOR)
ANSWER = f"""## Statement
{STATEMENT}
## Examples
```json
[{{"input": "3\\n1 3 5\\n", "output": "3\\n"}}, {{"input": "2\\n1 2\\n", "output": "0\\n"}}]
```
## Solution
```python
{SOLUTION}```
## Generator
```python
{GENERATOR}```
"""


def verified(tools, candidate):
  return asyncio.run(competition.DOMAIN.verify(candidate, tools()))


def test_a_problem_whose_programs_agree_is_kept_with_its_tests(tools):
  made = asyncio.run(competition.DOMAIN.generate(File('a', 'a.py', 'x = 1'), tools(ANSWER, f'```python\n{SIMPLE}```')))
  assert made.examples == EXAMPLES and made.simple == SIMPLE and '```\n3\n1 3 5\n```' in made.statement
  problem = verified(tools, made)
  assert problem.checks == (*CHECKS, 'another program agrees') and problem.solution == SOLUTION
  assert problem.difficulty == 'easy' and len(problem.tests) >= competition.DISTINCT
  assert problem == verified(tools, made)


@pytest.mark.parametrize(
    ('changes', 'rule'),
    [
        ({'solution': SOLUTION.replace('even - 1', 'even')}, 'verify: wrong answer'),
        ({'solution': 'input()\nprint(3 if "3" in input() else 0)\n'}, 'verify: wrong answer'),
        ({'solution': 'while True: pass\n'}, 'verify: timeout'),
        ({'examples': ({'input': '3\n1 3 5\n', 'output': '2\n'},)}, 'verify: wrong answer'),
        ({'simple': SIMPLE.replace('== 0', '== 1')}, 'verify: wrong answer'),
        ({'simple': SOLUTION}, 'competition: the same program twice'),
        ({'simple': 'print(1 / 0)\n'}, 'competition: simple program fails'),
        ({'simple': ''}, 'competition: no program'),
        ({'generator': 'import random\nprint(1)\nprint(random.random())\n'}, 'competition: generator is not reproducible'),
        ({'generator': GENERATOR + 'print(*set("abcdef"))\n'}, 'competition: generator is not reproducible'),
        ({'generator': 'open("n", "a").write("x")\nprint(len(open("n").read()))\nprint(7)\n'},
         'competition: generator is not reproducible'),
        ({'simple': f'import random\nx = random.random()\n{SIMPLE}'}, 'verify: depends on chance or time'),
        ({'simple': f'{SIMPLE}print(*set("abcdef"))\n'}, 'competition: simple program is not deterministic'),
        ({'solution': f'import time\nx = time.time()\n{SOLUTION}'}, 'verify: depends on chance or time'),
        ({'generator': 'print(1)\nprint(7)\n'}, 'competition: too few inputs'),
        ({'generator': 'print(1 / 0)\n'}, 'competition: generator fails'),
        ({'generator': 'print(1)\nprint("1" * 20_000)\n'}, 'competition: inputs too long'),
        ({'solution': 'print(0)', 'simple': 'print(0 * 1)', 'examples': EXAMPLES[1:]}, 'verify: tests pass on anything'),
    ],
)
def test_planted_wrong_problems_are_rejected(tools, monkeypatch, changes, rule):
  if rule == 'verify: timeout':
    monkeypatch.setattr(competition.execution, 'LIMITS', dataclasses.replace(competition.execution.LIMITS, cpu_s=0.3))
  found = verified(tools, dataclasses.replace(GOOD, **changes))
  assert isinstance(found, Drop) and found.rule == rule


@pytest.mark.parametrize(
    ('answer', 'rule'),
    [
        ('', 'competition: malformed answer'),
        (ANSWER.replace('## Generator', ''), 'competition: malformed answer'),
        (ANSWER.replace('[{', '{'), 'competition: malformed examples'),
        (ANSWER.replace('"2\\n1 2\\n"', '2'), 'competition: malformed examples'),
    ],
)
def test_malformed_answers_are_dropped(tools, answer, rule):
  assert asyncio.run(competition.DOMAIN.generate(File('a', 'a.py', 'x = 1'), tools(answer))).rule == rule
