"""Mathematics: answers are compared as numbers and expressions, and one solution that disagrees rejects a problem."""

import asyncio
import concurrent.futures
import dataclasses
import fractions
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data.documents import File
from iquest_jax.data.synthesis import equivalence, mathematics

PROBLEM = 'A fair die is thrown twice. What is the probability that the sum is at least 10?'
SOLUTION = 'Of 36 pairs, 3 + 2 + 1 = 6 have such a sum, so the probability is \\boxed{\\frac{1}{6}}.'
GOOD = mathematics.Candidate(PROBLEM, SOLUTION, '\\frac{1}{6}', 'easy')


def verified(tools, candidate, *solutions):
  return asyncio.run(mathematics.DOMAIN.verify(candidate, tools(*solutions)))


def test_a_problem_on_whose_answer_all_solutions_agree_is_kept(tools):
  said = f'## Problem\n{PROBLEM}\n\n## Solution\n{SOLUTION}\n## Answer\n$\\frac{{1}}{{6}}$'
  made = asyncio.run(mathematics.DOMAIN.generate(File('a', 'a.md', 'dice', 'acme/dice'), tools(said)))
  assert dataclasses.replace(made, difficulty='easy', repo='') == GOOD and made.repo == 'acme/dice'
  kept = verified(tools, GOOD, 'so \\boxed{1/6}', '\\boxed{\\dfrac{6}{36}}', 'first \\boxed{2}, no: $\\boxed{\\frac16}$')
  assert [message['content'] for message in kept.messages] == [PROBLEM, SOLUTION]
  assert kept.checks == ('answer not in question', 'solution gives the answer', 'independent solutions agree')


@pytest.mark.parametrize(
    ('changes', 'rule'),
    [
        ({'answer': '\\frac{1}{12}'}, 'mathematics: solution gives another answer'),
        ({'solution': 'It is 1/6.'}, 'mathematics: solution gives another answer'),
        ({'solution': SOLUTION[:-5]}, 'mathematics: solution gives another answer'),
        ({'answer': 'see the solution'}, 'mathematics: solution gives another answer'),
        ({'answer': ''}, 'mathematics: answer is not an expression'),
        ({'answer': '\\frac{1}{'}, 'mathematics: answer is not an expression'),
        ({'answer': '1' * 300}, 'mathematics: answer is not an expression'),
        ({'problem': PROBLEM + ' (The answer is 1/6.)'}, 'mathematics: answer in question'),
        ({'problem': PROBLEM + ' Show that it is \\frac{1}{6}.'}, 'mathematics: answer in question'),
        ({'solution': PROBLEM + ' \\boxed{\\frac{1}{6}}'}, 'mathematics: solution repeats the question'),
    ],
)
def test_a_problem_that_contradicts_itself_is_rejected_without_a_request(tools, changes, rule):
  assert verified(tools, dataclasses.replace(GOOD, **changes)).rule == rule


@pytest.mark.parametrize(
    ('wrong', 'rule'),
    [
        ('\\boxed{\\frac{1}{12}}', 'mathematics: solutions disagree'),
        ('\\boxed{\\text{unsolvable}}', 'mathematics: solutions disagree'),
        ('I do not know.', 'mathematics: a solution without an answer'),
        ('', 'mathematics: a solution without an answer'),
    ],
)
@pytest.mark.parametrize('place', range(3))
def test_one_solution_with_another_answer_rejects_a_problem(tools, wrong, rule, place):
  solutions = ['\\boxed{\\frac{1}{6}}'] * 3
  solutions[place] = wrong
  assert verified(tools, GOOD, *solutions).rule == rule


@pytest.mark.parametrize('said', ['', 'no', '## Problem\nx\n## Solution\ny', '## Problem\n## Solution\ny\n## Answer\n1'])
def test_an_answer_that_is_no_problem_is_dropped(tools, said):
  made = asyncio.run(mathematics.DOMAIN.generate(File('a', 'a.md', 'dice'), tools(said)))
  assert made.rule == 'mathematics: malformed answer'


@settings(max_examples=60)
@given(st.integers(-999, 999), st.integers(1, 99), st.integers(-999, 999), st.integers(1, 99), st.integers(1, 5))
def test_fractions_are_equal_when_python_says_so(a, b, c, d, factor):
  latex = lambda n, m: f'-\\frac{{{-n}}}{{{m}}}' if n < 0 else f'\\frac{{{n}}}{{{m}}}'
  assert equivalence.equal(latex(a, b), latex(factor * a, factor * b))
  assert equivalence.equal(latex(a, b), latex(c, d)) == (fractions.Fraction(a, b) == fractions.Fraction(c, d))


@pytest.mark.parametrize(
    ('one', 'other', 'same'),
    [
        ('2\\sqrt{3}', '\\sqrt{12}', True), ('x^2-1', '(x-1)(x+1)', True), ('\\{1,2\\}', '\\{2,1\\}', True),
        ('(0,1]', '(0,1)', False), ('50\\%', '0.5', True), ('x=3', '3', True), ('1,000', '10^{3}', True),
        ('\\text{even}', 'even', True), ('even', 'veen', False), ('on', 'no', False), ('', '1', False), ('', '', False),
        ('1000000007', '1000000008', False), ('\\pi', '3.1', False),
        # What math-verify alone takes for equal.
        ('1/3', '0.3333333333333333', False), ('\\pi', '3.14159265358979', False), ('\\sqrt{2}', '1.41421356', False),
        ('x\\sqrt2', '1.41421356237309504880168872x', False),
        ('1.23456789', '1.2345678', False), ('\\frac{x}{3}', '0.33333333x', False),
        ('[0,0.3333333333333]', '[0,\\frac13]', False), ('\\{0.33333333,1\\}', '\\{1,\\frac13\\}', False),
        ('50\\%', '50', False), ('(1,2)', '\\{1,2\\}', False), ('A', 'a', False), ('x+Y', 'y+X', False),
        ('10\\text{ km}', '10\\text{ m}', False), ('5\\,\\mathrm{s}', '5\\,\\mathrm{h}', False),
        ('\\$5', '5\\text{ euros}', False),
        # What stays equal.
        ('3', '3\\text{ cm}', True), ('10\\text{ km}', '10\\text{ km}', True), ('2.5\\%', '0.025', True),
        ('1,000.5', '\\frac{2001}{2}', True), ('\\sqrt{3+2\\sqrt2}', '1+\\sqrt{2}', True), ('0.5x', '\\frac{x}{2}', True),
        ('1,2', '\\{2,1\\}', True), ('\\left(1,2\\right)', '(1,2)', True), ('(-\\infty,1.5)', '(-\\infty,\\frac32)', True),
        ('\\frac{n(n+1)}{2}', '\\frac{n^2+n}{2}', True), ('x=0.5', '\\frac12', True), ('.5', '0.50', True),
    ],
)  # fmt: skip
def test_answers_are_equal_as_mathematics_and_words_as_words(one, other, same):
  assert equivalence.equal(one, other) == same


def test_a_comparison_that_never_ends_is_given_up_and_the_next_is_made(monkeypatch):
  monkeypatch.setattr(equivalence, 'CPU_S', 0)
  found = []
  thread = threading.Thread(target=lambda: found.append(equivalence.equal('9^{9^{9^{9}}}', '1')), daemon=True)
  thread.start()
  thread.join(timeout=60)
  assert found == [False]
  monkeypatch.undo()  # a new process takes most of a second to begin, and longer on a busy machine
  assert equivalence.equal('1', '1')


def test_threads_may_compare():
  pairs = [(str(number), str(number + number % 2)) for number in range(20)]
  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    assert list(threads.map(lambda pair: equivalence.equal(*pair), pairs)) == [True, False] * 10


@pytest.mark.parametrize(
    ('text', 'held'),
    [('\\boxed{1} \\boxed{\\frac{1}{2}}', '\\frac{1}{2}'), ('\\boxed{1', None), ('\\boxed{ }', None), ('1', None)],
)
def test_the_last_box_counts(text, held):
  assert equivalence.boxed(text) == held
