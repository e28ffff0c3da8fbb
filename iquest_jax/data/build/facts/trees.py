"""Facts of a JavaScript, TypeScript, Java or Go file, read from what queries capture in its tree-sitter tree."""

import dataclasses
import functools
import re
from collections.abc import Iterator

from iquest_jax.data import syntax
from iquest_jax.data.build.facts import documented
from iquest_jax.data.build.facts.candidates import (
    MAX_ANSWER_CHARACTERS,
    MAX_NAMED,
    NO_TYPE,
    Candidate,
    Definition,
    is_constant,
    is_public,
)
from iquest_jax.data.build.facts.questions import ORDINALS

# Names of captures: `class`, `interface`, `function`, `constructor`, `constant`, `parameter` and `throw` hold others.
# `plain` is a parameter with a name, `rest` any other one, `nested` what has a body of its own or catches errors, unless it
# is the `own` body of what is being defined.
_SCRIPT = """
(function_declaration name: (identifier) @name body: (_)) @function
(method_definition name: (_) @name) @function
(variable_declarator name: (identifier) @name value: [(arrow_function) (function_expression)] @own) @function
[(arrow_function) (function_expression) (generator_function) (class) (try_statement)] @nested
(throw_statement) @throw
(throw_statement (new_expression constructor: [(identifier) (member_expression)] @raised))
(program (lexical_declaration "const" (variable_declarator name: (identifier) @name
  value: [(number) (string) (true) (false) (unary_expression)] @value) @constant))
(program (export_statement (lexical_declaration "const" (variable_declarator name: (identifier) @name
  value: [(number) (string) (true) (false) (unary_expression)] @value) @constant)))
(comment) @comment
"""
_JAVASCRIPT = _SCRIPT + """
(class_declaration name: (_) @name) @class
(class_heritage [(identifier) (member_expression)] @base)
(formal_parameters (identifier) @plain)
(arrow_function parameter: (identifier) @plain)
(formal_parameters (assignment_pattern left: (identifier) @plain right: (_) @default) @parameter)
(formal_parameters (assignment_pattern left: [(object_pattern) (array_pattern)]) @rest)
(formal_parameters [(rest_pattern) (object_pattern) (array_pattern)] @rest)
(object) @object
"""
_TYPESCRIPT = _SCRIPT + """
(class_declaration name: (_) @name) @class
(abstract_class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @interface
(extends_clause value: [(identifier) (member_expression)] @base .)
(function_declaration return_type: (type_annotation (_) @returns))
(method_definition return_type: (type_annotation (_) @returns))
(arrow_function parameter: (identifier) @plain)
(arrow_function return_type: (type_annotation (_) @returns))
(formal_parameters [(required_parameter) (optional_parameter)] @parameter)
(formal_parameters (_ pattern: (identifier) @plain))
(formal_parameters (_ pattern: [(rest_pattern) (object_pattern) (array_pattern) (this)] @rest))
(formal_parameters (_ pattern: (identifier) type: (type_annotation (_) @type)))
(formal_parameters (_ pattern: (identifier) value: (_) @default))
(object) @object
"""
_JAVA = """
(class_declaration name: (_) @name) @class
(record_declaration name: (_) @name) @interface
(enum_declaration name: (_) @name) @interface
(interface_declaration name: (_) @name) @interface
(superclass (_) @base)
(method_declaration type: (_) @returns name: (_) @name) @function
(constructor_declaration name: (_) @name) @constructor
(class_declaration body: (_) @own)
(record_declaration body: (_) @own)
[(lambda_expression) (class_body) (try_statement) (try_with_resources_statement)] @nested
(formal_parameters (formal_parameter type: (_) @type name: (_) @plain) @parameter)
(formal_parameters [(spread_parameter) (receiver_parameter)] @rest)
(throws (_) @throws)
(throw_statement) @throw
(throw_statement (object_creation_expression type: (_) @raised))
(field_declaration (modifiers "final") declarator: (variable_declarator name: (_) @name
  value: [(decimal_integer_literal) (hex_integer_literal) (decimal_floating_point_literal) (string_literal)
  (character_literal) (true) (false) (unary_expression)] @value)) @constant
[(block_comment) (line_comment)] @comment
"""
_GO = """
(function_declaration name: (_) @name) @function
(method_declaration receiver: (parameter_list (parameter_declaration
  type: [(type_identifier) @receiver (pointer_type (type_identifier) @receiver)])) name: (_) @name) @function
(function_declaration result: (_) @returns)
(method_declaration result: (_) @returns)
(function_declaration parameters: (parameter_list (parameter_declaration name: (_)) @parameter))
(method_declaration parameters: (parameter_list (parameter_declaration name: (_)) @parameter))
(function_declaration parameters: (parameter_list (parameter_declaration name: (_) @plain type: (_) @type)))
(method_declaration parameters: (parameter_list (parameter_declaration name: (_) @plain type: (_) @type)))
(function_declaration parameters: (parameter_list (parameter_declaration !name) @rest))
(method_declaration parameters: (parameter_list (parameter_declaration !name) @rest))
(parameter_list (variadic_parameter_declaration) @rest)
(source_file (const_declaration (const_spec name: (_) @name value: (expression_list . [(int_literal) (float_literal)
  (interpreted_string_literal) (raw_string_literal) (rune_literal) (unary_expression)] @value .)) @constant))
(comment) @comment
"""
_QUERIES = {'javascript': _JAVASCRIPT, 'typescript': _TYPESCRIPT, 'tsx': _TYPESCRIPT, 'java': _JAVA, 'go': _GO}
LANGUAGES = tuple(_QUERIES)


@dataclasses.dataclass(slots=True)
class _Node:
  """A capture with those directly within it."""

  kind: str
  start: int
  end: int
  inner: list['_Node']


def definitions(source: str, language: str) -> list[Definition]:
  """Top-level functions, classes, their methods, and constants.

  Raises:
    ValueError: the source has errors, or parsing it takes too much.
    RecursionError: classes within classes are too deep.
  """
  tree = syntax.parse(source, language)
  if tree is None or syntax.error_share(tree) > 0:
    raise ValueError('not parsed')
  root = _nest(syntax.captures(tree, _QUERIES[language]), len(tree.data))
  return list(_Reading(tree.data, language).within(root, ''))


def _nest(captures: list[tuple[str, int, int]], size: int) -> _Node:
  root = _Node('', 0, size, [])
  around, own = [root], None
  for kind, start, end in captures:
    while start >= around[-1].end and len(around) > 1:
      around.pop()
    own = (start, end) if kind == 'own' else own
    if kind == 'own' or kind == 'nested' and (start, end) == own:
      continue
    around[-1].inner.append(_Node(kind, start, end, []))
    around.append(around[-1].inner[-1])
  return root


class _Reading:
  """One file; offsets are bytes."""

  def __init__(self, data: bytes, language: str):
    self._data, self._language = data, language

  def within(self, node: _Node, owner: str) -> Iterator[Definition]:
    """Definitions in a file, or in the class `owner`, whose name ends with a dot."""
    comment = None
    for inner in node.inner:
      if inner.kind == 'comment':
        comment = inner if comment is None or not self._adjacent(comment, inner.start, '//') else _Node(
            'comment', comment.start, inner.end, []
        )  # fmt: skip
      elif inner.kind in ('function', 'constructor'):
        yield functools.partial(self._function, inner, owner, comment)
      elif inner.kind in ('class', 'interface') and is_public(name := self._one(inner, 'name')):
        if inner.kind == 'class':
          yield functools.partial(self._answered, inner, 'base', 'class', owner + name)
        yield from self.within(inner, f'{owner}{name}.')
      elif inner.kind == 'constant' and is_constant(name := self._one(inner, 'name')):
        yield functools.partial(self._answered, inner, 'value', 'constant', owner + name)

  def _answered(self, node: _Node, kind: str, noun: str, subject: str) -> Iterator[Candidate]:
    """The question whose answer is the one capture of its kind within a node."""
    if text := self._one(node, kind):
      yield Candidate(kind, noun, subject, text)

  def _adjacent(self, comment: _Node, start: int, sign: str = '') -> bool:
    """Whether only blanks, or words that belong to a declaration, lie between a comment and what it is about."""
    between = self._data[comment.end : start]
    return between.count(b'\n') <= 1 and between.strip() in (b'', b'export', b'export default', b'const', b'export const')

  def _text(self, node: _Node) -> str:
    text = syntax.decode(self._data[node.start : node.end])
    return text if '\n' not in text and len(text) <= MAX_ANSWER_CHARACTERS else ''

  def _one(self, node: _Node, kind: str) -> str:
    """The text of the one capture of a kind directly within a node, '' if there is none or more."""
    found = [inner for inner in node.inner if inner.kind == kind]
    return self._text(found[0]) if len(found) == 1 else ''

  def _function(self, node: _Node, owner: str, comment: _Node | None) -> Iterator[Candidate]:
    name, receiver = self._one(node, 'name'), self._one(node, 'receiver')
    first = next((inner.start for inner in node.inner if inner.kind == 'name'), node.start)
    head = syntax.decode(self._data[node.start : first])
    if not re.fullmatch(r'[\w$]+', name) or not is_public(name) or re.search(r'\b(?:private|get|set)\s', head):
      return
    owner = owner or (receiver and f'{receiver}.')
    noun = 'constructor' if node.kind == 'constructor' else 'method' if owner else 'function'
    subject = owner + name
    parameters = list(self._parameters(node))
    names = [parameter[0] for parameter in parameters]
    if not any(inner.kind == 'rest' for inner in node.inner) and all(names):
      yield Candidate('count', noun, subject, str(len(names)))
      if 2 <= len(names) <= MAX_NAMED:
        yield Candidate('names', noun, subject, ', '.join(names))
      if len(names) > 1:
        for ordinal, parameter in zip(ORDINALS, names):
          yield Candidate('position', noun, subject, parameter, ordinal)
    for parameter, kind, default in parameters:
      if parameter and kind and kind not in NO_TYPE:
        yield Candidate('type', noun, subject, kind, parameter)
      if parameter and default and re.fullmatch(r'''-?[\w.$]+|'[^']*'|"[^"]*"|\[\]|\{\}''', default):
        yield Candidate('default', noun, subject, default, parameter)
    for kind in ('returns', 'throws'):
      yield from (found for found in self._answered(node, kind, noun, subject) if found.answer not in NO_TYPE)
    if (error := self._raised(node)) is not None:
      yield Candidate('raises', noun, subject, error)
    if noun == 'method' and self._language in ('javascript', 'typescript', 'tsx') and name != 'constructor':
      yield Candidate('owner', 'method', name, owner[:-1])
    if comment and self._adjacent(comment, node.start):
      yield from self._documented(comment, noun, subject)

  def _parameters(self, node: _Node) -> Iterator[tuple[str, str, str]]:
    """(name, type, default) of the parameters of a function; names that share a type stand in one declaration."""
    for inner in node.inner:
      if inner.kind == 'plain':
        yield self._text(inner), '', ''
      elif inner.kind == 'parameter':
        if any(part.kind == 'rest' for part in inner.inner):
          yield '', '', ''
        for part in inner.inner:
          if part.kind == 'plain':
            yield self._text(part), self._one(inner, 'type'), self._one(inner, 'default')

  def _raised(self, node: _Node) -> str | None:
    """The one exception that a function throws; None if there are more, or one may be caught or belong to another body."""
    if any(inner.kind in ('nested', 'function', 'class') for inner in node.inner):
      return None
    found = {self._one(inner, 'raised') for inner in node.inner if inner.kind == 'throw'}
    return found.pop() or None if len(found) == 1 else None

  def _documented(self, comment: _Node, noun: str, subject: str) -> Iterator[Candidate]:
    text = syntax.decode(self._data[comment.start : comment.end])
    go = self._language == 'go'
    if not text.startswith('//' if go else '/**'):
      return
    lines = [re.sub(r'^\s*(?://+ ?|/\*\*+ ?|\* ?)', '', line) for line in text.removesuffix('*/').split('\n')]
    name = subject.rpartition('.')[2] if go else ''
    if answer := documented.result(lines, name, tagged=not go):
      yield Candidate('documented result', noun, subject, answer)
    for error, condition in documented.errors(lines) if not go else ():
      yield Candidate('documented error', noun, subject, condition, error)
