"""Syntax trees: what each level finds in each language, the share of errors, and limits that hold against hostile text."""

import ast
import concurrent.futures
import importlib.util
import inspect
import itertools
import multiprocessing
import pathlib
import random
import subprocess
import sys
import time

import pytest
import tree_sitter
import tree_sitter_c
from hypothesis import given, settings
from hypothesis import strategies as st

from iquest_jax.data import grammars, syntax
from iquest_jax.data.languages import PARSED
from iquest_jax.errors import UserError

# A text in each language; then, of each level, nodes that must be found, and one that must not.
SNIPPETS = {
    'python': (
        '@dec\ndef f(x, y=1):\n  """ö"""\n  return g(x)[0] + "ü"\nclass A(B):\n  async def m(self): await k(); return 1\n',
        {'g(x)', 'g(x)[0]', 'g(x)[0] + "ü"', '"ü"', 'await k()'}, {'x', '1', 'y=1'},
        {'return g(x)[0] + "ü"', 'return 1', 'await k()'}, {'g(x)'},
        {'def f(x, y=1):\n  """ö"""\n  return g(x)[0] + "ü"', 'async def m(self): await k(); return 1'},
    ),
    'java': (
        'import a.B;\nclass A {\n  int x = f(1);\n  A() { super(); }\n'
        '  @Override\n  int m(int a) { if (a > 2) { return x; } g(a); }\n}\n',
        {'f(1)', 'a > 2', 'g(a)'}, {'int a', '1', 'A()'},
        {'import a.B;', 'if (a > 2) { return x; }', 'return x;', 'g(a);'}, {'g(a)'},
        {'A() { super(); }', '@Override\n  int m(int a) { if (a > 2) { return x; } g(a); }'},
    ),
    'javascript': (
        'import x from "x";\nfunction f(a) { return a + 1; }\nconst g = (b) => { let c = b.d(1); };\n'
        'class A { m() { this.x = [1, 2]; } }\nexport default function () { f(2); }\n',
        {'a + 1', 'b.d(1)', 'this.x = [1, 2]', '[1, 2]', 'f(2)'}, {'a', '1', 'f(a)'},
        {'import x from "x";', 'return a + 1;', 'let c = b.d(1);', 'f(2);'}, {'b.d(1)'},
        {'function f(a) { return a + 1; }', '(b) => { let c = b.d(1); }', 'm() { this.x = [1, 2]; }',
         'function () { f(2); }'},
    ),
    'typescript': (
        'interface I { a: string }\nfunction f(a: number): number { return a + 1; }\n'
        'const g = (b: I): void => { let c = b.a as any; };\nclass A<T> { private m(): T { return this.x!; } }\n',
        {'a + 1', 'b.a', 'b.a as any', 'this.x!'}, {'string', 'b: I', 'f(a: number)'},
        {'interface I { a: string }', 'return a + 1;', 'let c = b.a as any;'}, {'a: string'},
        {'function f(a: number): number { return a + 1; }', '(b: I): void => { let c = b.a as any; }',
         'private m(): T { return this.x!; }'},
    ),
    'tsx': (
        'const C = (p: P) => { return <div a={p.b}>{f(p)}</div>; };\nfunction g() { return 1; }\n',
        {'<div a={p.b}>{f(p)}</div>', 'p.b', 'f(p)'}, {'p: P', 'p'},
        {'return <div a={p.b}>{f(p)}</div>;', 'return 1;'}, {'f(p)'},
        {'(p: P) => { return <div a={p.b}>{f(p)}</div>; }', 'function g() { return 1; }'},
    ),
    'c': (
        '#include <a.h>\nstatic int f(int a, char *b) { int c = a + N; while (c--) h(&c); return g(b)[0]; }\n'
        'int t[] = {1, 2};\n',
        {'a + N', 'c--', '&c', 'h(&c)', 'g(b)[0]', '{1, 2}'}, {'int a', '*b', 'f(int a, char *b)'},
        {'#include <a.h>\n', 'int c = a + N;', 'while (c--) h(&c);', 'return g(b)[0];', 'int t[] = {1, 2};'}, {'h(&c)'},
        {'static int f(int a, char *b) { int c = a + N; while (c--) h(&c); return g(b)[0]; }'},
    ),
    'cpp': (
        '#include <v>\nnamespace n {\ntemplate <class T> T f(T a) { auto b = [&](int x) { return x + 1; }; return b(a); }\n'
        'class A : public B { public: A() : x(1) {} int m() const { return x * 2; } int x; };\nusing V = std::v<int>;\n}\n',
        {'[&](int x) { return x + 1; }', 'x + 1', 'b(a)', 'x * 2'}, {'T', 'int x', 'std::v<int>'},
        {'#include <v>\n', 'return x + 1;', 'return b(a);', 'using V = std::v<int>;'}, {'b(a)'},
        {'T f(T a) { auto b = [&](int x) { return x + 1; }; return b(a); }', 'A() : x(1) {}',
         'int m() const { return x * 2; }'},
    ),
    'csharp': (
        'using System;\nclass A {\n  public int X { get; set; }\n  public A() { X = 2; }\n'
        '  public int M(int a) { var b = a + 1; foreach (var x in y) { Z(x); } return b; }\n  int K(int a) => a * 2;\n}\n',
        {'a + 1', 'Z(x)', 'a * 2', 'X = 2'}, {'int a', 'get;', 'a'},
        {'using System;', 'var b = a + 1;', 'foreach (var x in y) { Z(x); }', 'return b;'}, {'Z(x)'},
        {'public A() { X = 2; }', 'public int M(int a) { var b = a + 1; foreach (var x in y) { Z(x); } return b; }',
         'int K(int a) => a * 2;'},
    ),
    'go': (
        'package main\nfunc f(a int) int { b := a * 2; go func() { h() }(); return g(b) }\ntype T struct { x int }\n'
        'func (t *T) M() { t.x = f(1); fmt.Println("a", t.x) }\n',
        {'a * 2', 'func() { h() }()', 'g(b)', 't.x', 'f(1)', 'fmt.Println("a", t.x)', '"a"'}, {'a int', 'x int', '1'},
        {'b := a * 2', 'go func() { h() }()', 'return g(b)', 't.x = f(1)'}, {'g(b)'},
        {'func f(a int) int { b := a * 2; go func() { h() }(); return g(b) }', 'func() { h() }',
         'func (t *T) M() { t.x = f(1); fmt.Println("a", t.x) }'},
    ),
    'rust': (
        'use std::fmt;\n/// doc\nfn f(a: i32) -> i32 { let b = a + 1; if b > 2 { return g(b); } b * 2 }\n'
        'impl T { pub fn m(&self) -> i32 { self.x.iter().sum() } }\n',
        {'a + 1', 'b > 2', 'g(b)', 'b * 2', 'self.x.iter().sum()'}, {'a: i32', 'b', '&self'},
        {'let b = a + 1;', 'if b > 2 { return g(b); }', 'return g(b);'}, {'g(b)'},
        {'fn f(a: i32) -> i32 { let b = a + 1; if b > 2 { return g(b); } b * 2 }',
         'pub fn m(&self) -> i32 { self.x.iter().sum() }'},
    ),
    'ruby': (
        "require 'a'\ndef f(a, b = 1)\n  return a + b if a > 1\n  puts \"x#{a}\"\n  @c = [1, 2].map { |x| x * 2 }\nend\n"
        'class A < B\n  def self.m; g(1); end\nend\n',
        {'a + b', 'a > 1', '"x#{a}"', '[1, 2]', '[1, 2].map { |x| x * 2 }', 'g(1)'}, {'b = 1', 'a', '|x|'},
        {"require 'a'", 'return a + b if a > 1', 'puts "x#{a}"', '@c = [1, 2].map { |x| x * 2 }'}, {'a > 1', 'a'},
        {'def f(a, b = 1)\n  return a + b if a > 1\n  puts "x#{a}"\n  @c = [1, 2].map { |x| x * 2 }\nend',
         'def self.m; g(1); end'},
    ),
    'php': (
        '<b>ö</b><?php\nuse A\\B;\nfunction f($a) { if ($b > 2) { return g($b); } echo "x"; }\n'
        'class A { public function m() { return $this->x; } }\n$h = fn($x) => $x * 2;\n',
        {'$b > 2', 'g($b)', '"x"', '$this->x', '$x * 2'}, {'<b>', 'A\\B'},
        {'use A\\B;', 'if ($b > 2) { return g($b); }', 'echo "x";', 'return $this->x;'}, {'g($b)'},
        {'function f($a) { if ($b > 2) { return g($b); } echo "x"; }', 'public function m() { return $this->x; }',
         'fn($x) => $x * 2'},
    ),
    'bash': (
        '#!/bin/bash\nf() { local a="$1"; if [[ $a = x ]]; then echo "$(ls -l | wc)"; fi; }\n'
        'for i in 1 2; do f "$i"; done\nb=$((1 + 2))\n',
        {'"$1"', '"$(ls -l | wc)"', '$(ls -l | wc)', '"$i"', '$((1 + 2))'}, {'1', 'x', 'a'},
        {'local a="$1"', 'ls -l | wc', 'for i in 1 2; do f "$i"; done', 'b=$((1 + 2))'}, {'"$i"', 'a'},
        {'f() { local a="$1"; if [[ $a = x ]]; then echo "$(ls -l | wc)"; fi; }'},
    ),
}  # fmt: skip


def found(text, language, level):
  tree = syntax.parse(text, language)
  return [tree.data[start:end].decode() for start, end in syntax.spans(tree, level)]


@pytest.mark.parametrize('language', SNIPPETS)
def test_levels_are_what_a_programmer_calls_them(language):
  text, expressions, no_expressions, statements, no_statements, functions = SNIPPETS[language]
  assert syntax.error_share(syntax.parse(text, language)) == 0
  got = {level: found(text, language, level) for level in syntax.LEVELS}
  assert expressions <= set(got['expression']) and not no_expressions & set(got['expression'])
  assert statements <= set(got['statement']) and not no_statements & set(got['statement'])
  assert functions == set(got['function']) and len(got['function']) == len(functions)


def test_every_language_with_a_grammar_is_tried():
  assert set(SNIPPETS) == set(PARSED)
  assert syntax.parse('x', 'markdown') is None and syntax.parse('x', '') is None and syntax.parse('x', 'no such') is None


def test_python_functions_and_statements_are_those_of_pythons_own_parser():
  text = inspect.getsource(ast) + 'é = "ü" + f(1)\n'
  lines = text.splitlines(keepends=True)
  offset = lambda line, column: len(''.join(lines[: line - 1]).encode()) + column
  place = lambda node: (offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset))
  nodes = list(ast.walk(ast.parse(text)))
  tree = syntax.parse(text, 'python')
  functions = {place(node) for node in nodes if isinstance(node, ast.FunctionDef)}
  assert set(syntax.spans(tree, 'function')) == functions
  kinds = (ast.Return, ast.Expr, ast.Assign, ast.If, ast.For, ast.Import, ast.With, ast.Raise, ast.ClassDef, ast.Pass)
  plain = {place(node) for node in nodes if isinstance(node, kinds)}
  plain = {span for span in plain if not tree.data[span[0] :].startswith(b'elif')}  # no statement of its own
  assert len(plain) > 800 and plain <= set(syntax.spans(tree, 'statement'))


@pytest.mark.parametrize(
    ('language', 'text', 'starts'),
    [
        ('python', 'import a\n# c\n\n# d\n# e\n@dec\ndef f(): pass\nx = 1\nclass A:\n  # m\n  def m(self): pass\n  y = 1\n',
         ['import a', '# d', 'x = 1', 'class A', '# m']),
        ('java', '/** d\n */\nclass A {\n  // m\n  int m() {}\n  @O\n  void n() {}\n}\n', ['/** d', '// m', '@O']),
        ('rust', '/// a\n#[x]\nfn f() {}\n\n/// b\nfn g() {}\n', ['/// a', '/// b']),
        ('cpp', '// t\ntemplate <class T>\nT f() { return 1; }\n', ['// t']),
        ('go', 'package a\n\n// f is\n// long.\nfunc f() {}\n', ['package a', '// f is']),
        ('javascript', 'export function f() {}\n', ['export']),
    ],
)  # fmt: skip
def test_a_definition_starts_with_the_comments_and_decorators_above_it(language, text, starts):
  tree = syntax.parse(text, language)
  offsets = syntax.definitions(tree)
  texts = [tree.data[offset:].decode() for offset in offsets]
  assert [text[: len(start)] for text, start in zip(texts, starts, strict=True)] == starts


@pytest.mark.parametrize('language', PARSED)
def test_the_share_of_errors_tells_code_from_prose_and_from_a_typo(language):
  code = (SNIPPETS[language][0] + '?>' * (language == 'php')) * 8
  broken = code.replace(')', ' ) ) $ (', 1)
  share = lambda text: syntax.error_share(syntax.parse(text, language))
  assert share(code) == 0
  if language not in ('php', 'bash'):  # any text is PHP, and any words are a command
    assert 0 < share(broken) < 0.2
    assert share('The quick brown fox jumps over: 50% of (lazy] dogs, "they say.\n' * 9) > 0.3
  assert share('') == 0


def test_a_missing_bracket_counts_as_a_byte():
  text = 'class A { void f() { g(1; } }\n'
  assert syntax.error_share(syntax.parse(text, 'java')) == 1 / len(text)


def test_a_macro_that_puts_the_rest_under_an_error_does_not_count_what_was_understood():
  function = 'static int f(int a) { return a + 1; }\n/* a comment\n of two lines */\n'
  text = function * 20 + 'BEGIN_DECLS(\n' + function * 20
  root = tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language())).parse(text.encode()).root_node
  error = next(node for node in root.children if node.is_error)
  assert error.end_byte - error.start_byte > 0.45 * len(text)
  assert 0 < syntax.error_share(syntax.parse(text, 'c')) < 0.25


HOSTILE = {
    'open brackets': '([{' * 100_000,
    'nested calls': 'f(' * 100_000 + ')' * 100_000,
    'one long line': 'a + ' * 100_000,
    'quotes': '"' * 300_000,
    'less than': 'a<' * 100_000,
    'interpolation': 'f"{`${#{$(' * 30_000,
    'heredocs': '<<A <<-B <<~C <<<D ' * 15_000,
    'else if': 'if (a) b; else ' * 20_000,
    'indentation': ''.join(' ' * i + 'if a:\n' for i in range(700)),
    'one word': 'a' * 300_000,
}


HARDEST = [('open brackets', 'ruby'), ('less than', 'typescript'), ('heredocs', 'bash'), ('else if', 'cpp')]
OTHERS = sorted(set(itertools.product(HOSTILE, PARSED)) - set(HARDEST))


@pytest.mark.parametrize(
    ('name', 'language'),
    HARDEST + [pytest.param(*pair, marks=pytest.mark.long) for pair in OTHERS],
)
def test_hostile_text_is_parsed_or_given_up_in_time(name, language):
  start = time.monotonic()
  tree = syntax.parse(HOSTILE[name], language, seconds=0.05)
  if tree:  # trees as deep as that are walked, too
    assert 0 <= syntax.error_share(tree) <= 1
    for level in syntax.LEVELS:
      syntax.spans(tree, level)
    syntax.definitions(tree)
  assert time.monotonic() - start < 5
  assert found('x = f(1)', 'python', 'expression') == ['f(1)']


def test_a_time_limit_ends_a_parse_that_would_take_long():
  text = 'x = (1 + [2, 3])\n' * 40_000
  assert syntax.parse(text, 'python', seconds=30) is not None
  assert syntax.parse(text, 'python', seconds=0.01) is None
  assert syntax.parse('\0' * 100_000, 'bash', seconds=0.1) is None  # without a limit a minute and gigabytes


@pytest.mark.long
def test_a_parse_that_would_crash_ends_alone():
  assert syntax.parse('R"a(#[?>' * 40_000, 'c', seconds=60) is None  # of memory, before the seconds are over
  assert found('int a = f(1);', 'c', 'expression') == ['f(1)']


def test_text_beyond_the_limit_is_not_parsed():
  assert syntax.parse('a' * (syntax.MAX_BYTES + 1), 'python') is None
  assert syntax.parse('é' * (syntax.MAX_BYTES // 2 + 1), 'python') is None
  assert syntax.parse('a = 1\n' * (syntax.MAX_BYTES // 6), 'python') is not None


def test_trees_may_be_asked_in_any_order_and_after_the_process_has_ended():
  texts = {f'f{i}(1)' for i in range(4)}
  trees = [syntax.parse(text, 'go') for text in texts] + [syntax.parse('x(', 'go')]
  for tree in (*trees, *trees[::-1]):
    assert [tree.data[a:b] for a, b in syntax.spans(tree, 'expression')] == ([tree.data] if tree is not trees[-1] else [])
    if tree is trees[2]:
      assert syntax.parse('\0' * 100_000, 'bash', seconds=0.01) is None
  tree = trees[0]
  process = syntax._process()
  process._process.kill()
  assert syntax.spans(tree, 'expression') == []  # killed in between: no answer, no error
  assert syntax.spans(tree, 'expression') == [(0, 5)]


def test_threads_and_forks_get_answers_of_their_own():
  texts = [f'f({"g(" * i}{")" * i})' for i in range(20)]
  expected = [found(text, 'python', 'expression') for text in texts]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(lambda text: found(text, 'python', 'expression'), texts * 5)) == expected * 5
  with multiprocessing.get_context('fork').Pool(2) as pool:
    assert pool.starmap(found, [(text, 'python', 'expression') for text in texts * 5]) == expected * 5
  assert [found(text, 'python', 'expression') for text in texts] == expected


def test_an_interrupted_question_does_not_leave_its_answer_to_the_next(monkeypatch):
  tree = syntax.parse('f(1)', 'python')

  def interrupt(process, count):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(syntax._Process, '_numbers', interrupt)
    syntax.spans(tree, 'expression')
  assert syntax.spans(tree, 'statement') == [(0, 4)]


def test_the_other_process_ends_with_this_one():
  code = (
      'from iquest_jax.data import syntax\n'
      'syntax.parse("x", "go")\nprint(syntax._process()._process.pid, flush=True)\nimport os; os._exit(0)'
  )
  pid = int(subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, check=True).stdout)
  deadline = time.monotonic() + 10
  while pathlib.Path(f'/proc/{pid}/cmdline').exists() and pathlib.Path(f'/proc/{pid}/cmdline').read_bytes():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_a_node_with_errors_is_given_at_no_level():
  text = 'f(1)\ng(2 +)\ndef h():\n  return (\n'
  tree = syntax.parse(text, 'python')
  assert tree.wrong_bytes
  got = {text[start:end] for level in syntax.LEVELS for start, end in syntax.spans(tree, level)}
  assert 'f(1)' in got and not any('+' in node or 'def' in node for node in got)


def test_an_offset_within_a_character_is_not_given():
  text = 'case "$b" in 3) exit\ud800" 1;; esac\nf 1\n'
  offsets = syntax.definitions(syntax.parse(text, 'bash'))
  assert [syntax.decode(syntax.encode(text)[:offset]) for offset in offsets]
  tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language())).parse(b'int a = f(1);')
  assert grammars.spans(tree, 'c', 'expression', b'int a = f(1);') == [(8, 12)]
  assert grammars.spans(tree, 'c', 'expression', b'int a = f(1)\x80') == []


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PARSED), st.integers())
def test_spans_lie_between_characters_in_whatever_text(language, seed):
  rng = random.Random(seed)
  text = list(SNIPPETS[language][0])
  for _ in range(rng.randrange(6)):  # breaks the code, and its characters
    text[rng.randrange(len(text))] = rng.choice(['é', '\ud800', '😀', '', '"', '(', '}', '\n', '\r', '\u2028'])
  text = ''.join(text)
  tree = syntax.parse(text, language)
  assert syntax.decode(tree.data) == text
  for level in syntax.LEVELS:
    spans = syntax.spans(tree, level)
    assert spans == sorted(set(spans)) and all(start < end for start, end in spans)
    for start, end in spans:
      syntax.decode(tree.data[start:end])  # raises UnicodeDecodeError if it begins or ends within a character
  for start in syntax.definitions(tree):
    syntax.decode(tree.data[start:])


def test_a_grammar_that_is_missing_is_named_and_not_taken_for_a_hard_text(monkeypatch):
  syntax._check_installed.cache_clear()
  with monkeypatch.context() as patch, pytest.raises(UserError, match='tree_sitter_go is not installed, and go needs it'):
    patch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'tree_sitter_go' else name)
    syntax.parse('x', 'go')
  syntax._process().close()
  with monkeypatch.context() as patch, pytest.raises(RuntimeError, match='does not start'):
    patch.setattr(sys, 'executable', '/bin/false')
    syntax.parse('x', 'go')
  assert syntax.parse('x', 'go') is not None


def test_no_grammar_is_loaded_here():
  code = (
      'import sys\nfrom iquest_jax.data import syntax\nsyntax.parse("x", "go")\n'
      'print([name for name in sys.modules if name.startswith("tree_")])'
  )
  done = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True)
  assert (done.stdout, done.stderr) == ('[]\n', '')
