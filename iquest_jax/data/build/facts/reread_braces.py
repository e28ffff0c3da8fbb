"""The second reading of JavaScript, TypeScript, Java and Go: definitions found by the words around a name and by braces."""

import functools
import re
from collections.abc import Iterator

from iquest_jax.data.build.facts import masked as masking
from iquest_jax.data.build.facts.definition import Definition, Parameter
from iquest_jax.data.build.facts.questions import DOCUMENTED

_TYPE_WORDS = {
    'javascript': re.compile(r'class\s+([\w$]+)'),  # a pattern that begins with a letter is searched ten times as fast
} | dict.fromkeys(('java', 'typescript', 'tsx'), re.compile(r'(?:class|interface|enum|record)\s+([\w$]+)'))
_SCRIPTS = ('javascript', 'typescript', 'tsx')
_MODIFIER = (
    r'(?:export|default|public|protected|private|static|final|abstract|synchronized|native|strictfp|async|override|readonly'
    r'|declare|sealed)'
)
_ANNOTATION = r'@[\w.]+(?:\([^()]*\))?'
_GENERIC = r'(?:<(?:[^<>]|<(?:[^<>]|<[^<>]*>)*>)*>)'
# What stands before the name of a function or a method on its line, then what follows it.
_BEFORE_METHOD = {
    'java': re.compile(
        rf'\s*(?:{_ANNOTATION}\s+)*(?:{_MODIFIER}(?:\s+|(?=<)))*(?:{_GENERIC}\s*)?(?:(?!return\b|new\b|throw\b|else\b|case\b)'
        rf'(?P<type>[\w.]+{_GENERIC}?(?:\.\w+)*(?:\s*\[\s*\])*)\s+)?'
    ),
    'go': re.compile(r'func\s*\(\s*(?:\w+\s+)?\*?\s*(?P<receiver>\w+)(?:\[[^\]]*\])?\s*\)\s*'),
} | dict.fromkeys(
    _SCRIPTS, re.compile(rf'\s*(?:{_ANNOTATION}\s+)*(?:{_MODIFIER}\s+)*(?:(?P<accessor>get|set)\s+)?\*?\s*')
)  # fmt: skip
_BEFORE_FUNCTION = re.compile(r'(?:.*[\s;}])?(?:export\s+)?(?:default\s+)?(?:async\s+)?function\s*\*?\s*')
_BEFORE_VARIABLE = re.compile(r'(?:.*[\s;}])?(?:const|let|var)\s+')
_BOUND_TO_FUNCTION = re.compile(
    rf'\s*(?::[^=;]*)?=(?!=)\s*(?:async\b\s*)?(?:function\b\s*\*?\s*[\w$]*\s*)?{_GENERIC}?\s*\('
)
_ONE_PARAMETER = re.compile(r'\s*=\s*(?:async\s+)?([\w$]+)\s*=>')
_SET_AGAIN = re.compile(r'\s*(?:[-+/%^]|\*\*?|<<|>>>?|&&?|\|\|?|\?\?)?=(?![=>])')
_IN_PATTERN = re.compile(r'[^;=()]{0,200}?[\]}]\s*=(?![=>])')  # the left side of `[a, b] = ...`
_ATTRIBUTE_OF = re.compile(r'(?:^|[^\w$])([\w$]*)[\])]?\s*\.\s*$')
_GLOBALS = frozenset(['exports', 'window', 'global', 'globalThis', 'self'])
_ASSIGNED = re.compile(r'\s*(?::[^=;(]*)?=(?![=>])\s*')
_TYPED = re.compile(r'[ \t]+[\w.]+[ \t]*=[ \t]*')
_FIXED = re.compile(r'\bconst\b|\bfinal\b')
_VALUE_ENDS = re.compile(r'[;\n,]')
_OPENS = re.compile(rf'\s*\??\s*(?:{_GENERIC}|\[[^\]]*\])?\s*\(')
_GOES_ON = re.compile(r'\s*(?:[{;:}]|throws\b|default\b|\[)')
_LONG, _ABOVE = 300, 4000  # characters of a line before a name, and of comments above it
_EXPRESSION = re.compile(r'[=(.]|\b(?:new|return|throw|else|case)\b')
_HEAD_ENDS, _BRACES = re.compile(r'[{;}=]'), re.compile(r'[{}]')
_SIGNS_OF_BODY = re.compile(r'[()\[\]{};\n]')
_TYPE_GOES_ON = re.compile(r'(?:[:|&<]|=>\s*\(|\b(?:interface|struct|is))\s*$')
_THROWS = re.compile(r'\s*throws\s+([\w.,\s]+)')
_RAISE = re.compile(r'\bthrow\b\s*(?:new\s+([\w.$]+)\s*(?:<[^<>]*>)?\s*\()?')
_NESTED = {
    'java': re.compile(r'->|\btry\b|\bclass\b|\bnew\s+[\w.<>,? ]+\([^;{]*\)\s*\{'),
    'go': re.compile(r'\bfunc\b'),
} | dict.fromkeys(_SCRIPTS, re.compile(r'=>|\b(?:function|try|class)\b'))
_COMMENT = {
    'go': re.compile(r'(?:^//[^\n]*\n)+\Z', re.MULTILINE),
} | dict.fromkeys(
    ('java', *_SCRIPTS),
    re.compile(rf'/\*\*(?:(?!\*/).)*\*/\s*(?:{_ANNOTATION}\s+)*[\w<>\[\], .?*$]*\Z', re.DOTALL),
)
_SIGNS = re.compile(r'^[ \t]*(?://+|\*+(?!/)|/\*+)[ \t]?', re.MULTILINE)


class Reread:
  """One source; `find` and `owners` are what is known about its names."""

  def __init__(self, source: str, language: str):
    self._source, self._language = source, language
    self._masked = masking.mask(source, language)
    self._angles = language != 'go'
    self._deprecates = 'eprecat' in source

  @functools.cached_property
  def _types(self) -> list[tuple[str, int, int, int]]:
    """(qualified name, where it stands, '{', '}') of every class, interface, enum and record, outer ones first."""
    found, around = [], []
    if self._language == 'go':
      return found  # nothing is defined within a type
    closings = self._closings()
    for match in _TYPE_WORDS[self._language].finditer(self._masked):
      if re.match(r'[.\w$]', self._masked[match.start() - 1 : match.start()]):
        continue
      sign = _HEAD_ENDS.search(self._masked, match.end(), match.end() + 1000)
      opening = sign.start() if sign and sign[0] == '{' else -1
      if (end := closings.get(opening, -1)) < 0:
        continue
      while around and around[-1][3] < match.start():
        around.pop()
      name = f'{around[-1][0]}.{match[1]}' if around else match[1]
      found.append((name, match.start(1), opening, end))
      around.append(found[-1])
    return found

  def _closings(self) -> dict[int, int]:
    """Where each brace that opens is closed."""
    found, open_braces = {}, []
    for match in _BRACES.finditer(self._masked):
      if match[0] == '{':
        open_braces.append(match.start())
      elif open_braces:
        found[open_braces.pop()] = match.start()
    return found

  def find(self, name: str, kind: str) -> list[Definition]:
    """Every definition of a qualified name, such as 'f', 'C' or 'C.method'.

    A name that is bound in a way that is not understood has an empty definition.

    Args:
      kind: of the question; what is asked by no question of this kind is not read.
    """
    owner, _, last = name.rpartition('.')
    types = self._types if owner or kind == 'base' else ()
    found = [self._type(place, opening) for qualified, place, opening, _ in types if qualified == name]
    found += self._constants(last, owner)
    if self._language == 'go':
      return found + [self._function(place, last, kind) for place in self._go(last, owner)]
    if owner:
      for qualified, _, opening, end in self._types:
        if qualified == owner:
          for place, accessor in self._methods(last, opening, end):
            found.append(Definition() if accessor else self._function(place, last, kind))
      if self._language in _SCRIPTS:
        found += self._set_from_elsewhere(last, owner)
        found += [Definition() for _ in self._script_functions(owner.partition('.')[0], '')]
        changed = rf'Object\.(?:assign|defineProperty|defineProperties)\(\s*{re.escape(owner)}\b'
        found += [Definition() for _ in re.finditer(changed, self._masked)]
      return found
    return found + (self._script_functions(last, kind) if self._language in _SCRIPTS else [])

  def owners(self, method: str) -> list[str]:
    """The classes that define a method; '' stands for whatever else may have its name."""
    if self._language == 'go':
      return [self._receiver(place) for place in self._go(method, None)]
    found = []
    for qualified, _, opening, end in self._types:
      found += [qualified for _ in self._methods(method, opening, end)]
    if self._language in _SCRIPTS:
      found += ['' for _ in self._script_functions(method, 'owner')]
    return found

  def _text(self, start: int, end: int) -> str:
    return masking.unmasked(self._source, self._masked, start, end)

  def _depth(self, start: int, place: int) -> int:
    return self._masked.count('{', start, place) - self._masked.count('}', start, place)

  def _line(self, place: int) -> int:
    """Where the line of a place starts, or the statement if that is later."""
    start = self._masked.rfind('\n', 0, place)
    return max(start, *(self._masked.rfind(sign, start + 1, place) for sign in ';{}')) + 1

  def _methods(self, name: str, opening: int, end: int) -> Iterator[tuple[int, bool]]:
    """Places of a name in the body of a class where a method of it is defined, and whether it is an accessor or unknown."""
    for place in masking.occurrences(self._masked, name, opening, end):
      after = _OPENS.match(self._masked, place + len(name), end)
      if not after and not _BOUND_TO_FUNCTION.match(self._masked, place + len(name), end):
        continue
      line = self._line(place)
      before = _BEFORE_METHOD[self._language].fullmatch(self._masked, line, place) if place - line < _LONG else None
      # What is neither understood nor an expression may be another definition.
      unknown = not before and not _EXPRESSION.search(self._masked, max(line, place - _LONG), place)
      if not before and not unknown or self._depth(opening + 1, place):
        continue
      if after:
        close = masking.closing(self._masked, after.end() - 1)
        # Then come braces, a type, `throws`, `default`, or the end of a declaration; otherwise it is a call.
        if close > 0 and _GOES_ON.match(self._masked, close + 1):
          yield place, unknown or bool(before.groupdict().get('accessor'))
      else:
        yield place, True

  def _go(self, name: str, owner: str | None) -> Iterator[int]:
    """Places where a function of a name is defined, at any receiver if `owner` is None."""
    for place in masking.occurrences(self._masked, name):
      line = self._masked.rfind('\n', 0, place) + 1
      function = self._masked[line:place].split() == ['func']
      receiver = '' if function else self._receiver(place)
      if function and owner == '' or receiver and owner in (None, receiver):
        yield place

  def _receiver(self, place: int) -> str:
    line = self._masked.rfind('\n', 0, place) + 1
    match = _BEFORE_METHOD['go'].fullmatch(self._masked, line, place)
    return match['receiver'] if match else ''

  def _script_functions(self, name: str, kind: str) -> list[Definition]:
    """Functions of a name, with an empty definition for whatever else may give the name another value."""
    found = []
    for place in masking.occurrences(self._masked, name):
      line, after = self._line(place), place + len(name)
      before = self._masked[max(line, place - _LONG) : place]
      follows = self._masked[after : after + 40].lstrip()[:1]
      if follows in ('(', '<') and _BEFORE_FUNCTION.fullmatch(before):
        # One within a block or another function is called by the same name.
        found.append(Definition() if self._depth(0, place) else self._function(place, name, kind))
      elif follows in ('=', ':') and _BEFORE_VARIABLE.fullmatch(before):
        bound = _BOUND_TO_FUNCTION.match(self._masked, after)
        single = None if bound else _ONE_PARAMETER.match(self._masked, after)
        if self._depth(0, place):
          found += [Definition()] if bound or single or before.split()[-1] == 'var' else []
        elif bound:
          found.append(self._function(place, name, kind, bound.end() - 1))
        elif single:
          found.append(Definition(parameters=(Parameter(single[1]),), nested=True))
      elif _rebinds(before, self._masked, after, name):
        found.append(Definition())
    return found

  def _set_from_elsewhere(self, method: str, owner: str) -> Iterator[Definition]:
    """An empty definition for each place where a method is set as an attribute: of an instance, a class or a prototype."""
    within = [(opening, end) for qualified, _, opening, end in self._types if qualified == owner]
    for place in masking.occurrences(self._masked, method):
      base = _ATTRIBUTE_OF.search(self._masked[max(0, place - _LONG) : place])
      if not base or not _SET_AGAIN.match(self._masked, place + len(method)):
        continue
      if re.match(rf'\s*=\s*this\.{re.escape(method)}\.bind\(', self._masked[place + len(method) :][:_LONG]):
        continue  # It stays what it is.
      if base[1] != 'this' or any(opening < place < end for opening, end in within):
        yield Definition()

  def _constants(self, name: str, owner: str) -> Iterator[Definition]:
    bounds = [(o, e) for qualified, _, o, e in self._types if qualified == owner] if owner else [(0, len(self._masked))]
    for start, end in bounds:
      for place in masking.occurrences(self._masked, name, start, end):
        match = _ASSIGNED.match(self._masked, place + len(name), end)
        if self._language == 'go' and not match:
          match = _TYPED.match(self._masked, place + len(name), end)
        if not match or self._depth(start + bool(owner), place) or self._masked[place - 1 : place] == '.':
          continue
        if any(bound.match(self._masked, place + len(name)) for bound in (_BOUND_TO_FUNCTION, _ONE_PARAMETER)):
          continue
        stop = _VALUE_ENDS.search(self._masked, match.end(), end)
        fixed = _FIXED.search(self._masked, self._line(place), place) or self._language == 'go'
        yield Definition(value=self._text(match.end(), stop.start() if stop else end) if fixed else '')

  def _type(self, place: int, opening: int) -> Definition:
    head = self._masked[place:opening]
    named = re.match(r'[\w$]+\s*', head).end()
    own = masking.closing(head, named) if head[named : named + 1] == '<' else named  # its own type parameters
    match = re.compile(r'\bextends\s+([\w.$]+)').search(head, max(own, named))
    start = place + match.start(1) if match else 0
    bases = (self._source[start : start + len(match[1])],) if match else ()
    rest = head[match.end() :].strip() if match else ''
    generic = masking.closing(rest, 0) if rest.startswith('<') else -1
    if generic > 0:
      bases = (f'{bases[0]}{rest[: generic + 1]}',) if bases else ()
      rest = rest[generic + 1 :].strip()
    return Definition(bases=bases if not rest or rest.startswith(('implements', 'permits')) else ())

  def _function(self, place: int, name: str, kind: str, opening: int = -1) -> Definition:
    """The definition of a function whose name is at `place`; its parameters open at `opening` if that is not negative."""
    if opening < 0 and (match := _OPENS.match(self._masked, place + len(name))):
      opening = match.end() - 1
    if opening < 0 or (close := masking.closing(self._masked, opening)) < 0:
      return Definition()
    brace = self._body(close + 1)
    end = masking.closing(self._masked, brace) if kind == 'raises' and brace >= 0 else -1
    body = self._masked[brace + 1 : end] if end > 0 else ''
    throws = _THROWS.match(self._masked, close + 1) if self._language == 'java' else None
    documentation = self._documentation(place) if kind in DOCUMENTED or self._deprecates else ''
    parameters, complete = self._parameters(opening, close)
    return Definition(
        parameters=parameters,
        complete=complete,
        returns=self._returns(place, close, brace),
        nested=bool(_NESTED[self._language].search(body)),
        raised=tuple(match[1] or '' for match in _RAISE.finditer(body)),
        throws=tuple(word.strip() for word in throws[1].split(',')) if throws else (),
        documentation=documentation,
        deprecated=self._deprecates and 'deprecat' in (documentation + self._above(place)).lower(),
    )

  def _body(self, place: int) -> int:
    """Where the body opens; -1 if the declaration has none. A return type may have braces of its own."""
    depth, text = 0, self._masked
    for match in _SIGNS_OF_BODY.finditer(text, place):
      sign = match[0]
      if sign == '{' and not depth and not _TYPE_GOES_ON.search(text, place, match.start()):
        return match.start()
      if sign == ';' and not depth:
        return -1
      if sign == '\n' and not depth and self._language == 'go':
        return -1
      depth += (sign in '([{') - (sign in ')]}')
      if depth < 0:
        return -1
    return -1

  def _above(self, place: int) -> str:
    """What stands between the statement before a definition and its name: annotations and comments."""
    start = max(0, place - _ABOVE)
    return self._source[max(start, *(self._masked.rfind(sign, start, place) for sign in ';{}')) : place]

  def _returns(self, place: int, close: int, brace: int) -> str:
    if self._language == 'java':
      if self._masked[close + 1 : close + 40].lstrip().startswith('['):
        return ''  # the rest of its type, as in `int f()[]`
      match = _BEFORE_METHOD['java'].fullmatch(self._masked, self._line(place), place)
      return self._source[match.start('type') : match.end('type')] if match and match['type'] else ''
    if brace < 0 and self._language == 'go':  # written in assembly
      brace = self._masked.find('\n', close)
    if brace < 0:
      return ''
    text = self._text(close + 1, brace)
    if self._language == 'go':
      return text
    if not text.startswith(':'):
      return ''
    return re.sub(r'\s*=>$', '', text[1:]).strip()

  def _parameters(self, opening: int, close: int) -> tuple[tuple[Parameter, ...] | None, bool]:
    pieces = masking.split(self._masked, opening + 1, close, ',', self._angles)
    pieces = [(start, end) for start, end in pieces or () if self._masked[start:end].strip()]
    if not pieces and self._masked[opening + 1 : close].strip():
      return None, False
    read = self._go_parameters if self._language == 'go' else self._named_parameters
    return read(pieces)

  def _named_parameters(self, pieces: list[tuple[int, int]]) -> tuple[tuple[Parameter, ...], bool]:
    found, complete = [], True
    for start, end in pieces:
      piece = self._masked[start:end].strip()
      if self._language == 'java':
        match = re.fullmatch(r'\s*(?:final\s+|@\w+\s+)*(.*\S)\s+([\w$]+)\s*', self._text(start, end), re.DOTALL)
        complete = complete and bool(match) and '...' not in piece
        if match and '...' not in piece:
          found.append(Parameter(match[2], ' '.join(match[1].split())))
        continue
      match = re.match(rf'\s*(?:{_MODIFIER}\s+)*([\w$]+)\s*\??\s*(?=[:=]|$)', self._masked[start:end])
      if not match or match[1] == 'this':
        complete = False
        continue
      at = start + match.end()
      kind = ''
      if self._masked[at : at + 1] == ':':
        equals = re.search(r'(?<![=!<>])=(?![=>])', self._masked[at:end])
        stop = at + equals.start() if equals else end
        kind, at = self._text(at + 1, stop), stop
      default = self._text(at + 1, end) if self._masked[at : at + 1] == '=' else ''
      found.append(Parameter(match[1], kind, default))
    return tuple(found), complete

  def _go_parameters(self, pieces: list[tuple[int, int]]) -> tuple[tuple[Parameter, ...], bool]:
    found, kind, complete = [], '', True
    for start, end in reversed(pieces):
      name, _, rest = self._text(start, end).partition(' ')
      kind = rest.strip() or kind
      if not kind or '...' in name + rest or not name.isidentifier():
        complete = False
        kind = '' if '...' in rest else kind
        continue
      found.append(Parameter(name, kind))
    return tuple(reversed(found)), complete

  def _documentation(self, place: int) -> str:
    """The comment right above a definition, its lines joined."""
    line = self._masked.rfind('\n', 0, place) + 1
    start = max(0, line - _ABOVE)
    above = self._source[start:line] if self._language == 'go' else self._source[start:place]
    opened = 0 if self._language == 'go' else max(above.rfind('/**'), 0)
    match = _COMMENT[self._language].search(above, opened)
    return ' '.join(_SIGNS.sub('', match[0].partition('*/')[0]).split()) if match else ''


def _rebinds(before: str, masked: str, after: int, name: str) -> bool:
  """Whether a name is given another value where it stands between `before` and the offset `after`, or may be."""
  if base := _ATTRIBUTE_OF.search(before):
    # Compilers of TypeScript clear all exports in front of the definitions: `exports.f = exports.g = void 0`.
    cleared = r'(?:exports\.[\w$]+\s*=\s*)*void 0'
    same = re.match(rf'\s*=\s*(?:{re.escape(name)}\s*(?:[;,}}\n]|$)|{cleared})', masked[after : after + _ABOVE])
    return base[1] in _GLOBALS and bool(_SET_AGAIN.match(masked, after)) and not same
  if re.search(r'\bfor\s*(?:await\s*)?\(\s*$', before) and re.match(r'\s+(?:of|in)\b', masked[after : after + 40]):
    return True
  if _SET_AGAIN.match(masked, after):
    return True
  index = re.search(r'[\w$\])]\s*\[\s*$', before)
  return masked[after : after + 40].lstrip()[:1] in (',', ']', '}') and not index and bool(_IN_PATTERN.match(masked, after))
