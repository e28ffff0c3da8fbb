"""Structural integrity of code: the share of a file that its grammar cannot parse.

Source: IQuest-Coder-V1 report, pre-training data (AST checks of code).
"""

from iquest_jax.data import syntax
from iquest_jax.data.documents import Drop
from iquest_jax.data.languages import PARSED, language_of

# ours: of 150 files of Python, JavaScript, Go and PHP that a Debian system installs none has more than 0.1, and one of 150
# files of C, C++ and of the shell lies above these: a grammar does not expand the macros of C.
_MOST_ERRORS = 0.1
_MOST_ERRORS_OF = {'c': 0.25, 'cpp': 0.25, 'bash': 0.11}


def check(path: str, text: str) -> str | Drop:
  """Code that its language's grammar parses, up to a share of bytes in errors; languages without a grammar pass.

  A parser that data/syntax.py had to end, for its time, its memory or a crash, took too long.
  """
  language = language_of(path, text)
  if language not in PARSED:
    return text
  data = syntax.encode(text)
  if len(data) > syntax.MAX_BYTES:
    return Drop('structure: too long to parse', f'{len(data)} bytes of {language}')
  tree = syntax.parse(data, language)
  if tree is None:
    return Drop('structure: the parser took too long', f'{len(data)} bytes of {language}')
  share = syntax.error_share(tree)
  if share > _MOST_ERRORS_OF.get(language, _MOST_ERRORS):
    return Drop('structure: too many errors', f'{share:.2f} of {len(data)} bytes of {language}')
  return text
