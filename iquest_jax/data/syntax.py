"""Syntax trees by tree-sitter: parsing within limits, share of errors, places of expressions, statements and functions.

Offsets are bytes of the UTF-8 text.
"""

import dataclasses
import functools
import importlib
import time
from typing import Any

from iquest_jax.data.languages import LANGUAGES

LEVELS = ('expression', 'statement', 'function')

# ours: both limits. A file of real source takes 0.15 s per MB. tree-sitter asks for the time after some hundred steps, so
# what one step costs decides how late that is: some grammars read ahead to the end of the text for a single token, hence
# the limit on bytes.
SECONDS = 2.0
MAX_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Tree:
  """What tree-sitter made of a text; the text may have errors."""

  language: str
  data: bytes
  tree: Any  # tree_sitter.Tree


def parse(text: str | bytes, language: str, seconds: float = SECONDS) -> Tree | None:
  """The tree of a text.

  None if the language has no grammar (it is not in languages.PARSED), if the text has a NUL or more than MAX_BYTES bytes,
  or if parsing takes longer than `seconds`.
  """
  if language not in LANGUAGES or not LANGUAGES[language].grammar:
    return None
  data = encode(text) if isinstance(text, str) else text
  # NULs mean the end of the text to grammars: that of Bash takes 5 seconds and 400 MB for 30 kB of them, and never asks.
  if len(data) > MAX_BYTES or b'\0' in data:
    return None
  import tree_sitter

  parser = tree_sitter.Parser(_grammar(language))
  deadline = time.monotonic() + seconds
  try:
    tree = parser.parse(
        lambda offset, _: data[offset : offset + _CHUNK_BYTES],
        encoding='utf8',
        progress_callback=lambda offset, has_error: time.monotonic() > deadline,
    )
  except ValueError:  # 'Parsing failed': the callback said so
    return None
  return Tree(language, data, tree)


def encode(text: str) -> bytes:
  """UTF-8; a lone surrogate, which is no character, becomes three bytes that `decode` turns back."""
  return text.encode('utf-8', 'surrogatepass')


def decode(data: bytes) -> str:
  return data.decode('utf-8', 'surrogatepass')


def error_share(tree: Tree) -> float:
  """Share of bytes in ERROR nodes, less what the grammar still understood within them; a MISSING node counts as a byte.

  One macro that C's grammar does not know can put the rest of a file under one ERROR node.
  """
  if not tree.tree.root_node.has_error:
    return 0.0
  captures = _captures(tree, 'error')
  size = lambda node: node.end_byte - node.start_byte
  wrong = len(captures.get('missing', ()))
  for node in captures.get('error', ()):
    wrong += size(node) - sum(size(child) for child in node.children if child.child_count or child.is_extra)
  return wrong / max(len(tree.data), 1)


def spans(tree: Tree, level: str) -> list[tuple[int, int]]:
  """Where the nodes of a level lie, sorted: [(first byte, byte after the last)], none empty, none twice.

  Nodes with errors are left out, and so are names and numbers that stand alone: they are one token each.

  Args:
    level: one of LEVELS.
  """
  nodes = _captures(tree, level).get('node', ())
  if tree.tree.root_node.has_error:
    nodes = [node for node in nodes if not node.has_error]
  return sorted({span for node in nodes if node.child_count and _is_whole(tree.data, span := node.byte_range)})


def definitions(tree: Tree) -> list[int]:
  """First bytes of functions, types and whatever stands at the top level, each with the comments right above it; sorted."""
  captures = _captures(tree, 'definition')
  comments = {}  # the row a block of comments ends on: the row and the byte it starts at
  for start_byte, node in sorted((node.start_byte, node) for node in captures.get('comment', ())):
    row, (last, column) = node.start_point.row, node.end_point
    comments[last - (column == 0)] = comments.pop(row - 1, (row, start_byte))
  kinds = _COMMENTS.get(tree.language, ('comment',))
  top = [node for node in tree.tree.root_node.named_children if node.type not in kinds]
  first = {}  # a decorated function ends where the function ends: the outer one counts
  for node in (*captures.get('node', ()), *top):
    row, start, end = node.start_point.row, node.start_byte, node.end_byte
    start = min(start, comments.get(row - 1, (row, start))[1])
    first[end] = min(first.get(end, start), start)
  return sorted({start for start in first.values() if _is_boundary(tree.data, start)})


def _is_whole(data: bytes, span: tuple[int, int]) -> bool:
  return span[0] < span[1] and _is_boundary(data, span[0]) and _is_boundary(data, span[1])


def _is_boundary(data: bytes, offset: int) -> bool:
  """Whether an offset lies between two characters; in broken text a grammar may end a node within one."""
  return offset >= len(data) or data[offset] & 0xC0 != 0x80


def _captures(tree: Tree, level: str) -> dict[str, list[Any]]:
  import tree_sitter

  return tree_sitter.QueryCursor(_query(tree.language, level)).captures(tree.tree.root_node)


@functools.cache
def _grammar(language: str) -> Any:
  import tree_sitter

  module, function = LANGUAGES[language].grammar.split('.')
  return tree_sitter.Language(getattr(importlib.import_module(module), function)())


@functools.cache
def _query(language: str, level: str) -> Any:
  import tree_sitter

  if level == 'error':
    return tree_sitter.Query(_grammar(language), '(ERROR) @error (MISSING) @missing')
  pattern = '[' + ' '.join(f'({kind})' for kind in _NODES[language][level].split()) + '] @node'
  if level == 'definition':
    pattern += ' [' + ' '.join(f'({kind})' for kind in _COMMENTS.get(language, ('comment',))) + '] @comment'
  return tree_sitter.Query(_grammar(language), pattern)


# What counts as a node of a level: types of nodes, or supertypes, which match where the grammar wants an expression or a
# statement (a name that is being defined is no expression).
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
