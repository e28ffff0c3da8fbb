"""The second reading of Python: definitions found by their first words and their indentation."""

import re

from iquest_jax.data.build.facts import masked as masking
from iquest_jax.data.build.facts.definition import Definition, Parameter

# A line inside a string, and one that only closes a bracket, may be indented less than the block it belongs to.
_LINE = re.compile(rf'^([ \t]*)(?:(?:async[ \t]+)?(def|class)[ \t]+(\w+)|[^\s)\]}}{masking.STRING}])', re.MULTILINE)
_SKIPPED = re.compile(r'\s*')
_STRING = re.compile(r'[rRuU]?("""|\'\'\'|"|\')(.*?)(?<!\\)\1', re.DOTALL)
_RAISE = re.compile(
    r'^[ \t]*raise\b[ \t]*(?:((?:\w+\.)*[A-Z]\w*)[ \t]*(?=[(\n]|from\b|$))?|[;:][ \t]*raise\b()', re.MULTILINE
)
_LONG = 1000  # characters before and after a name that say what it is
_NESTED = re.compile(r'\b(?:def|class|try)\b')


class Reread:
  """One source; `find` and `owners` are what is known about its names."""

  def __init__(self, source: str):
    self._source = source
    self._masked = masking.mask(source, 'python')
    self._blocks = self._read_blocks()
    self._by_name: dict[str, list[_Block]] = {}
    for block in self._blocks:
      self._by_name.setdefault(block.qualified, []).append(block)

  def _read_blocks(self) -> list['_Block']:
    blocks, around = [], []
    for match in _LINE.finditer(self._masked):
      indent = len(match[1].expandtabs())
      while around and around[-1].indent >= indent:
        around.pop().end = match.start()
      if match[2]:
        owner = f'{around[-1].qualified}{"." if around[-1].word == "class" else ".<locals>."}' if around else ''
        blocks.append(_Block(match[2], match[3], owner + match[3], match.start(), match.end(), indent, len(self._masked)))
        around.append(blocks[-1])
    return blocks

  def find(self, name: str, kind: str) -> list[Definition]:
    """Every definition of a qualified name, such as 'f', 'C' or 'C.method'.

    A name that is bound in another way too, by an import or an assignment, has a further, empty definition.

    Args:
      kind: of the question; what is asked by no question of this kind is not read.
    """
    blocks = self._by_name.get(name, [])
    owner, _, last = name.rpartition('.')
    found = [self._define(block, kind) for block in blocks]
    places = [(0, len(self._masked))]
    if owner:
      places = [(block.name_end, block.end) for block in self._by_name.get(owner, ()) if block.word == 'class']
    starts = {block.name_end - len(last) for block in blocks}
    for start, end in places:
      for place in masking.occurrences(self._masked, last, start, end):
        if place not in starts and (bound := self._bound(place, last, owner)) is not None:
          found.append(bound)
    return found

  def owners(self, method: str) -> list[str]:
    """The classes that define a method, with '' for each other definition of the name."""
    named = [block for block in self._blocks if block.name == method]
    classes = {block.qualified for block in self._blocks if block.word == 'class'}
    owners = [block.qualified.rpartition('.')[0] for block in named]
    return [owner if owner in classes else '' for owner in owners]

  def _bound(self, place: int, name: str, owner: str) -> Definition | None:
    """What a name is bound to where it stands outside a def or class statement; None if it is only used there."""
    first = self._masked.rfind('\n', 0, place) + 1
    last = self._masked.find('\n', place)
    last = last if last >= 0 else len(self._masked)
    before = self._masked[max(first, place - _LONG) : place]
    after = self._masked[place + len(name) : min(last, place + _LONG)]
    if not _binds(before, after, self._masked, place):
      return None
    if self._around(place) != owner and f'global {name}' not in self._masked:
      return None
    match = re.match(r'\s*(?::[^=]*)?=(?!=)\s*', after)
    if before.strip() or not match:
      return Definition()
    return Definition(value=self._text(place + len(name) + match.end(), place + len(name) + len(after)))

  def _text(self, start: int, end: int) -> str:
    return masking.unmasked(self._source, self._masked, start, end)

  def _around(self, place: int) -> str:
    """The qualified name of the definition whose block a place is in, '' at the top level."""
    within = [block for block in self._blocks if block.name_end <= place < block.end]
    return within[-1].qualified if within else ''

  def _define(self, block: '_Block', kind: str) -> Definition:
    masked = self._masked
    place = _SKIPPED.match(masked, block.name_end).end()
    if block.word == 'class':
      end = masking.closing(masked, place) if masked[place : place + 1] == '(' else place
      pieces = masking.split(masked, place + 1, end, ',') if end > place else []
      bases = tuple(filter(None, (self._text(*piece) for piece in pieces or ())))
      return Definition(bases=bases if not any('=' in base for base in bases) else ())
    if masked[place : place + 1] != '(' or (end := masking.closing(masked, place)) < 0:
      return Definition()
    if (head := masked.find(':', end)) < 0:
      return Definition()
    if masked[end + 1 : head].strip().startswith('->'):  # an annotation may hold a colon: within brackets
      pieces = masking.split(masked, end + 1, min(block.end, head + 400), ':')
      head = pieces[0][1] if pieces else head
    arrow = masked.find('->', end + 1, head)
    returns = self._text(arrow + 2, head) if arrow >= 0 else ''
    body = masked[head + 1 : block.end] if kind == 'raises' else ''
    parameters, complete, receiver = self._parameters(block, place, end)
    documentation = self._documentation(head + 1)
    return Definition(
        parameters=parameters,
        complete=complete,
        receiver=receiver,
        returns=returns,
        nested=bool(_NESTED.search(body)),
        raised=tuple(match[1] or '' for match in _RAISE.finditer(body)),
        documentation=documentation,
        deprecated='deprecat' in (documentation + self._decorators(block.start)).lower(),
    )

  def _parameters(self, block: '_Block', place: int, end: int) -> tuple[tuple[Parameter, ...] | None, bool, bool]:
    parameters, complete, positional = [], True, True
    pieces = masking.split(self._masked, place + 1, end, ',')
    for start, stop in pieces or ():
      piece = self._masked[start:stop].strip()
      if piece in ('', '/'):
        continue
      if piece.startswith('*'):
        positional = False
        complete = complete and piece == '*'
        continue
      at = masking.split(self._masked, start, stop, '=') or [(start, stop)]
      name, *annotation = masking.split(self._masked, *at[0], ':') or [at[0]]
      default = self._text(at[1][0], stop) if len(at) > 1 else ''
      kind = self._text(annotation[0][0], at[0][1]) if annotation else ''
      parameters.append(Parameter(self._text(*name), kind, default, positional))
    in_class = '.' in block.qualified and '<locals>' not in block.qualified
    receiver = in_class and bool(parameters) and parameters[0].name in ('self', 'cls')
    return None if pieces is None else tuple(parameters[receiver:]), complete, receiver

  def _documentation(self, place: int) -> str:
    match = _STRING.match(self._source, _SKIPPED.match(self._masked, place).end())
    return ' '.join(match[2].split()) if match else ''


  def _decorators(self, place: int) -> str:
    """The lines above a definition, up to a blank one or the end of a block."""
    above = self._source[max(0, place - 500) : place]
    return above[above.rfind('\n\n') + 1 :] if '@' in above else ''


class _Block:
  """A def or class statement: where its line starts, its name ends and its block ends."""

  def __init__(self, word: str, name: str, qualified: str, start: int, name_end: int, indent: int, end: int):
    self.word, self.name, self.qualified, self.start = word, name, qualified, start
    self.name_end, self.indent, self.end = name_end, indent, end


_BEFORE = re.compile(r'\s*(?:for|del|global|nonlocal)\b[^:=]*$|.*\bas\s+$|.*\bimport\b[^#]*$')
_AFTER = re.compile(r'\s*(?:[-+*/%&|^@]|//|\*\*|<<|>>)?=(?!=)|\s*:(?!=)[^=]*=(?!=)|\s*:=|\s*,[^()=]*=(?!=)')


def _binds(before: str, after: str, masked: str, place: int) -> bool:
  if _BEFORE.match(before):
    return True
  first = before.strip(' \t(') == '' or re.fullmatch(r'\s*(?:\w+\s*[,=]\s*)+', before)
  if first and _AFTER.match(after):
    return True
  # A line of an import in brackets.
  opened = masked.rfind('(', max(0, place - 10 * _LONG), place)
  inside = opened >= 0 and ')' not in masked[opened:place]
  return inside and masked[max(0, opened - 20) : opened].rstrip().endswith('import')
