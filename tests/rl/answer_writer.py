"""Writes texts that keep to instructions, and texts that break them, without the code that checks either."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_WORDS = {
    'Latin': 'lorem', 'Cyrillic': 'слово', 'Greek': 'λόγος', 'Arabic': 'كلمة', 'Hebrew': 'מילה', 'Devanagari': 'शब्द',
    'Chinese': '文字', 'Japanese': 'ことば', 'Korean': '단어',
}  # fmt: skip
_VALUES = {'string': 'x', 'integer': 1, 'number': 1.5, 'boolean': True, 'array': [], 'object': {}}


def keeping(instructions: Sequence[Mapping[str, Any]]) -> str:
  """A text that keeps to all of the instructions, which do not contradict each other."""
  asked = {one['check']: one for one in instructions}
  if 'one_of' in asked:
    return asked['one_of']['options'][-1]
  if 'json_object' in asked:
    return '{"a": 1}'
  if 'json_fields' in asked:
    return json.dumps({name: _VALUES[kind] for name, kind in asked['json_fields']['fields'].items()})
  word = _WORDS[asked['script']['name']] if 'script' in asked else 'lorem'
  count = lambda name: asked[name]['count'] if name in asked else 0
  main = [f'{word} {word}.']
  main += [f'{asked["contains"]["word"]} ' * count('contains')] if 'contains' in asked else []
  main += [' '.join(asked['keywords']['words'])] if 'keywords' in asked else []
  main += [f'**{word}**'] * count('bold') + ['NB'] * count('capital_words')
  # A word and a mark have six characters at least, four in some scripts.
  main += [f'{word}.'] * max(count('least_words'), count('least_sentences'), count('least_characters') // 3)
  sentence = ' '.join(main)
  if 'begins_with' in asked:
    sentence = f'{asked["begins_with"]["phrase"]} {sentence}'
  if 'repeats' in asked:
    sentence = f'{asked["repeats"]["request"]}\n{sentence}'
  if 'quoted' in asked:
    sentence = f'"{sentence}'
  lines = [*([f'<<{word}>>'] if 'title' in asked else []), sentence]
  lines += [f'- {word}'] * count('bullets') + [f'{i + 1}. {word}' for i in range(count('numbered'))]
  lines += [f'# {word}'] * count('headings')
  lines += ['```', '1', '```'] if 'code_block' in asked else []
  lines += ['******'] if 'two_answers' in asked else []
  last = f'{word} {asked["ends_with"]["phrase"]}' if 'ends_with' in asked else word
  after = f'P.S. {word}' if 'postscript' in asked else ''
  lines += [word] * (count('lines') - len(lines) - 1 - bool(after))
  paragraphs = ['\n'.join([*lines, last])] + [word] * (count('paragraphs') - 1 - bool(after)) + [after] * bool(after)
  if 'ends_with' in asked:
    paragraphs[-1] = f'{paragraphs[-1]} {asked["ends_with"]["phrase"]}'
  text = '\n\n'.join(paragraphs) + '"' * ('quoted' in asked)
  return text.lower() if 'lower_case' in asked else text.upper() if 'upper_case' in asked else text


# By check: what keeps to it and what does not, at the edges of what it allows.
EDGES = [
    ({'check': 'most_words', 'count': 3}, ['a b c', ''], ['a b c d', 'a\nb\nc d']),
    ({'check': 'least_words', 'count': 3}, ['a b c', 'a  b\nc d'], ['a b', 'a-b-c']),
    ({'check': 'most_characters', 'count': 3}, ['abc', ' abc '], ['abcd', 'a bc']),
    ({'check': 'least_characters', 'count': 3}, ['abc'], ['ab', ' ab ']),
    (
        {'check': 'most_sentences', 'count': 2},
        ['One. Two.', 'v1.2 is out! "Yes?" ', 'a\n\nb'],
        ['One. Two? Three', 'a\n\nb\n\nc'],
    ),
    (
        {'check': 'least_sentences', 'count': 3},
        ['One. Two... Three!', 'A.\n\nB.\n\nC'],
        ['One. Two.', 'f(1.5, 2.5) is 3.5.', '. . .'],
    ),
    ({'check': 'lines', 'count': 2}, ['a\nb', 'a\n\n  \nb'], ['a', 'a\nb\nc']),
    ({'check': 'paragraphs', 'count': 2}, ['a\n\nb', 'a\nb\n \n\nc'], ['a\nb', 'a\n\nb\n\nc']),
    ({'check': 'begins_with', 'phrase': 'Sure!'}, ['Sure! a', '\nSure!'], ['sure! a', 'a Sure!']),
    ({'check': 'ends_with', 'phrase': 'The end.'}, ['a The end.\n'], ['The end', 'The end. a']),
    ({'check': 'contains', 'word': 'stone', 'count': 2}, ['Stone, stone.'], ['stone stones', 'millstone stone']),
    ({'check': 'keywords', 'words': ['a+b', 'tea']}, ['TEA a+b'], ['tea', 'teas a+b']),
    ({'check': 'forbidden', 'words': ['just', 'very']}, ['justice, every'], ['It is Just so.', 'very']),
    ({'check': 'lower_case'}, ['é a 1'], ['a B', '12', '']),
    ({'check': 'upper_case'}, ['A 1 É'], ['A b', '12']),
    ({'check': 'capital_words', 'count': 2}, ['AB, cd EF-G', '(HTTP) 3XX'], ['AB cd', 'I A', 'Ab EF']),
    ({'check': 'json_object'}, ['{}', ' {"a": [1]}\n'], ['[1]', '{"a": 1', '```json\n{}\n```', '1', '[' * 5000]),
    (
        {'check': 'json_fields', 'fields': {'n': 'integer', 'b': 'boolean'}},
        ['{"n": 2, "b": false}'],
        ['{"n": 2}', '{"n": 2, "b": 1}', '{"n": true, "b": true}', '{"n": 2, "b": true, "c": 1}', '{"n": 2.5, "b": true}',
         '[]'],
    ),
    ({'check': 'bullets', 'count': 2}, ['a\n- b\n* c', '  - b\n- c'], ['- b', '- b\n- c\n- d', '-b\n-c']),
    (
        {'check': 'numbered', 'count': 2},
        ['1. a\n2. b', 'x\n1) a\n\n2) b\ny'],
        ['1. a', '2. a\n1. b', '1. a\n2. b\n3. c', '1.5 a\n2'],
    ),
    ({'check': 'headings', 'count': 1}, ['# A\nb', 'a\n## B'], ['A', '# A\n# B', '#A', 'a # b']),
    ({'check': 'bold', 'count': 2}, ['**a** and **b c**', '**a** **b** **c**'], ['**a**', '*a* *b*', '** ** a']),
    ({'check': 'no_commas'}, ['a; b'], ['a, b', 'a、b']),
    ({'check': 'quoted'}, ['"a"', ' "a "b" c" '], ['a', '"a', '""', '" "', "'a'"]),
    ({'check': 'script', 'name': 'Cyrillic'}, ['Привет, мир 12!', 'абвгдежзик x'[:11]], ['hello мир', '12', 'Hello']),
    ({'check': 'script', 'name': 'Japanese'}, ['漢字とかな'], ['한국어', 'kana']),
    ({'check': 'code_block'}, ['a\n```python\nx\n```', '~~~\nx\n~~~'], ['x', '```\nx', 'a ``` b ```']),
    ({'check': 'no_code_block'}, ['`x`'], ['```\nx\n```', 'a ~~~ b']),
    (
        {'check': 'postscript'},
        ['a\n\nP.S. b', 'a\n\nb\nP.S. c\nd'],
        ['P.S. b', 'a\n\nP.S.', 'a P.S. b', 'a\nP.S. b\n\nc'],
    ),
    (
        {'check': 'two_answers'},
        ['a\n******\nb'],
        ['a', 'a\n******\na', '******\nb', 'a\n******\nb\n******\nc', 'a ****** b'],
    ),
    ({'check': 'title'}, ['<<A b>>\nc', '<<A>>'], ['A\n<<b>>', '<A>\nb', '<< >>\na', '<<A>> b']),
    (
        {'check': 'repeats', 'request': 'Do it, now.'},
        ['Do it, now. Done.', 'Do it, now.\nx'],
        ['Do it, now.', 'Do it now. x', 'x'],
    ),
    ({'check': 'one_of', 'options': ['yes', 'no']}, ['yes', ' no\n'], ['Yes', 'yes.', 'yes no', '']),
]  # fmt: skip
