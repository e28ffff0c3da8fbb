"""The process that parses: tree-sitter alone at the end of a pipe, where it may take too long, or all memory, or crash.

syntax.py starts it and asks it. A request is a line of JSON and, if it brings one, a text; an answer is a count and as many
32-bit numbers.
"""

import array
import contextlib
import functools
import importlib
import json
import resource
import signal
import sys
from typing import BinaryIO

import tree_sitter

from iquest_jax.data.languages import LANGUAGES

# ours: real source takes 30 bytes for each of its own, and no text is longer than syntax.MAX_BYTES.
MAX_MEMORY_BYTES = 1 << 29


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
  """Answers until there are no more requests, or until one takes too long and ends the process.

  An empty answer says that it is ready. A request with 'bytes' brings a text in a 'language' and asks for the bytes of its
  errors; one with a 'level' asks where the nodes of that level lie in the last text, one with a 'query' for its captures.
  Each may take 'seconds' of processor time.
  """
  language, data, tree = '', b'', None
  _answer(answers, [])
  for line in requests:
    request = json.loads(line)
    # When it is over the kernel ends this process, whatever it is doing.
    signal.setitimer(signal.ITIMER_PROF, request['seconds'])
    if 'bytes' in request:
      language, data = request['language'], requests.read(request['bytes'])
      tree = tree_sitter.Parser(_grammar(language)).parse(data)
      numbers = [errors(tree)]
    elif 'query' in request:
      numbers = captures(tree, language, request['query'])
    elif request['level'] == 'definition':
      numbers = definitions(tree, language, data)
    else:
      numbers = [offset for span in spans(tree, language, request['level'], data) for offset in span]
    signal.setitimer(signal.ITIMER_PROF, 0)
    _answer(answers, numbers)


def _answer(answers: BinaryIO, numbers: list[int]) -> None:
  answers.write(array.array('I', [len(numbers), *numbers]).tobytes())
  answers.flush()


def errors(tree: tree_sitter.Tree) -> int:
  """Bytes in ERROR nodes, less what the grammar still understood within them; a MISSING node counts as a byte.

  One macro that C's grammar does not know can put the rest of a file under one ERROR node.
  """
  if not tree.root_node.has_error:
    return 0
  query = tree_sitter.Query(tree.language, '(ERROR) @error (MISSING) @missing')
  captures = tree_sitter.QueryCursor(query).captures(tree.root_node)
  size = lambda node: node.end_byte - node.start_byte
  understood = lambda node: sum(size(child) for child in node.children if child.child_count or child.is_extra)
  wrong = sum(size(node) - understood(node) for node in captures.get('error', ()))
  return wrong + len(captures.get('missing', ()))


def spans(tree: tree_sitter.Tree, language: str, level: str, data: bytes) -> list[tuple[int, int]]:
  """(First byte, byte after the last) of the nodes of a level, sorted; see syntax.spans."""
  nodes = tree_sitter.QueryCursor(_query(language, level)).captures(tree.root_node).get('node', ())
  if tree.root_node.has_error:
    nodes = [node for node in nodes if not node.has_error]
  found = {node.byte_range for node in nodes if node.child_count}
  return sorted(span for span in found if span[0] < span[1] and all(_is_boundary(data, offset) for offset in span))


def captures(tree: tree_sitter.Tree, language: str, text: str) -> list[int]:
  """Three numbers for each capture of a query; see syntax.captures."""
  found = tree_sitter.QueryCursor(query := _compiled(language, text)).captures(tree.root_node)
  names = [query.capture_name(number) for number in range(query.capture_count)]
  spans = {(node.start_byte, -node.end_byte, number) for number, name in enumerate(names) for node in found.get(name, ())}
  return [value for start, end, number in sorted(spans) for value in (number, start, -end)]


def definitions(tree: tree_sitter.Tree, language: str, data: bytes) -> list[int]:
  """First bytes of definitions, sorted; see syntax.definitions."""
  captures = tree_sitter.QueryCursor(_query(language, 'definition')).captures(tree.root_node)
  comments = {}  # the row a block of comments ends on: the row and the byte it starts at
  for node in sorted(captures.get('comment', ()), key=lambda node: node.start_byte):
    row, (last, column) = node.start_point.row, node.end_point
    comments[last - (column == 0)] = comments.pop(row - 1, (row, node.start_byte))
  top = [node for node in tree.root_node.named_children if node.type not in _comments(language)]
  first = {}  # a decorated function ends where the function ends: the outer one counts
  for node in (*captures.get('node', ()), *top):
    row, start, end = node.start_point.row, node.start_byte, node.end_byte
    start = min(start, comments.get(row - 1, (row, start))[1])
    first[end] = min(first.get(end, start), start)
  return sorted({start for start in first.values() if _is_boundary(data, start)})


def _is_boundary(data: bytes, offset: int) -> bool:
  """Whether an offset lies between two characters; in broken text a grammar may end a node within one."""
  return offset >= len(data) or data[offset] & 0xC0 != 0x80


@functools.cache
def _grammar(language: str) -> tree_sitter.Language:
  module, function = LANGUAGES[language].grammar.split('.')
  return tree_sitter.Language(getattr(importlib.import_module(module), function)())


@functools.cache
def _compiled(language: str, text: str) -> tree_sitter.Query:
  return tree_sitter.Query(_grammar(language), text)


@functools.cache
def _query(language: str, level: str) -> tree_sitter.Query:
  any_of = lambda kinds: '[' + ' '.join(f'({kind})' for kind in kinds) + ']'
  pattern = any_of(_NODES[language][level].split()) + ' @node'
  if level == 'definition':
    pattern += f' {any_of(_comments(language))} @comment'
  return tree_sitter.Query(_grammar(language), pattern)


def _comments(language: str) -> tuple[str, ...]:
  return _COMMENTS.get(language, ('comment',))


# What counts as a node of a level: types of nodes, or supertypes, which match where the grammar wants an expression or a
# statement (a name that is being defined is not an expression).
_C = {
    'expression': 'expression initializer_list',
    'statement': 'statement declaration type_definition preproc_include preproc_def preproc_function_def',
    'function': 'function_definition',
    'definition': 'function_definition struct_specifier union_specifier enum_specifier type_definition',
}
_JAVASCRIPT = {
    'expression': 'expression primary_expression',
    'statement': 'statement declaration',
    'function': 'function_declaration generator_function_declaration function_expression generator_function arrow_function '
                'method_definition',
    'definition': 'function_declaration generator_function_declaration class_declaration method_definition',
}  # fmt: skip
_TYPESCRIPT = _JAVASCRIPT | {
    'definition': _JAVASCRIPT['definition'] + ' interface_declaration enum_declaration type_alias_declaration '
                  'abstract_class_declaration internal_module',
}  # fmt: skip
# Attributes stand above a definition as its comments do.
_COMMENTS = {'java': ('line_comment', 'block_comment'), 'rust': ('line_comment', 'block_comment', 'attribute_item')}
_NODES = {
    'python': {
        'expression': 'expression primary_expression',
        'statement': 'import_statement import_from_statement future_import_statement assert_statement expression_statement '
                     'return_statement delete_statement raise_statement pass_statement break_statement continue_statement '
                     'global_statement nonlocal_statement exec_statement type_alias_statement if_statement for_statement '
                     'while_statement try_statement with_statement match_statement decorated_definition '
                     'function_definition class_definition',
        'function': 'function_definition',
        'definition': 'function_definition class_definition decorated_definition',
    },
    'java': {
        'expression': 'expression',
        'statement': 'statement',
        'function': 'method_declaration constructor_declaration compact_constructor_declaration',
        'definition': 'method_declaration constructor_declaration class_declaration interface_declaration '
                      'enum_declaration record_declaration annotation_type_declaration',
    },
    'javascript': _JAVASCRIPT,
    'typescript': _TYPESCRIPT,
    'tsx': _TYPESCRIPT,
    'c': _C,
    'cpp': _C | {
        'statement': _C['statement'] + ' using_declaration alias_declaration',
        'definition': _C['definition'] + ' class_specifier template_declaration namespace_definition',
    },
    'csharp': {
        # The grammar lists apart what may be a statement.
        'expression': 'expression assignment_expression invocation_expression await_expression object_creation_expression '
                      'prefix_unary_expression postfix_unary_expression',
        'statement': 'statement using_directive',
        'function': 'method_declaration constructor_declaration destructor_declaration operator_declaration '
                    'conversion_operator_declaration local_function_statement',
        'definition': 'method_declaration constructor_declaration property_declaration type_declaration',
    },
    'go': {
        'expression': '_expression',
        'statement': '_statement _simple_statement',
        'function': 'function_declaration method_declaration func_literal',
        'definition': 'function_declaration method_declaration type_declaration',
    },
    'rust': {
        'expression': '_expression',
        'statement': 'expression_statement let_declaration',
        'function': 'function_item',
        'definition': 'function_item struct_item enum_item trait_item impl_item mod_item macro_definition',
    },
    'ruby': {
        'expression': 'call binary unary assignment operator_assignment conditional element_reference scope_resolution '
                      'array hash string regex range lambda parenthesized_statements',
        'statement': '_statement',
        'function': 'method singleton_method',
        'definition': 'method singleton_method class module singleton_class',
    },
    'php': {
        'expression': 'expression',
        'statement': 'statement',
        'function': 'function_definition method_declaration anonymous_function arrow_function',
        'definition': 'function_definition method_declaration class_declaration interface_declaration trait_declaration '
                      'enum_declaration',
    },
    'bash': {
        'expression': '_expression string command_substitution expansion arithmetic_expansion',
        'statement': 'command pipeline list if_statement while_statement for_statement c_style_for_statement '
                     'case_statement variable_assignment declaration_command redirected_statement negated_command '
                     'test_command subshell compound_statement',
        'function': 'function_definition',
        'definition': 'function_definition',
    },
}  # fmt: skip

if __name__ == '__main__':
  with contextlib.suppress(ValueError, OSError):  # some systems have no such limit
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
  # Whoever started this process is interrupted; this one ends when its pipe is closed.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  serve(sys.stdin.buffer, sys.stdout.buffer)
