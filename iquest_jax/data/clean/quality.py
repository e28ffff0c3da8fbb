"""A cheap score of a text, by which the best of several near-duplicates is kept."""

import math

from iquest_jax.data.languages import LANGUAGES, language_of

# ours: from here on greater length and more comments no longer raise the score.
_LONG_ENOUGH, _ENOUGH_LETTERS, _ENOUGH_COMMENTS = 1 << 18, 0.7, 0.15
# ours: of copies the longer one is usually whole, so half the length outweighs any comments; the others part texts of
# about one length.
_LENGTH, _LETTERS, _UNIQUE, _COMMENTS = 0.7, 0.1, 0.17, 0.03
_LETTER_BYTES = bytes(b for b in range(256) if b > 127 or chr(b).isalnum())


def quality(path: str, text: str) -> float:
  """How good a text is beside another version of it, in [0, 1]; it says little about texts that are not alike.

  Parts: length on a logarithmic scale, share of letters and digits among visible characters, share of lines that are
  there once, and, in code, share of lines that are comments (prose gets half of that part).
  """
  lines = [stripped for line in text.split('\n') if (stripped := line.strip())]
  if not lines:
    return 0.0
  data = text.encode('utf-8', 'replace')
  visible = len(data.translate(None, b' \t\n\r\f\v')) or 1
  letters = (len(data) - len(data.translate(None, _LETTER_BYTES))) / visible
  comment = _comment(path)
  comments = sum(line.startswith(comment) for line in lines) / len(lines) if comment else _ENOUGH_COMMENTS / 2
  return (
      _LENGTH * min(1, math.log1p(len(text)) / math.log1p(_LONG_ENOUGH))
      + _LETTERS * min(1, letters / _ENOUGH_LETTERS)
      + _UNIQUE * len(set(lines)) / len(lines)
      + _COMMENTS * min(1, comments / _ENOUGH_COMMENTS)
  )


def _comment(path: str) -> tuple[str, ...]:
  """What a line of comment starts with; of documentation in a string or a block, its first line counts."""
  language = LANGUAGES.get(language_of(path))
  if not language or language.kind == 'prose' or not language.comment:
    return ()
  return (language.comment, '"""', '*', '/*') if language.comment in ('#', '//') else (language.comment,)
