"""Functions in languages with types are called with plain data, and whatever they give back is told apart."""

import os

import pytest

from iquest_jax.data.synthesis import execution, typed
from iquest_jax.data.synthesis.cases import Case
from iquest_jax.sandbox import languages

CASES = [
    Case([['a"\\\n', 'ä{}%d'], 2, 0.5, True, [[1, 2], []]], [['a"\\\n', 'ä{}%d', '2']]),
    Case([[], -3, 2, False, []], [['-3'], []]),
]
# They append a number to words, and another, empty list unless the flag is set.
CODE = {
    'java': """import java.util.*;
public class Solution {
  public static List<List<String>> f(List<String> words, long n, double x, boolean flag, List<List<Long>> table) {
    List<List<String>> found = new ArrayList<>();
    words.add(Long.toString(n));
    found.add(words);
    if (!flag) found.add(new ArrayList<>());
    return found;
  }
}
""",
    'cpp': """#include <string>
#include <vector>
using namespace std;
vector<vector<string>> f(vector<string> words, long long n, double x, bool flag, vector<vector<long long>> table) {
  words.push_back(to_string(n));
  vector<vector<string>> found{words};
  if (!flag) found.push_back({});
  return found;
}
""",
    'go': """// Words.
package main

import (
	"fmt"
	"strconv"
)

func f(words []string, n int64, x float64, flag bool, table [][]int64) [][]string {
	_ = fmt.Sprint(x)
	found := [][]string{append(words, strconv.FormatInt(n, 10))}
	if !flag {
		found = append(found, []string{})
	}
	return found
}
""",
    'rust': """fn f(mut words: Vec<String>, n: i64, _x: f64, flag: bool, _table: Vec<Vec<i64>>) -> Vec<Vec<String>> {
  words.push(n.to_string());
  if flag { vec![words] } else { vec![words, vec![]] }
}
""",
}
SAME = {
    'java': 'class Solution {{ static {0} f({0} x) {{ return x; }} }}',
    'cpp': '{0} f({0} x) {{ return x; }}',
    'go': 'package main\nfunc f(x {0}) {0} {{ return x }}',
    'rust': 'fn f(x: {0}) -> {0} {{ x }}',
}
VALUES = {
    'int': [0, -5, 1 << 61], 'float': [0.1 + 0.2, 1e-9, 2, 1e30, -0.0], 'bool': [True, False], 'str': ['', 'a\t"', 'ü€😀'],
}  # fmt: skip
LONG = [pytest.param(name, marks=() if name == 'cpp' else pytest.mark.long) for name in CODE]


def rejected(pool, language, code, cases):
  if languages.missing(language, pool.backend == 'landlock' and os.geteuid() == 0):
    pytest.skip(f'the toolchain of {language} is not installed')
  return execution.rejects(language, code, 'f', cases, pool)


@pytest.mark.parametrize('language', LONG)
def test_results_that_are_right_pass_and_others_do_not(pool, language):
  rule = lambda code, *more: getattr(rejected(pool, language, code, [*CASES, *more]), 'rule', 'kept')
  assert rule(CODE[language]) == 'kept'
  assert rule(CODE[language], Case([[], 0, 0.0, True, []], [['1']])) == 'verify: wrong answer'
  assert rule(CODE[language], Case([[], 0, 0.0, True, []], [[0]])) == 'verify: types that this language does not have'
  assert rule(CODE[language][:-4]) == 'verify: wrong answer'


@pytest.mark.long
@pytest.mark.parametrize('kind', VALUES)
@pytest.mark.parametrize('language', SAME)
def test_values_travel_unchanged(pool, language, kind):
  code = SAME[language].format(typed.LANGUAGES[language].types[kind])
  assert rejected(pool, language, code, [Case([value], value) for value in VALUES[kind]]) is None


@pytest.mark.long
@pytest.mark.parametrize('code', ['double f(int x) { return x + 0.5; }', 'const char* f(int x) { return "1"; }'])
def test_a_result_of_another_type_is_not_converted(pool, code):
  assert rejected(pool, 'cpp', code, [Case([1], 1), Case([2], 7)]).rule == 'verify: wrong answer'


@pytest.mark.parametrize(
    ('given', 'expected', 'types'),
    [
        ([1, 2.5], True, (['int', 'float'], 'bool')),
        ([[1, 2.5], [[], ['a']]], [], ([('list', 'float'), ('list', ('list', 'str'))], ('list', ''))),
        ([None], 1, None),
        ([{'a': 1}], 1, None),
        ([[1, 'a']], 1, None),
        ([[1, True]], 1, None),
        ([1 << 63], 1, None),
        (['\0'], 1, None),
        (['\ud800'], 1, None),
    ],
)
def test_types_follow_from_values(given, expected, types):
  assert typed.types([Case(given, expected)]) == types


def test_types_hold_for_all_cases():
  assert typed.types([Case([1], [2]), Case([1.5], [])]) == (['float'], ('list', 'int'))
  assert typed.types([Case([1], 2), Case([1, 1], 2)]) is None and typed.types([Case([1], 2), Case(['a'], 2)]) is None
