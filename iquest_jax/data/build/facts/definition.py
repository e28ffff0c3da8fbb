"""What the second reading of a source finds under a name, and the answers that follow from it.

The second reading knows no syntax tree: it searches masked text (masked.py) for the words that define a name. Where it is
not sure it finds nothing, and the fact is dropped.
"""

import dataclasses
import re

from iquest_jax.data.build.facts.questions import ORDINALS, Question


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A parameter as the source spells it; `positional` says whether a caller may give it without its name."""

  name: str
  type: str = ''
  default: str = ''
  positional: bool = True


@dataclasses.dataclass(frozen=True)
class Definition:
  """A function, a class or a constant.

  Attributes:
    parameters: without a receiver; None if they could not be read.
    complete: whether `parameters` are all: there are no variadic ones and no patterns.
    receiver: whether a receiver was left out.
    nested: whether the body may hold other functions, or catch what it raises.
    raised: names in its `raise` or `throw` statements, '' for whatever is not a name.
    throws: names in its throws clause.
    bases: what a class inherits from.
    documentation: without comment signs, on one line.
    deprecated: whether its documentation or what stands above it says so.
  """

  parameters: tuple[Parameter, ...] | None = None
  complete: bool = True
  receiver: bool = False
  returns: str = ''
  nested: bool = False
  raised: tuple[str, ...] = ()
  throws: tuple[str, ...] = ()
  bases: tuple[str, ...] = ()
  value: str = ''
  documentation: str = ''
  deprecated: bool = False


def answer(question: Question, found: Definition) -> str:
  """The answer that a definition gives to a question other than 'owner'; '' if it gives none."""
  parameters = found.parameters or ()
  named = [parameter for parameter in parameters if parameter.name == question.detail]
  of_all = found.complete and found.parameters is not None and question.receiver == found.receiver
  match question.kind:
    case 'count' if of_all:
      return str(len(parameters))
    case 'names' if of_all:
      return ', '.join(parameter.name for parameter in parameters)
    case 'position' if found.parameters is not None and question.receiver == found.receiver:
      place = ORDINALS.index(question.detail)
      positional = [parameter.name for parameter in parameters if parameter.positional]
      return positional[place] if place < len(positional) else ''
    case 'default' if len(named) == 1:
      return named[0].default
    case 'type' if len(named) == 1:
      return named[0].type
    case 'returns':
      return found.returns
    case 'raises' if not found.nested and len(set(found.raised)) == 1:
      return found.raised[0]
    case 'throws' if len(found.throws) == 1:
      return found.throws[0]
    case 'base' if len(found.bases) == 1:
      return found.bases[0]
    case 'value':
      return found.value
    case 'documented result':
      return _result(found.documentation)
    case 'documented error':
      return _condition(found.documentation, question.detail)
  return ''


# A sentence ends with a full stop, a tag, or the next entry of a section.
_UP_TO_FULL_STOP = r'((?:(?!\.(?:\s|$)| @\w| :\w+[ :]| [A-Z]\w*: ).)+)'
_TAGGED_RESULT = re.compile(rf'@returns?\s+(?:\{{(?!@)[^}}]*\}}\s*)?{_UP_TO_FULL_STOP}')
_FIRST_RESULT = re.compile(rf'\W*(?:\w+ )?returns?\s{_UP_TO_FULL_STOP}', re.IGNORECASE)


_MARKUP = re.compile(r'\{@\w+\s([^{}]*)\}')
_SAYS_RESULT = re.compile(
    r'\b(?:returns?|returned|returning|yields?|gives?|results?|otherwise|instead)\b'
    r'|(?<=[.;] )(?:if|unless|when|or|else|except)\b',
    re.IGNORECASE,
)


def _result(documentation: str) -> str:
  """What is returned, if nothing else is said of it: "Returns 3. If x is bad, returns 4." has two answers."""
  documentation = _MARKUP.sub(r'\1', documentation)
  matches = list(_TAGGED_RESULT.finditer(documentation))
  if not matches and (match := _FIRST_RESULT.match(documentation)):
    matches = [match]
  if len(matches) != 1:
    return ''
  found = matches[0][1].strip(' .,;:')
  for said in _SAYS_RESULT.finditer(documentation):
    within = matches[0].start() <= said.start() < matches[0].end()
    if not within and not _is_said(found, documentation[said.end() :]):
      return ''
  return found


def _is_said(result: str, text: str) -> bool:
  """Whether a text begins with a result, as the sentence of a comment may that has a tag for the same."""
  return bool(re.match(rf'\W*{re.escape(result)}\W*(?:[.@]|$)', text, re.IGNORECASE))


def _condition(documentation: str, error: str) -> str:
  name = rf'(?:@throws|@exception|:raises?|(?<=[\s.]))\s*\{{?{re.escape(error)}\}}?:?\s-?\s?'
  matches = re.findall(rf'{name}((?i:if|when|unless)\s{_UP_TO_FULL_STOP})', _MARKUP.sub(r'\1', documentation))
  matches = [first for first, _ in matches]
  return matches[0].strip(' .,;:') if len(matches) == 1 else ''
