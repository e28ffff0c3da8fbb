"""The second reading of JavaScript, TypeScript, Java and Go: definitions found by the words around a name and by braces."""

import functools
import re
from collections.abc import Iterator

from iquest_jax.data.build.facts import masked as masking
from iquest_jax.data.build.facts.definition import Definition, Parameter

_TYPE_WORDS = re.compile(r'(?<![.\w$])(class|interface|enum|record|struct)\s+([\w$]+)')
_SCRIPTS = ('javascript', 'typescript', 'tsx')
_MODIFIER = r'(?:export|default|public|protected|private|static|final|abstract|synchronized|native|strictfp|async|override|readonly|declare|sealed)'
_GENERIC = r'(?:<(?:[^<>]|<(?:[^<>]|<[^<>]*>)*>)*>)'
# What stands before the name of a function or a method on its line, then what follows it.
_BEFORE_METHOD = {
    'java': re.compile(
        rf'\s*(?:@[\w.]+(?:\([^)]*\))?\s+)*(?:{_MODIFIER}\s+)*(?:{_GENERIC}\s*)?(?:(?!return\b|new\b|throw\b|else\b|case\b)'
        rf'(?P<type>[\w.]+{_GENERIC}?(?:\.\w+)*(?:\s*\[\s*\])*)\s+)?'
    ),
    'go': re.compile(r'func\s*\(\s*(?:\w+\s+)?\*?\s*(?P<receiver>\w+)(?:\[[^\]]*\])?\s*\)\s*'),
} | dict.fromkeys(_SCRIPTS, re.compile(rf'\s*(?:@[\w.]+(?:\([^)]*\))?\s+)*(?:{_MODIFIER}\s+)*(?:(?P<accessor>get|set)\s+)?(?P<private>\*?\s*)'))
_BEFORE_FUNCTION = re.compile(r'(?:.*[\s;}])?(?:export\s+)?(?:default\s+)?(?:async\s+)?function\s*\*?\s*')
_BEFORE_VARIABLE = re.compile(r'(?:.*[\s;}])?(?:const|let|var)\s+')
_BOUND_TO_FUNCTION = re.compile(rf'\s*(?::[^=;]*)?=(?!=)\s*(?:async\b\s*)?(?:function\b\s*\*?\s*[\w$]*\s*)?{_GENERIC}?\s*\(')
_ASSIGNED = re.compile(r'\s*(?::[^=;(]*)?=(?![=>])\s*')
_OPENS = re.compile(rf'\s*\??\s*(?:{_GENERIC}|\[[^\]]*\])?\s*\(')
_GOES_ON = re.compile(r'\s*(?:[{;:}]|throws\b|default\b|\[)')
_LONG = 300
_THROWS = re.compile(r'\s*throws\s+([\w.,\s]+)')
_RAISE = re.compile(r'\bthrow\b\s*(?:new\s+([\w.$]+)\s*(?:<[^<>]*>)?\s*\()?')
_NESTED = {
    'java': re.compile(r'->|\btry\b|\bclass\b|\bnew\s+[\w.<>,? ]+\([^;{]*\)\s*\{'),
    'go': re.compile(r'\bfunc\b'),
} | dict.fromkeys(_SCRIPTS, re.compile(r'=>|\b(?:function|try|class)\b'))
_COMMENT = {
    'go': re.compile(r'(?:^//[^\n]*\n)+\Z', re.MULTILINE),
} | dict.fromkeys(
    ('java', *_SCRIPTS), re.compile(r'/\*\*((?:(?!\*/).)*)\*/\s*(?:(?:@[\w.]+(?:\([^()]*\))?|[a-z]+)\s+)*[\w<>\[\], .?*$]*\Z', re.DOTALL)
)  # fmt: skip
_SIGNS = re.compile(r'^[ \t]*(?://+|\*+(?!/)|/\*+)[ \t]?', re.MULTILINE)


class Reread:
  """One source; `find` and `owners` are what is known about its names."""

  def __init__(self, source: str, language: str):
    self._source, self._language = source, language
    self._masked = masking.mask(source, language)
    self._angles = language != 'go'

  @functools.cached_property
  def _types(self) -> list[tuple[str, int, int, int]]:
    """(qualified name, where it stands, '{', '}') of every class, interface, enum and record, outer ones first."""
    found, around = [], []
    for match in _TYPE_WORDS.finditer(self._masked):
      opening = self._masked.find('{', match.end())
      if opening < 0 or set(self._masked[match.end() : opening]) & set(';}='):
        continue
      if (end := masking.closing(self._masked, opening)) < 0:
        continue
      while around and around[-1][3] < match.start():
        around.pop()
      name = f'{around[-1][0]}.{match[2]}' if around else match[2]
      found.append((name, match.start(2), opening, end))
      around.append(found[-1])
    return found

  def find(self, name: str) -> list[Definition]:
    """Every definition of a qualified name, such as 'f', 'C' or 'C.method'.

    A name that is bound in a way that is not understood has an empty definition.
    """
    owner, _, last = name.rpartition('.')
    found = [self._type(place, opening) for qualified, place, opening, _ in self._types if qualified == name]
    found += self._constants(last, owner)
    if self._language == 'go':
      return found + [self._function(place, last) for place in self._go(last, owner)]
    if owner:
      for qualified, _, opening, end in self._types:
        if qualified == owner:
          found += [self._function(place, last, accessor) for place, accessor in self._methods(last, opening, end)]
      prototype = f'{owner}.prototype.{last}'
      return found + [Definition() for _ in masking.occurrences(self._masked, prototype)]
    return found + (self._script_functions(last) if self._language in _SCRIPTS else [])

  def owners(self, method: str) -> list[str]:
    """The classes that define a method; '' stands for whatever else may have its name."""
    if self._language == 'go':
      return [self._receiver(place) for place in self._go(method, None)]
    found = []
    for qualified, _, opening, end in self._types:
      found += [qualified for _ in self._methods(method, opening, end)]
    if self._language in _SCRIPTS:
      found += ['' for _ in self._script_functions(method)]
    return found

  def _depth(self, start: int, place: int) -> int:
    return self._masked.count('{', start, place) - self._masked.count('}', start, place)

  def _line(self, place: int) -> int:
    """Where the line of a place starts, or the statement if that is later."""
    return max(self._masked.rfind(sign, 0, place) for sign in '\n;{}') + 1

  def _methods(self, name: str, opening: int, end: int) -> Iterator[tuple[int, bool]]:
    """Places of a name in the body of a class where a method of it is defined, and whether it is an accessor."""
    for place in masking.occurrences(self._masked, name, opening, end):
      after = _OPENS.match(self._masked, place + len(name), end)
      if not after and not _ASSIGNED.match(self._masked, place + len(name), end):
        continue
      line = self._line(place)
      before = _BEFORE_METHOD[self._language].fullmatch(self._masked, line, place) if place - line < _LONG else None
      if not before or self._depth(opening + 1, place):
        continue
      if after:
        close = masking.closing(self._masked, after.end() - 1)
        # Then come braces, a type, `throws`, `default`, or the end of a declaration; otherwise it is a call.
        if close > 0 and _GOES_ON.match(self._masked, close + 1):
          yield place, bool(before.groupdict().get('accessor'))
      else:
        yield place, True

  def _go(self, name: str, owner: str | None) -> Iterator[int]:
    """Places where a function of a name is defined, at any receiver if `owner` is None."""
    for place in masking.occurrences(self._masked, name):
      line = self._masked.rfind('\n', 0, place) + 1
      if owner == '' and self._masked[line:place].split() == ['func']:
        yield place
      elif owner != '' and (receiver := self._receiver(place)) and owner in (None, receiver):
        yield place

  def _receiver(self, place: int) -> str:
    line = self._masked.rfind('\n', 0, place) + 1
    match = _BEFORE_METHOD['go'].fullmatch(self._masked, line, place)
    return match['receiver'] if match else ''

  def _script_functions(self, name: str) -> list[Definition]:
    found = []
    for place in masking.occurrences(self._masked, name):
      line, after = self._line(place), place + len(name)
      if place - line > _LONG or self._masked[after : after + 40].lstrip()[:1] not in ('=', '(', ':', '<') or self._depth(0, place):
        continue
      if _BEFORE_FUNCTION.fullmatch(self._masked, line, place):
        found.append(self._function(place, name))
      elif _BEFORE_VARIABLE.fullmatch(self._masked, line, place):
        bound = _BOUND_TO_FUNCTION.match(self._masked, after)
        if bound and not self._source[bound.end() : bound.end() + 9].startswith('function'):
          found.append(self._function(place, name, opening=bound.end() - 1))
      elif _ASSIGNED.match(self._masked, after) and self._masked[place - 1 : place] not in ('.', '('):
        found.append(Definition())
    return found

  def _constants(self, name: str, owner: str) -> Iterator[Definition]:
    bounds = [(o, e) for qualified, _, o, e in self._types if qualified == owner] if owner else [(0, len(self._masked))]
    for start, end in bounds:
      for place in masking.occurrences(self._masked, name, start, end):
        match = _ASSIGNED.match(self._masked, place + len(name), end)
        if self._language == 'go' and not match:
          match = re.compile(r'[ \t]+[\w.]+[ \t]*=[ \t]*').match(self._masked, place + len(name), end)
        if not match or self._depth(start + bool(owner), place) or self._masked[place - 1 : place] == '.':
          continue
        pattern = '[;\n,]' if self._language in _SCRIPTS or self._language == 'java' else '[;\n]'
        stop = re.compile(pattern).search(self._masked, match.end())
        value = self._source[match.end() : stop.start() if stop else end]
        blanks = len(self._masked[match.end() : stop.start() if stop else end].rstrip())
        before = self._masked[self._line(place) : place]
        fixed = re.search(r'\bconst\b|\bfinal\b', before) or self._language == 'go'
        if not _BOUND_TO_FUNCTION.match(self._masked, place + len(name)):
          yield Definition(value=value[:blanks] if fixed else '')

  def _type(self, place: int, opening: int) -> Definition:
    head = self._masked[place:opening]
    match = re.search(r'\bextends\s+([\w.$]+)', head)
    start = place + match.start(1) if match else 0
    bases = (self._source[start : start + len(match[1])],) if match and ',' not in head[match.end() :] else ()
    rest = head[match.end() :].strip() if match else ''
    generic = masking.closing(rest, 0) if rest.startswith('<') else -1
    if generic > 0:
      bases = (f'{bases[0]}{rest[: generic + 1]}',) if bases else ()
      rest = rest[generic + 1 :].strip()
    return Definition(bases=bases if not rest or rest.startswith(('implements', 'permits')) else ())

  def _function(self, place: int, name: str, accessor: bool = False, opening: int = -1) -> Definition:
    """The definition of a function whose name stands at `place`; an empty one for an accessor."""
    match = _OPENS.match(self._masked, place + len(name))
    if accessor or opening < 0 and not match:
      return Definition()
    opening = opening if opening >= 0 else match.end() - 1
    if (close := masking.closing(self._masked, opening)) < 0:
      return Definition()
    brace = self._body(close + 1)
    end = masking.closing(self._masked, brace) if brace >= 0 else -1
    body = self._masked[brace + 1 : end] if end > 0 else ''
    head = self._masked[close + 1 : brace] if brace >= 0 else ''
    throws = _THROWS.match(self._masked, close + 1)
    documentation = self._documentation(place)
    boundary = max(self._masked.rfind(sign, 0, place) for sign in ';{}')
    above = documentation if self._language == 'go' else self._source[boundary + 1 : place]
    parameters, complete = self._parameters(opening, close)
    return Definition(
        parameters=parameters,
        complete=complete,
        returns=self._returns(place, close, brace, head),
        nested=bool(_NESTED[self._language].search(body)),
        raised=tuple(match[1] or '' for match in _RAISE.finditer(body)),
        throws=tuple(word.strip() for word in throws[1].split(',')) if throws and self._language == 'java' else (),
        documentation=documentation,
        deprecated='deprecat' in above.lower(),
    )

  def _body(self, place: int) -> int:
    """Where the body opens; -1 if the declaration has none. A return type may have braces of its own."""
    depth, text = 0, self._masked
    for match in re.compile(r'[()\[\]{};\n]').finditer(text, place):
      sign = match[0]
      if sign == '{' and not depth and not re.search(r'(?:[:|&<]|=>\s*\(?|\b(?:interface|struct|is))\s*$', text[place : match.start()]):
        return match.start()
      if sign == ';' and not depth:
        return -1
      if sign == '\n' and not depth and self._language == 'go':
        return -1
      depth += (sign in '([{') - (sign in ')]}')
      if depth < 0:
        return -1
    return -1

  def _returns(self, place: int, close: int, brace: int, head: str) -> str:
    if self._language == 'java':
      match = _BEFORE_METHOD['java'].fullmatch(self._masked, self._line(place), place)
      return self._source[match.start('type') : match.end('type')] if match and match['type'] else ''
    if brace < 0:
      return ''
    text = self._source[close + 1 : brace].strip()
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
        match = re.fullmatch(r'\s*(?:final\s+|@\w+\s+)*(.*\S)\s+([\w$]+)\s*', self._source[start:end], re.DOTALL)
        complete = complete and bool(match) and '...' not in piece
        if match and '...' not in piece:
          found.append(Parameter(match[2], ' '.join(match[1].split())))
        continue
      match = re.match(r'\s*(?:(?:public|private|protected|readonly|override)\s+)*([\w$]+)\s*\??\s*(?=[:=]|$)', self._masked[start:end])
      if not match or match[1] == 'this':
        complete = False
        continue
      at = start + match.end()
      kind = ''
      if self._masked[at : at + 1] == ':':
        equals = re.search(r'(?<![=!<>])=(?![=>])', self._masked[at:end])
        stop = at + equals.start() if equals else end
        kind, at = self._source[at + 1 : stop].strip(), stop
      default = self._source[at + 1 : end].strip() if self._masked[at : at + 1] == '=' else ''
      found.append(Parameter(match[1], kind, default))
    return tuple(found), complete

  def _go_parameters(self, pieces: list[tuple[int, int]]) -> tuple[tuple[Parameter, ...], bool]:
    found, kind, complete = [], '', True
    for start, end in reversed(pieces):
      name, _, rest = self._source[start:end].strip().partition(' ')
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
    start = max(0, line - 4000)
    above = self._source[start:line] if self._language == 'go' else self._source[start:place]
    opened = 0 if self._language == 'go' else max(above.rfind('/**'), 0)
    match = _COMMENT[self._language].search(above, opened)
    return ' '.join(_SIGNS.sub('', match[0].partition('*/')[0]).split()) if match else ''
