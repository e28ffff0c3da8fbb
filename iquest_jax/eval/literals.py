"""Python that a model wrote as an answer, parsed and never evaluated: single expressions and literal values."""

import ast

LONGEST = 20_000  # characters; longer texts are no answers, and parsing them could exhaust the parser's stack


def parsed(text: str, mode: str = 'eval') -> ast.Expression | ast.Module | None:
  """The tree of an expression (`eval`) or of statements (`exec`); None if the text is not one."""
  if len(text) > LONGEST:
    return None
  try:
    return ast.parse(text.strip(), mode=mode)
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return None
