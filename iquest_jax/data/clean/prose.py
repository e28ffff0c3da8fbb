"""Text from the web, documentation and READMEs: what crawling left in it is removed, and what is not prose is dropped.

The dropping rules are Gopher's (arXiv 2112.11446, table A1), without its English stop words, since the text may be in any
language; the lines removed follow C4 (arXiv 1910.10683) and FineWeb (arXiv 2406.17557), and the patterns are ours. Code
in a text, between fences or back ticks, stays as it is.
"""

import html
import re

import numpy as np

from iquest_jax.data.documents import Drop

# ours: Gopher asks for 50 words of a web page; a fact or a README may have fewer. Shares mean little below 50.
_LEAST_WORDS, _ENOUGH_WORDS = 5, 50
LONGEST = 4 << 20  # ours: characters; a book has one million
_MEAN_WORD = (2.5, 12)  # ours: Gopher's 3 to 10, wider for paths and names in technical text
_MOST_SYMBOLS = 0.1  # Gopher: hash signs and ellipses per word; ours: headings of markdown do not count
_LEAST_ALPHABETIC = 0.6  # Gopher's 0.8; ours: tables and code between the words
_MOST_BULLETS, _MOST_ELLIPSES = 0.9, 0.3  # Gopher
_MOST_LINES, _MOST_LINE_CHARACTERS, _MOST_PARAGRAPHS, _MOST_PARAGRAPH_CHARACTERS = 0.3, 0.2, 0.3, 0.2  # Gopher
_MOST_TOP = {2: 0.2, 3: 0.18, 4: 0.16}  # Gopher: share of characters in the most frequent n-gram
_MOST_REPEATED = {5: 0.15, 10: 0.1}  # Gopher, which also tests 6 to 9, that lie between these

_FENCE = re.compile(r'(^[ \t]*(?:```|~~~).*?(?:^[ \t]*(?:```|~~~)[ \t]*$|\Z))', re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r'<(?:(script|style|noscript|iframe|svg)\b[^<>]{0,500}>|!--)', re.IGNORECASE)
_TAG = re.compile(
    r'(`[^`\n]{1,500}`)|<(/?)(a|abbr|article|aside|b|big|blockquote|body|br|button|center|code|dd|details|div|dl|dt|em|'
    r'figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|img|input|kbd|label|li|link|main|meta|nav|ol|'
    r'option|p|picture|pre|q|s|samp|section|select|small|source|span|strike|strong|sub|summary|sup|table|tbody|td|tfoot|'
    r'th|thead|title|tr|u|ul|video|wbr)(\s[^<>`]{0,1000})?/?>', re.IGNORECASE
)  # fmt: skip
# These are tags even if nothing closes them; '<header>' alone is something to fill in.
_ALWAYS_TAGS = frozenset(('br', 'hr', 'wbr', 'img', 'div', 'span', 'li', 'td', 'tr', 'th', 'dd', 'dt', 'center'))
# Not &lt; and &gt;: what they would open is a tag to the next reader.
_ENTITY = re.compile(
    r'(`[^`\n]{1,500}`)|&(?:nbsp|quot|apos|mdash|ndash|hellip|[lr][sd]quo|copy|reg|trade|bull|middot|#39|#34|#8\d{3});'
)
_LINK = (
    r'(?:privacy(?: policy)?|terms(?: of (?:use|service))?|cookie policy|contact(?: us)?|about(?: us)?|home|site ?map|help|'
    r'faq|login)'
)
_BOILERPLATE = re.compile(
    r'skip to (?:main )?(?:content|navigation)|accept (?:all )?cookies'
    r'|(?:please )?(?:enable|turn on) (?:javascript|cookies)\b.{0,80}'
    r'|(?:this|our) (?:web)?site uses cookies.{0,200}|(?:we use|by using this site.{0,40}) cookies.{0,200}'
    r'|(?:javascript|your browser) (?:is|must be|does not|has) .{0,80}(?:disabled|enabled|javascript|supported?)\b.{0,40}'
    r'|(?:share|tweet|pin|follow us|like us)(?: (?:this|it))?(?: (?:on|via) .{0,40})|(?:share|tweet|pin) (?:this|it)'
    r'|(?:sign|log) (?:in|up|out) (?:to|for|with) .{0,40}|subscribe to (?:our|the|my) .{0,40}|sign up for our .{0,60}'
    r'|(?:read|show|load|see) more|click here(?: (?:to|for) .{0,60})?|(?:back|return|scroll) to top'
    r'|\u00a9 ?\d{4}.{0,80}all rights reserved.{0,40}|advertisement|sponsored(?: content| links?)?'
    rf'|{_LINK}(?: ?[|\u00b7\u2022/] ?{_LINK})+|lorem ipsum dolor sit amet.{{0,400}}'
    r'|\d+ (?:comments?|views|likes|shares|retweets)',
    re.IGNORECASE,
)
_AROUND = ' \t|*\u2022\u00b7\u00bb\u203a\u2192[]'
# The first four letters of what may be boilerplate: most lines are told apart by them.
_BEGINNINGS = frozenset((
    'skip', 'plea', 'enab', 'turn', 'this', 'our ', 'we u', 'by u', 'acce', 'java', 'your', 'shar', 'twee', 'pin ', 'foll',
    'like', 'sign', 'log ', 'subs', 'read', 'show', 'load', 'see ', 'clic', 'back', 'retu', 'scro', 'adve', 'spon', 'priv',
    'term', 'cook', 'cont', 'abou', 'home', 'site', 'help', 'faq ', 'faq|', 'logi', 'lore', '\u00a9 20', '\u00a9 19',
    '\u00a920', '\u00a919',
))  # fmt: skip
_LONGEST_BOILERPLATE = 420
# ours: one line that is a URL is a reference, three in a row are a list of links.
_ONLY_URLS = re.compile(r'^(?:[ \t]{0,20}(?:https?://|www\.)\S{1,2000}[ \t]{0,20}(?:\n|\Z)){3,}', re.MULTILINE)
_LONG_PUNCTUATION = re.compile(r'([!?])\1{3,}|(\.)\2{5,}')
_PUNCTUATION = ('!!!!', '????', '......')
_BLANK_LINES = re.compile(r'\n(?:[ \t]*\n){3,}')
_TRAILING = re.compile(r'(?<![ \t])[ \t]{3,}$', re.MULTILINE)
_HIDDEN = re.compile('[\u00ad\u200b\u200e\u200f\u2060-\u2064\u202a-\u202e]')
_MULTIPLIER = np.int64(0x5851F42D4C957F2D)
_LETTERED = re.compile(r'[A-Za-z]\S*')
# Scripts that put no space between words: Thai to Khmer, and Chinese, Japanese.
_UNSPACED = re.compile('[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]')


def length(path: str, text: str) -> str | Drop:
  """Text of at least five words and at most four million characters."""
  del path
  if len(text) > LONGEST:
    return Drop('length: too long', f'{len(text)} characters')
  if len(text) < 1000 and len(text.split()) < _LEAST_WORDS and len(_UNSPACED.findall(text)) < 2 * _LEAST_WORDS:
    return Drop('length: too few words' if text.strip() else 'length: empty', f'{len(text)} characters')
  return text


def crawled(path: str, text: str) -> str:
  """Text without HTML remnants, boilerplate of web pages, lines of URLs alone, and punctuation repeated at length."""
  del path
  if '```' not in text and '~~~' not in text:
    return _crawled(text)
  parts = _FENCE.split(text)
  return ''.join(part if index % 2 else _crawled(part) for index, part in enumerate(parts))


def words(path: str, text: str) -> str | Drop:
  """Words of usual length, most with a letter, among few symbols, bullets and ellipses; Gopher's quality rules."""
  del path
  found = text.split()
  if len(found) < _ENOUGH_WORDS or _is_unspaced(text):
    return text
  mean = (len(text) - text.count(' ') - text.count('\n')) / len(found)
  if not _MEAN_WORD[0] <= mean <= _MEAN_WORD[1]:
    return Drop('words: mean length', f'{mean:.1f}')
  hashes = text.count('#') - text.count('##') - text.count('\n#') if '#' in text else 0
  symbols = max(0, hashes) + text.count('...') + text.count('\u2026')
  if symbols > _MOST_SYMBOLS * len(found):
    return Drop('words: too many symbols', f'{symbols} of {len(found)} words')
  alphabetic = len(_LETTERED.findall(text)) if text.isascii() else sum(any(map(str.isalpha, word)) for word in found)
  if alphabetic < _LEAST_ALPHABETIC * len(found):
    return Drop('words: too few with a letter', f'{alphabetic} of {len(found)}')
  lines = [line.strip() for line in text.split('\n') if line.strip()]
  if sum(line.startswith(('- ', '* ', '\u2022', '+ ')) for line in lines) > _MOST_BULLETS * len(lines) > 9:
    return Drop('words: bullets alone', f'{len(lines)} lines')
  if sum(line.endswith(('...', '\u2026')) for line in lines) > _MOST_ELLIPSES * len(lines):
    return Drop('words: lines cut short', f'{len(lines)} lines')
  return text


def repetition(path: str, text: str) -> str | Drop:
  """No text that repeats its lines, paragraphs or phrases; Gopher's repetition rules."""
  del path
  for unit, separator, most, most_characters in (
      ('lines', '\n', _MOST_LINES, _MOST_LINE_CHARACTERS),
      ('paragraphs', '\n\n', _MOST_PARAGRAPHS, _MOST_PARAGRAPH_CHARACTERS),
  ):
    parts = [part for part in text.split(separator) if part and not part.isspace()]
    if len(parts) < 10:
      continue
    unique = set(parts)
    if (share := 1 - len(unique) / len(parts)) > most:
      return Drop(f'repetition: {unit}', f'{share:.2f}')
    if (share := 1 - sum(map(len, unique)) / sum(map(len, parts))) > most_characters:
      return Drop(f'repetition: characters in {unit}', f'{share:.2f}')
  found = text.split()
  return text if len(found) < _ENOUGH_WORDS else _phrases(text, found)


def _phrases(text: str, found: list[str]) -> str | Drop:
  lengths = np.fromiter(map(len, found), np.int64, len(found))
  grams = np.fromiter(map(hash, found), np.int64, len(found))
  words = grams
  for n in range(2, max(_MOST_REPEATED) + 1):
    # Phrases are compared by 64-bit hashes: of a million phrases two that differ are equal once in 30 million texts.
    grams = grams[:-1] * _MULTIPLIER + words[n - 1 :]
    if n in _MOST_TOP and (share := _top(grams, lengths, n) / lengths.sum()) > _MOST_TOP[n]:
      return Drop('repetition: one phrase', f'{share:.2f} in a {n}-gram')
    if n in _MOST_REPEATED and (share := _repeated(grams, lengths, n) / lengths.sum()) > _MOST_REPEATED[n]:
      return Drop('repetition: repeated phrases', f'{share:.2f} in {n}-grams')
  return text


def _top(grams: np.ndarray, lengths: np.ndarray, n: int) -> int:
  """Characters in the most frequent n-gram, of several the longest; 0 if none is there twice."""
  _, place, counts = np.unique(grams, return_inverse=True, return_counts=True)
  if (count := counts.max()) == 1:
    return 0
  ends = np.concatenate(([0], np.cumsum(lengths)))
  return int(count * (ends[n:] - ends[:-n])[counts[place] == count].max())


def _repeated(grams: np.ndarray, lengths: np.ndarray, n: int) -> int:
  """Characters of the words that lie in an n-gram that came before; no word counts twice."""
  again = np.ones(len(grams), bool)
  again[np.unique(grams, return_index=True)[1]] = False
  edges = np.zeros(len(lengths) + 1, np.int64)
  edges[:-n] += again
  edges[n:] -= again
  return int(lengths[np.cumsum(edges[:-1]) > 0].sum())


def _is_unspaced(text: str) -> bool:
  return not text.isascii() and len(_UNSPACED.findall(text)) > len(text) / 5


def _crawled(text: str) -> str:
  while (cleaned := _once(text)) != text:
    text = cleaned
  return text


def _once(text: str) -> str:
  if '<' in text:
    text = _without_tags(_without_blocks(text))
  if '&' in text:
    text = _ENTITY.sub(lambda match: match[1] or html.unescape(match[0]).replace('\xa0', ' '), text)
  if '://' in text or 'www.' in text:
    text = _ONLY_URLS.sub('', text)
  if not text.isascii():
    text = _HIDDEN.sub('', text)
  lines = text.split('\n')
  kept = [line for line in lines if not _is_boilerplate(line)]
  if len(kept) < len(lines):
    text = '\n'.join(kept)
  if any(run in text for run in _PUNCTUATION):
    text = _LONG_PUNCTUATION.sub(lambda match: match[0][:3], text)
  if '   \n' in text or '\t\n' in text:
    text = _TRAILING.sub('', text)
  return _BLANK_LINES.sub('\n\n\n', text) if '\n\n\n' in text else text


def _without_blocks(text: str) -> str:
  """Text without comments and what browsers do not show, each to its end; one without an end stays."""
  parts, end, lower = [], 0, ''
  while opened := _BLOCK.search(text, end):
    lower = lower or text.lower()
    close = f'</{opened[1].lower()}' if opened[1] else '-->'
    found = lower.find(close, opened.end()) if len(lower) == len(text) else -1
    if found < 0:
      # Neither is there an end for those that follow and are alike.
      break
    parts.append(text[end : opened.start()])
    end = found + len(close)
    if opened[1]:
      end = text.find('>', end) + 1 or len(text)
  return ''.join((*parts, text[end:]))


def _without_tags(text: str) -> str:
  def without(match: re.Match) -> str:
    code, slash, name, attributes = match.groups()
    if code:
      return code
    is_tag = slash or name.lower() in _ALWAYS_TAGS or attributes and '=' in attributes or f'</{name}>' in text
    if not is_tag:
      return match[0]
    return ' ' if name.lower() in ('br', 'td', 'th') else ''

  return _TAG.sub(without, text)


def _is_boilerplate(line: str) -> bool:
  if len(line) > _LONGEST_BOILERPLATE:
    return False
  line = line.strip(_AROUND)
  beginning = line[:4].lower()
  return (beginning in _BEGINNINGS or beginning[:1].isdigit()) and bool(_BOILERPLATE.fullmatch(line.rstrip('.!:')))
