"""Secrets and personal data: keys, tokens, passwords, e-mail and IP addresses and telephone numbers become markers.

A replacement depends on its own line alone, private keys aside, and keeps line breaks and quotes: code still parses, and
a patch of a cleaned file still applies. The markers are those of the StarCoder data (arXiv 2305.06161, section 4),
which names but does not publish a pattern; all patterns here are ours.
"""

import ipaddress
import math
import re

from iquest_jax.data.languages import language_of

EMAIL, IP, KEY, PASSWORD, PHONE = '<EMAIL>', '<IP_ADDRESS>', '<KEY>', '<PASSWORD>', '<PHONE>'
MARKERS = (EMAIL, IP, KEY, PASSWORD, PHONE)

# Tokens whose beginning says what they are: (a substring of every match, the pattern). The substring is looked for first,
# since that costs a tenth of a scan.
_TOKENS = tuple(
    (anchor, re.compile(rf'(?<!\w)(?<![\w-]-){pattern}(?!\w)'))
    for anchor, pattern in (
        ('AKIA', r'AKIA[A-Z2-7]{16}'),  # AWS
        ('ASIA', r'ASIA[A-Z2-7]{16}'),
        ('AIza', r'AIza[\w-]{35}'),  # Google
        ('ya29.', r'ya29\.[\w-]{20,}'),
        ('GOCSPX-', r'GOCSPX-[\w-]{28}'),
        ('ghp_', r'ghp_[A-Za-z0-9]{36,}'),  # GitHub
        ('gho_', r'gho_[A-Za-z0-9]{36,}'),
        ('ghs_', r'ghs_[A-Za-z0-9]{36,}'),
        ('ghu_', r'ghu_[A-Za-z0-9]{36,}'),
        ('ghr_', r'ghr_[A-Za-z0-9]{36,}'),
        ('github_pat_', r'github_pat_\w{60,}'),
        ('glpat-', r'glpat-[\w-]{20,}'),  # GitLab
        ('xox', r'xox[abeoprs]-(?=[\w-]*\d)[\w-]{16,}'),  # Slack
        ('hooks.slack.com', r'hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16,}'),
        ('k_live_', r'[prs]k_live_[A-Za-z0-9]{16,}'),  # Stripe
        ('k_test_', r'[prs]k_test_[A-Za-z0-9]{16,}'),
        ('sk-', r'sk-(?=[\w-]*\d)(?:proj-|ant-|svcacct-)?[A-Za-z0-9][\w-]{30,}'),  # OpenAI, Anthropic
        ('hf_', r'hf_[A-Za-z]{34}'),  # Hugging Face
        ('npm_', r'npm_[A-Za-z0-9]{36}'),
        ('pypi-AgE', r'pypi-AgE[\w-]{50,}'),
        ('dop_v1_', r'dop_v1_[0-9a-f]{64}'),  # DigitalOcean
        ('SG.', r'SG\.[\w-]{22}\.[\w-]{43}'),  # SendGrid
        (':AA', r'\d{8,10}:AA[\w-]{33}'),  # Telegram
        ('eyJ', r'eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{16,}'),  # JSON web tokens
    )
)
_AZURE = re.compile(r'AccountKey=[A-Za-z0-9+/]{86}==')
_PRIVATE_KEY = re.compile(
    r'(-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)((?:[^-]|-(?!----)){24,20000}?)(?=-----END )'
)
# The key's lines one by one; escaped newlines stay.
_KEY_LINE = re.compile(r'(\\[nr])|[A-Za-z0-9+/=]{24,}')

_URL_PASSWORD = re.compile(r'://([^\s:@/"\'<>(){}$]{1,64}):([^\s@/"\'<>(){}$%*]{3,100})(?=@)')
# Names that values are secret under, in lower case, and how long and how disordered (bits per character) such a value is.
_NAMES = {'passw': (8, 2.5), 'pwd': (8, 2.5)} | dict.fromkeys(
    ('secret', 'token', 'api_key', 'apikey', 'api-key', 'access_key', 'accesskey', 'private_key', 'auth_key'), (16, 3.5)
)
_QUOTED = r'[\w.-]{0,40}["\']?\]? ?(?:: ?\w{1,20} ?)?(?:=>|:=|[:=]) ?b?(["\'])([^"\'\s\\]{8,200})\1'
_BARE = r'[\w.-]{0,40}[ \t]?[:=][ \t]?()([^"\'\s\\]{8,200})(?=[ \t]*$)'
_ASSIGNMENTS = {
    bare: {name: re.compile(name + pattern, re.MULTILINE) for name in _NAMES}
    for bare, pattern in ((False, _QUOTED), (True, f'(?:{_QUOTED}|{_BARE})'))
}
# Where values stand without quotes.
_BARE_LANGUAGES = frozenset(('dotenv', 'ini', 'yaml'))
_PLACEHOLDER = re.compile(
    r'[<>{}()\[\]]|^\$|%[sd]|\*\*|://|\.\.|xxx|example|sample|change|placeholder|your|dummy|test|fake|foo|bar|passw|secret|token|none'
    r'|null|1234|abcd', re.IGNORECASE
)  # fmt: skip
_IDENTIFIER = re.compile(r'[A-Za-z]+(?:[._/:-][A-Za-z]+)*[._-]?\d{1,2}')

_TOP_LEVELS = (
    'com|org|net|edu|gov|mil|int|info|biz|name|dev|app|io|ai|me|tech|cloud|online|site|xyz|pro|email|'
    '(?!py|js|sh|rs|md|so|cc|id|to|is|in|as|do|at|eq|ne|lt|gt|le|ge|mm)[a-z]{2}|(?:co|com|ac|org|net|gov|edu)\\.[a-z]{2}'
    '|in|is|at|cc|to|id'
)
_DOMAIN = re.compile(
    r'@(?<=[A-Za-z0-9_+-]@)(?!(?:[\w-]{1,63}\.){0,3}(?:example|domain|test|foo|bar)\.)'
    rf'(?:[A-Za-z0-9-]{{1,63}}\.){{1,5}}(?:{_TOP_LEVELS})(?![\w(=\[-]|\.\w)'
)
_URL_USER = re.compile(r'://[^\s/?]*\Z')
_LOCAL = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'

# A number first, then what must not stand before it: so that the engine skips to the next digit.
_IPV4_OR_PHONE = re.compile(
    r'[0-9](?<![\w.:@+-][0-9])(?:[0-9]{0,2}(?:\.[0-9]{1,3}){3}|[0-9]{2}-[2-9][0-9]{2}-[0-9]{4})(?![\w.-]?\w)'
)
_IPV6 = re.compile(r'[23][0-9A-Fa-f]{3}(?<![\w:.][23][0-9A-Fa-f]{3}):[0-9A-Fa-f:]{2,34}(?![\w:.])')
_VERSION = re.compile(r'(?:version|release|[vV]\.?|[=<>~^]=|/)["\'\s:=(]*\Z|\w/\Z', re.IGNORECASE)
_INTERNATIONAL = re.compile(
    r'\+(?<![\w)\]]\+)[1-9][0-9]{0,2}[ .-](?:\([0-9]{1,4}\)|[0-9]{1,4})(?:[ .-][0-9]{2,5}){2,4}(?![\w.:-]?\w)'
)
_AMERICAN = re.compile(r'\((?<![\w)\]]\()[2-9][0-9]{2}\) ?[0-9]{3}-[0-9]{4}(?![\w.-]?\w)')


def replace(path: str, text: str) -> str:
  """Text with a marker in the place of every secret; text without one is returned as it is, and so are markers."""
  if 'PRIVATE KEY' in text:
    text = _PRIVATE_KEY.sub(lambda match: match[1] + _KEY_LINE.sub(lambda line: line[1] or KEY, match[2]), text)
  for anchor, pattern in _TOKENS:
    if anchor in text:
      text = pattern.sub(KEY, text)
  if 'AccountKey=' in text:
    text = _AZURE.sub(f'AccountKey={KEY}', text)
  text = _passwords(path, text)
  if '@' in text:
    if '://' in text:
      text = _URL_PASSWORD.sub(_url, text)
    text = _emails(text)
  text = _IPV4_OR_PHONE.sub(_ipv4_or_phone, text)
  if '::' in text or text.count(':') > 7:
    text = _IPV6.sub(_ipv6, text)
  if '+' in text:
    text = _INTERNATIONAL.sub(_international, text)
  return _AMERICAN.sub(PHONE, text)


def replace_in_patch(path: str, patch: str) -> str:
  """A unified diff with a marker in the place of every secret, each line as `replace` leaves it in the file."""
  lines = patch.split('\n')
  column = [line[:1] if line[:1] in (' ', '+', '-') else '' for line in lines]
  body = replace(path, '\n'.join(line[len(first) :] for first, line in zip(column, lines)))
  return '\n'.join(map(''.join, zip(column, body.split('\n'))))


def _passwords(path: str, text: str) -> str:
  # Lower-casing must keep the length, so that places in the one are places in the other.
  lower = text.encode('utf-8', 'surrogatepass').lower().decode('utf-8', 'surrogatepass')
  patterns = _ASSIGNMENTS[language_of(path) in _BARE_LANGUAGES]
  spans = {}
  for name, (shortest, least_entropy) in _NAMES.items():
    if name not in lower:
      continue
    for match in patterns[name].finditer(lower):
      span = match.span(match.lastindex)
      if _is_secret(text[slice(*span)], shortest, least_entropy):
        spans[span[0]] = (*span, PASSWORD)
  return _spliced(text, [spans[start] for start in sorted(spans)]) if spans else text


def _is_secret(value: str, shortest: int, least_entropy: float) -> bool:
  """Whether a value is one that a machine or a careful person chose: letters and digits, no word, no placeholder."""
  if len(value) < shortest or value.isalpha() or not any(map(str.isdigit, value)) or not any(map(str.isalpha, value)):
    return False
  if _PLACEHOLDER.search(value) or _IDENTIFIER.fullmatch(value):
    return False
  counts = [value.count(char) for char in set(value)]
  return -sum(count * math.log2(count / len(value)) for count in counts) >= least_entropy * len(value)


def _url(match: re.Match) -> str:
  if _PLACEHOLDER.search(match[2]) or match[2].lower() in ('pass', 'pwd', 'pw', 'user', match[1].lower()):
    return match[0]
  return f'://{match[1]}:{PASSWORD}'


def _emails(text: str) -> str:
  spans, end = [], 0
  for match in _DOMAIN.finditer(text):
    at = match.start()
    before = text[max(end, at - 65) : at]
    kept = before.rstrip(_LOCAL)
    local = before[len(kept) :].lstrip('.%+-')
    # git@github.com names no person, and nor does the user of a URL.
    if 1 <= len(local) <= 64 and local != 'git' and not _URL_USER.search(kept):
      spans.append((at - len(local), match.end(), EMAIL))
      end = match.end()
  return _spliced(text, spans) if spans else text


def _spliced(text: str, spans: list[tuple[int, int, str]]) -> str:
  """Text with spans (start, end, marker) replaced; sorted, and of overlapping ones the first counts."""
  parts, end = [], 0
  for start, stop, marker in spans:
    if start >= end:
      parts += (text[end:start], marker)
      end = stop
  return ''.join((*parts, text[end:]))


def _ipv4_or_phone(match: re.Match) -> str:
  if '-' in match[0]:
    return PHONE if match[0][0] in '23456789' else match[0]
  octets = sorted(map(int, match[0].split('.')))
  # ours: three numbers below 20 are a version, a section or an object identifier; of addresses one in 500 looks so.
  if octets[3] > 255 or octets[2] < 20 or re.search(r'\b0\d', match[0]):
    return match[0]
  address = ipaddress.IPv4Address(match[0])
  if not address.is_global or address.is_multicast or address.is_reserved or match[0].endswith('.0'):
    return match[0]
  before = match.string[max(0, match.start() - 16) : match.start()]
  return match[0] if _VERSION.search(before) and not before.endswith('//') else IP


def _ipv6(match: re.Match) -> str:
  try:
    return IP if ipaddress.IPv6Address(match[0]).is_global else match[0]
  except ValueError:
    return match[0]


def _international(match: re.Match) -> str:
  # E.164 allows fifteen digits; fewer than eight are not a person's number.
  return PHONE if 8 <= sum(map(str.isdigit, match[0])) <= 15 else match[0]


