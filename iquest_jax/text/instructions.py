"""Verifiable instructions: how a request states them, which of them go together, and whether an answer keeps to them.

An instruction is a JSON object, {"check": "most_words", "count": 40}: a name of CHECKS and the arguments of its function.
Two contradict each other if both decide the same property of a text, or if one decides a property that the other needs to
be free: a text in small letters cannot begin with a phrase that has capitals.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iquest_jax.errors import UserError
from iquest_jax.text import checks

Instruction = Mapping[str, Any]

# ours: what is drawn. A word of _FORBIDDEN is in none of the phrases or _WORDS.
_WORDS = ('apple', 'river', 'stone', 'cloud', 'tiger', 'lemon', 'paper', 'music', 'window', 'garden')
_FORBIDDEN = ('very', 'really', 'simply', 'just', 'maybe', 'always', 'never', 'thing')
_OPENINGS = ('Sure!', 'Here is the answer:', 'In short:', 'Good question.')
_ENDINGS = ('That is all.', 'I hope this helps.', 'Is there anything else?', 'The end.')
_FIELDS = (('name', 'string'), ('count', 'integer'), ('items', 'array'), ('valid', 'boolean'), ('notes', 'string'))
_OPTIONS = (('yes', 'no'), ('yes', 'no', 'maybe'), ('true', 'false'), ('A', 'B', 'C'))


@dataclasses.dataclass(frozen=True)
class Check:
  """A kind of instruction.

  Attributes:
    holds: (text, **arguments) -> whether the text keeps to it.
    says: the sentence of the request, with the arguments in braces.
    arguments: {argument: type}.
    draw: (random numbers, the request) -> arguments.
    decides: properties of a text that it fixes.
    needs: properties that must be free, or that only others of its kind use.
  """

  holds: Callable[..., bool]
  says: str
  arguments: Mapping[str, type] = dataclasses.field(default_factory=dict)
  draw: Callable[[random.Random, str], dict[str, Any]] = lambda rng, request: {}
  decides: tuple[str, ...] = ()
  needs: tuple[str, ...] = ()


def _counted(holds: Callable, says: str, counts: Sequence[int], decides: str, *needs: str) -> Check:
  """A check with one number, drawn from a few."""
  return Check(holds, says, {'count': int}, lambda rng, _: {'count': rng.choice(counts)}, (decides,), (*needs, 'form'))


# An answer that is one value has no room for anything else: such a check decides 'form', and all others need it.
_ALONE, _TEXT = ('form',), ('case', 'script', 'form')
CHECKS: Mapping[str, Check] = {
    'most_words': _counted(checks.most_words, 'Use at most {count} words.', (40, 60, 80, 120), 'length'),
    'least_words': _counted(checks.least_words, 'Use at least {count} words.', (20, 50, 100), 'length'),
    'most_characters': _counted(checks.most_characters, 'Use at most {count} characters.', (400, 600, 800), 'length'),
    'least_characters': _counted(checks.least_characters, 'Use at least {count} characters.', (100, 200, 400), 'length'),
    'most_sentences': _counted(checks.most_sentences, 'Use at most {count} sentences.', (8, 10, 12), 'length', 'layout'),
    'least_sentences': _counted(checks.least_sentences, 'Use at least {count} sentences.', (3, 5, 8), 'length'),
    'lines': _counted(
        checks.lines, 'Write exactly {count} lines, empty ones not counted.', (4, 5, 6), 'layout', 'length'),
    'paragraphs': _counted(
        checks.paragraphs, 'Write exactly {count} paragraphs, separated by empty lines.', (3, 4), 'layout', 'length'),
    'bullets': _counted(
        checks.bullets, 'Include exactly {count} list items, each on a line that begins with "- ".', (2, 3, 4), 'layout'),
    'numbered': _counted(
        checks.numbered, 'Include a list of exactly {count} items, numbered "1. ", "2. " ...', (2, 3, 4), 'layout'),
    'headings': _counted(checks.headings, 'Use exactly {count} headings that begin with "# ".', (1, 2, 3), 'layout'),
    'bold': _counted(checks.bold, 'Highlight at least {count} words or phrases **like this**.', (1, 2, 3), 'bold'),
    'capital_words': _counted(
        checks.capital_words, 'Write at least {count} words in capital letters.', (1, 2, 3), 'capitals', 'case', 'script'),
    'begins_with': Check(
        checks.begins_with, 'Begin with "{phrase}".', {'phrase': str},
        lambda rng, _: {'phrase': rng.choice(_OPENINGS)}, ('start',), _TEXT),
    'ends_with': Check(
        checks.ends_with, 'End with exactly this: {phrase}', {'phrase': str},
        lambda rng, _: {'phrase': rng.choice(_ENDINGS)}, ('end',), _TEXT),
    'contains': Check(
        checks.contains, 'Use the word "{word}" at least {count} times.', {'word': str, 'count': int},
        lambda rng, _: {'word': rng.choice(_WORDS), 'count': rng.randint(1, 3)}, ('word',), ('script', 'form')),
    'keywords': Check(
        checks.keywords, 'Use each of these words: {words}.', {'words': list},
        lambda rng, _: {'words': rng.sample(_WORDS, rng.randint(2, 3))}, ('words',), ('script', 'form')),
    'forbidden': Check(
        checks.forbidden, 'Do not use any of these words: {words}.', {'words': list},
        lambda rng, _: {'words': rng.sample(_FORBIDDEN, rng.randint(1, 3))}, ('vocabulary',), ('form',)),
    'lower_case': Check(
        checks.lower_case, 'Use small letters only.', decides=('case',), needs=('script', 'form')),
    'upper_case': Check(
        checks.upper_case, 'Use capital letters only.', decides=('case',), needs=('script', 'form')),
    'no_commas': Check(checks.no_commas, 'Do not use any commas.', decides=('commas',), needs=('form',)),
    'quoted': Check(
        checks.quoted, 'Put double quotation marks around the whole answer.', decides=('start', 'end'), needs=('form',)),
    'script': Check(
        checks.script, 'Answer in {name} script only.', {'name': str},
        lambda rng, _: {'name': rng.choice(list(checks.SCRIPTS))}, ('script',), ('form',)),
    'code_block': Check(
        checks.code_block, 'Include a code block between ``` fences.', decides=('layout', 'code'), needs=('form',)),
    'no_code_block': Check(checks.no_code_block, 'Do not use any code block.', decides=('code',), needs=('form',)),
    'postscript': Check(
        checks.postscript, 'Add a postscript at the end that begins with "P.S."', decides=('end',), needs=_TEXT),
    'two_answers': Check(
        checks.two_answers, 'Give two different answers, with a line of six asterisks between them: ******',
        decides=('layout',), needs=('form',)),
    'title': Check(
        checks.title, 'The first line is a title in double angular brackets, such as <<joy>>.', decides=('start',),
        needs=('form',)),
    'repeats': Check(
        checks.repeats, 'First repeat the request word for word: {request}', {'request': str},
        lambda _, request: {'request': request}, ('start',), ('length', 'layout', 'vocabulary', 'commas', *_TEXT)),
    'one_of': Check(
        checks.one_of, 'Answer with one of these and nothing else: {options}.', {'options': list},
        lambda rng, _: {'options': list(rng.choice(_OPTIONS))}, _ALONE),
    'json_object': Check(checks.json_object, 'Answer with one JSON object and nothing else.', decides=_ALONE),
    'json_fields': Check(
        checks.json_fields, 'Answer with one JSON object and nothing else. Its fields are exactly: {fields}.',
        {'fields': dict}, lambda rng, _: {'fields': dict(rng.sample(_FIELDS, rng.randint(1, 3)))}, _ALONE),
}  # fmt: skip


def sample(
    rng: random.Random, request: str, count: int, names: Sequence[str] = tuple(CHECKS)
) -> tuple[Instruction, ...]:
  """Up to `count` instructions of different kinds that a single text can keep to.

  Args:
    request: what they are added to.
    names: kinds to draw from.
  """
  chosen: list[str] = []
  for name in rng.sample(list(names), len(names)):
    if len(chosen) < count and not any(contradict(name, other) for other in chosen):
      chosen.append(name)
  return tuple({'check': name, **CHECKS[name].draw(rng, request)} for name in chosen)


def contradict(name: str, other: str) -> bool:
  """Whether no text can be relied on to keep to instructions of both kinds."""
  decided, needed = set(CHECKS[name].decides), set(CHECKS[name].needs)
  return bool(decided & {*CHECKS[other].decides, *CHECKS[other].needs} or needed & set(CHECKS[other].decides))


def rendered(instructions: Sequence[Instruction]) -> str:
  """The sentences of a request that state the instructions, one per line."""
  return '\n'.join(map(_sentence, instructions))


def satisfied(instructions: Sequence[Instruction], text: str) -> float:
  """The share of instructions that a text keeps to; white space around it does not count.

  Raises:
    UserError: an instruction does not exist, or has other arguments.
  """
  return sum(holds(instruction, text) for instruction in instructions) / len(instructions)


def holds(instruction: Instruction, text: str) -> bool:
  """Whether a text keeps to an instruction; raises as `satisfied` does."""
  if wrong := problem_of(instruction):
    raise UserError(f'{wrong}; fix the prompt or leave it out')
  return CHECKS[instruction['check']].holds(text.strip(), **_arguments(instruction))


def problem_of(instruction: Instruction) -> str:
  """What is wrong with an instruction, '' if nothing is."""
  name, arguments = instruction.get('check'), _arguments(instruction)
  if not isinstance(name, str) or name not in CHECKS:
    return f'instruction {name!r} does not exist'
  types = CHECKS[name].arguments
  if arguments.keys() != types.keys():
    return f'instruction {name} takes {", ".join(types) or "no arguments"}, got {", ".join(arguments) or "none"}'
  for argument, value in arguments.items():
    kind = (list, tuple) if types[argument] is list else types[argument]
    if not isinstance(value, kind) or isinstance(value, bool) or value in ('', [], {}, ()):
      return f'instruction {name}: {argument} must be of type {types[argument].__name__} and not empty, got {value!r}'
    if kind is int and value < 0:
      return f'instruction {name}: {argument} must be at least 0, got {value}'
    if types[argument] is list and not all(isinstance(item, str) and item for item in value):
      return f'instruction {name}: {argument} must be a list of strings, got {value!r}'
  if name == 'script' and arguments['name'] not in checks.SCRIPTS:
    return f'instruction script: name must be one of {", ".join(checks.SCRIPTS)}, got "{arguments["name"]}"'
  if name == 'json_fields' and (bad := [one for one in arguments['fields'].values() if one not in list(checks.TYPES)]):
    return f'instruction json_fields: a type must be one of {", ".join(checks.TYPES)}, got {bad[0]!r}'
  return ''


def _arguments(instruction: Instruction) -> dict[str, Any]:
  return {name: value for name, value in instruction.items() if name != 'check'}


def _sentence(instruction: Instruction) -> str:
  shown = {name: _shown(value) for name, value in _arguments(instruction).items()}
  return CHECKS[instruction['check']].says.format(**shown)


def _shown(value: Any) -> str:
  if isinstance(value, Mapping):
    return ', '.join(f'"{name}" ({kind})' for name, kind in value.items())
  return ', '.join(value) if isinstance(value, (list, tuple)) else str(value)
