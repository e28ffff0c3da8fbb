"""How meaningful the change of some commits is, judged by the log alone: their messages, and lines by path.

All rules and numbers are ours: the report only says that the change is meaningful, of quality and representative.
Source: IQuest-Coder-V1 report, pre-training data, repository transitions.
"""

import functools
import math
import re
from collections.abc import Sequence

from iquest_jax.data.documents import LogEntry
from iquest_jax.data.languages import LANGUAGES, language_of

# Changed lines of code: too few, enough, still good to read, too many.
LINES = (8, 32, 256, 1024)
# What a patch may change in all.
_MAX_LINES, _MAX_FILES = 2048, 32
MEANINGFUL = 0.6
_WEIGHTS = {'size': 0.25, 'code': 0.2, 'tests': 0.15, 'message': 0.2, 'focus': 0.2}
# Longer first lines are not subjects; patterns look at no more than this.
_SUBJECT_CHARACTERS = 300

_MERGE = re.compile(r'Merge\b')
_REVERT = re.compile(r'revert\b|back(?:ed)? out\b|.*\bthis reverts commit\b', re.I | re.S)
_FORMATTING = re.compile(
    r'\b(?:re-?format|formatting|white-?space|re-?indent|indentation|lint(?:s|er|ing)?|prettier|gofmt|rustfmt|clang-format'
    r'|(?:run|apply|ran|use) (?:black|isort|ruff)|pep ?8|flake8|pre-commit auto|typos?\b)', re.I,
)  # fmt: skip
_UPKEEP = re.compile(
    r'\bbump(?:s|ed|ing)?\b|^(?:build|chore)\(deps|\bfrom v?\d+\.\d+\S* to v?\d|^updat\w+ \S+ to (?:v?\d|[0-9a-f]{7})'
    r'|\b(?:update|upgrade|pin)\w* (?:\S+ )?(?:dependenc\w+|requirements|lock ?files?)'
    r'|^(?:prepare |start |version |release )+v?\d|^v?\d+(?:\.\d+)+\S*$|^update changelog', re.I,
)  # fmt: skip
_EMPTY_WORDS = frozenset(
    """
    a the some more few of in on and to for up it is this that my all again now really please oops
    wip misc temp tmp minor small little stuff thing things bug bugs file files code test tests
    fix fixes fixed fixing update updates updated updating change changes changed add adds added adding
    clean cleanup cleanups cleaned work working commit save progress
    """.split()  # noqa: SIM905
)
_MANIFEST = re.compile(
    r'(?:.*/)?(?:requirements[^/]*\.(?:txt|in)|package(?:-lock)?\.json|pnpm-lock\.yaml|go\.(?:mod|sum)|Cargo\.toml|Pipfile'
    r'|Gemfile|composer\.json|\.pre-commit-config\.yaml|\.github/workflows/.*|[^/]*\.lock)$'
)
_FOREIGN = re.compile(
    r'(?:.*/)?(?:vendor|vendored|third_?party|node_modules|external|dist|generated)/'
    r'|.*(?:\.min\.(?:js|css)|_pb2\w*\.pyi?|\.pb\.\w+)$', re.I,
)  # fmt: skip
_TEST = re.compile(
    r'(?:.*/)?(?:tests?|specs?|__tests__|testing|testsuite)/|(?:.*/)?(?:test_[^/]*|conftest)\.\w+$'
    r'|.*(?:[._-](?:test|spec)s?|Tests?)\.\w+$'
)
# Code by its extension, but what it says is for readers.
_MARKUP = ('html', 'css', 'less', 'sass', 'jinja')


def is_readable(commits: Sequence[LogEntry]) -> bool:
  """Whether the changes of commits are text, and together few enough for one patch."""
  changes = [change for commit in commits for change in commit.changes]
  complete = all(commit.files == len(commit.changes) for commit in commits)
  binary = any(added < 0 for _, added, _ in changes)
  lines = sum(added + deleted for _, added, deleted in changes)
  return complete and not binary and lines <= _MAX_LINES and len({path for path, *_ in changes}) <= _MAX_FILES


def is_end(commit: LogEntry) -> bool:
  """Whether a change may end with a commit: no merge, revert, formatting, upkeep of dependencies or release."""
  return commit.parents == 1 and bool(commit.changes) and not is_revert(commit) and not is_upkeep(commit)


def is_revert(commit: LogEntry) -> bool:
  return bool(_REVERT.match(commit.message))


@functools.lru_cache(1 << 10)
def is_upkeep(commit: LogEntry) -> bool:
  """Whether a commit says that it formats, or changes dependencies and versions alone."""
  subject = subject_of(commit)
  if _FORMATTING.search(subject) or _UPKEEP.search(subject):
    return True
  return bool(commit.changes) and all(_MANIFEST.match(path) for path, *_ in commit.changes)


def score(commits: Sequence[LogEntry]) -> float:
  """How meaningful the change of several commits is, in [0, 1]; 0 if it has too little code or too much.

  The weighted mean of: the changed lines of code within bounds; their share of all changed lines; whether tests change
  along with code; the message of the leading commit; that commit's share of the code, for which the message speaks.
  Lines of upkeep are not code.
  """
  lines = sum(added + deleted for commit in commits for _, added, deleted in commit.changes)
  code = {commit: 0 if is_upkeep(commit) else code_lines(commit) for commit in commits}
  tests = sum(code_lines(commit, tests=True) for commit in commits if code[commit])
  total, first = sum(code.values()), leading(commits)
  least, low, high, most = LINES
  # Of tests alone nothing can be learned about what they test.
  if not least < total < most or total < lines / 2 or total - tests < least:
    return 0.0
  parts = {
      'size': min(1.0, math.log(total / least) / math.log(low / least), math.log(most / total) / math.log(most / high)),
      'code': total / lines,
      'tests': float(tests > 0),
      'message': message_quality(first),
      'focus': code[first] / total,
  }
  return sum(_WEIGHTS[name] * value for name, value in parts.items()) if parts['message'] > 0 else 0.0


def code_lines(commit: LogEntry, tests: bool = False) -> int:
  """Changed lines of code, or of tests alone."""
  changes = ((path, added + deleted) for path, added, deleted in commit.changes if is_code(path))
  return sum(lines for path, lines in changes if not tests or _TEST.match(path))


@functools.lru_cache(1 << 16)
def is_code(path: str) -> bool:
  """Whether a path is code of the project's own: neither markup, nor vendored, nor generated."""
  language = LANGUAGES.get(language_of(path))
  return bool(language) and language.kind == 'code' and language.name not in _MARKUP and not _FOREIGN.match(path)


def leading(commits: Sequence[LogEntry]) -> LogEntry:
  """The commit that changes most lines of code, which says best what all of them do; upkeep comes last."""
  return max(commits, key=lambda commit: (not is_upkeep(commit), code_lines(commit)))


def subject_of(commit: LogEntry) -> str:
  """The first line of a message; of the merge of a pull request, the title below it."""
  subject, _, body = commit.message.strip().partition('\n')
  if commit.parents > 1 and _MERGE.match(subject):
    subject = body.strip().partition('\n')[0]
  return subject[:_SUBJECT_CHARACTERS]


def message_quality(commit: LogEntry) -> float:
  """How much a message says, in [0, 1]: 0 for 'fix', 0.7 for a subject of five telling words, more with a body."""
  told = [word for word in re.findall(r'[^\W\d_]{2,}', subject_of(commit).lower()) if word not in _EMPTY_WORDS]
  body = commit.message.strip().partition('\n')[2][: 8 * _SUBJECT_CHARACTERS]
  return min(len(told) / 5, 1) * 0.7 + min(len(body.split()) / 12, 1) * 0.3 if told else 0.0


def message_of(commits: Sequence[LogEntry]) -> str:
  """What several commits do: the leading one's message, then the subjects of the others, upkeep aside."""
  first = leading(commits)
  message = first.message.strip()
  if first.parents > 1 and _MERGE.match(message):
    message = message.partition('\n')[2].strip()
  others = [other for other in commits if other is not first and not is_upkeep(other) and message_quality(other)]
  subjects = dict.fromkeys(map(subject_of, others))
  subjects.pop(subject_of(first), None)
  points = ''.join(f'- {subject}\n' for subject in subjects)
  return f'{message}\n' + (f'\n{points}' if points else '')
