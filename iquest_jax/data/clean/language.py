"""The language of a file, by its name, then by its content; and files whose content is not what their name says."""

import functools
import re

from iquest_jax.data.documents import Drop
from iquest_jax.data.languages import LANGUAGES, language_of

# magika's names that are not ours; the others are equal or unknown here.
_MAGIKA = {
    'shell': 'bash', 'cs': 'csharp', 'rst': 'restructuredtext', 'txt': 'text', 'objectivec': 'objective-c', 'scss': 'sass',
    'jsx': 'javascript', 'lisp': 'common-lisp', 'tex': 'latex', 'bib': 'latex', 'visualbasic': 'vba', 'asm': 'assembly',
    'tsv': 'csv', 'ipynb': 'jupyter', 'jsonl': 'json', 'h': 'c', 'hpp': 'cpp', 'bazel': 'starlark',
}  # fmt: skip
_LEAST_SCORE = 0.7  # ours
_HEAD = 16 << 10  # characters that magika sees: it looks at the beginning, the middle and the end of what it gets

# How formats other than source text begin, whatever the file is called.
_SIGNATURES = (
    ('%PDF-', 'PDF'), ('{\\rtf', 'RTF'), ('%!PS', 'PostScript'), ('PK\x03\x04', 'ZIP'), ('\x7fELF', 'ELF'), ('GIF8', 'GIF'),
    ('-----BEGIN PGP MESSAGE', 'PGP'), ('version https://git-lfs.github.com/spec/', 'Git LFS pointer'),
    ('SQLite format 3', 'SQLite'),
)  # fmt: skip
_MARKUP = re.compile(r'<(?:\?xml\s|!DOCTYPE\s+\w|html[\s>])', re.IGNORECASE)
_HOLD_MARKUP = frozenset((
    'html', 'xml', 'svg', 'php', 'vue', 'svelte', 'jinja', 'markdown', 'text', 'javascript', 'typescript', 'tsx', 'csharp',
))  # fmt: skip
# A shell line may start any interpreter, and these families share their names.
_FAMILIES = {'tsx': 'javascript', 'typescript': 'javascript', 'fish': 'bash', 'cpp': 'c', 'groovy': 'java', 'scala': 'java'}


def of(path: str, text: str) -> str:
  """The language of a file, a name of data/languages.py; '' if neither its name nor its content tells.

  magika, which takes 6 ms for a file and a second to start, is asked only about files whose name and first line say
  nothing.
  """
  if found := language_of(path, text):
    return found
  label, score = _magika(text[:_HEAD])
  name = _MAGIKA.get(label, label)
  return name if score >= _LEAST_SCORE and name in LANGUAGES else ''


def check(path: str, text: str) -> str | Drop:
  """A file whose language is known, and whose beginning does not belie it.

  That the rest is of that language is for the structure check to say.
  """
  beginning = text[:200].lstrip()
  for signature, name in _SIGNATURES:
    if beginning.startswith(signature):
      return Drop('language: not a source file', name)
  language = language_of(path, text)
  if not language:
    return text if of(path, text) else Drop('language: unknown', path)
  if language == 'php' and '<?' not in text:
    # Without it all of a file is text to print, and its grammar finds no error in anything.
    return Drop('language: PHP without PHP', path)
  kind = LANGUAGES[language].kind
  if beginning.startswith('<') and kind == 'code' and language not in _HOLD_MARKUP and _MARKUP.match(beginning):
    return Drop('language: markup under the name of another', language)
  if beginning.startswith('#!') and kind == 'code':
    said = language_of('', text)
    if said and said != 'bash' and _FAMILIES.get(said, said) != _FAMILIES.get(language, language):
      return Drop('language: the first line names another', f'{language}, {said}')
  return text


def _magika(text: str) -> tuple[str, float]:
  result = _model().identify_bytes(text.encode('utf-8', 'replace'))
  return str(result.output.label), result.score


@functools.cache
def _model():
  # Half a second of import, and threads of its own: only where a file asks for it.
  import magika

  return magika.Magika()
