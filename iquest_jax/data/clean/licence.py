"""Licences: found in the licence files of a repository and in SPDX headers, and held against an allow-list.

Expressions are SPDX's (AND, OR, WITH). A text is known by phrases that its licence alone holds; which phrases, and which
licences are allowed by default, is ours.
"""

import re
from collections.abc import Collection, Iterable

from iquest_jax.data.documents import Document, Drop, Repository

# Those that ask for no more than to keep the notice.
PERMISSIVE = (
    '0BSD', 'Apache-2.0', 'Artistic-2.0', 'BlueOak-1.0.0', 'BSD-2-Clause', 'BSD-3-Clause', 'BSL-1.0', 'CC-BY-4.0',
    'CC0-1.0', 'HPND', 'ISC', 'MIT', 'MIT-0', 'MIT-CMU', 'MS-PL', 'MulanPSL-2.0', 'NCSA', 'PostgreSQL', 'PSF-2.0',
    'Python-2.0', 'Unlicense', 'UPL-1.0', 'WTFPL', 'Zlib',
)  # fmt: skip

_BSD = 'redistribution and use in source and binary forms, with or without modification, are permitted'
# The slash of 'and/or' is noise.
_GRANTED = 'this software for any purpose with or without fee is hereby granted'
_ISC = f'permission to use, copy, modify, and or distribute {_GRANTED}'
_CMU = 'permission to use, copy, modify and distribute this software and its'
_HPND = 'permission to use, copy, modify, and distribute this software and its documentation'
_MIT = 'permission is hereby granted, free of charge, to any person obtaining a copy'
# (SPDX identifier, phrases that the text holds, phrases that it must not hold), in lower case and with single spaces.
_TEXTS = (
    ('Apache-2.0', ('apache license version 2.0, january 2004',), ()),
    ('Apache-2.0', ('licensed under the apache license, version 2.0',), ('apache license version 2.0, january 2004',)),
    ('MIT', (_MIT, 'permission notice'), ('university of illinois',)),
    ('MIT-0', (_MIT,), ('permission notice', 'boost software', 'universal permissive', 'redistributions of source')),
    ('NCSA', (_MIT, 'redistributions of source'), ()),
    ('BSD-4-Clause', (_BSD, 'all advertising materials'), ()),
    ('BSD-3-Clause', (_BSD, 'endorse or promote'), ('all advertising materials',)),
    ('BSD-2-Clause', (_BSD,), ('endorse or promote', 'all advertising materials')),
    ('ISC', (f'{_GRANTED}, provided',), ()),
    ('0BSD', (_ISC,), (_ISC + ', provided',)),
    ('MIT-CMU', (_CMU, 'without fee is hereby granted'), ()),
    ('HPND', (_HPND, 'fee is hereby granted'), ()),
    ('PostgreSQL', (_HPND, 'without fee, and without a written agreement is hereby granted'), ()),
    ('MPL-2.0', ('mozilla public license version 2.0',), ()),
    ('MPL-2.0', ('mozilla public license, v. 2.0',), ('mozilla public license version 2.0',)),
    ('MPL-1.1', ('mozilla public license version 1.1',), ()),
    ('AGPL-3.0-only', ('gnu affero general public license version 3, 19 november 2007',), ()),
    ('LGPL-3.0-only', ('gnu lesser general public license version 3, 29 june 2007',), ()),
    ('LGPL-2.1-only', ('gnu lesser general public license version 2.1, february 1999',), ()),
    ('LGPL-2.0-only', ('gnu library general public license version 2, june 1991',), ()),
    ('GPL-3.0-only', ('gnu general public license version 3, 29 june 2007',), ('gcc runtime library exception',)),
    ('GPL-3.0-only WITH GCC-exception-3.1', ('gcc runtime library exception version 3.1',), ()),
    ('GPL-2.0-only', ('gnu general public license version 2, june 1991',), ()),
    ('GPL-1.0-only', ('gnu general public license version 1, february 1989',), ()),
    ('Unlicense', ('this is free and unencumbered software released into the public domain',), ()),
    ('CC0-1.0', ('cc0 1.0 universal',), ()),
    ('CC-BY-4.0', ('attribution 4.0 international',), ('noncommercial 4.0', 'sharealike 4.0', 'noderivatives 4.0')),
    ('CC-BY-SA-4.0', ('attribution-sharealike 4.0 international',), ()),
    ('CC-BY-NC-4.0', ('attribution-noncommercial 4.0 international',), ()),
    ('CC-BY-NC-SA-4.0', ('attribution-noncommercial-sharealike 4.0 international',), ()),
    ('CC-BY-ND-4.0', ('attribution-noderivatives 4.0 international',), ()),
    ('CC-BY-NC-ND-4.0', ('attribution-noncommercial-noderivatives 4.0 international',), ()),
    ('Zlib', ('altered source versions must be plainly marked as such',), ()),
    ('BSL-1.0', ('boost software license - version 1.0',), ()),
    ('PSF-2.0', ('python software foundation license version 2',), ()),
    ('WTFPL', ('do what the fuck you want to public license',), ()),
    ('EPL-1.0', ('eclipse public license - v 1.0',), ()),
    ('EPL-2.0', ('eclipse public license - v 2.0',), ()),
    ('Artistic-2.0', ('the artistic license 2.0',), ()),
    ('BlueOak-1.0.0', ('blue oak model license',), ()),
    ('UPL-1.0', ('universal permissive license (upl)',), ()),
    ('UPL-1.0', ('the universal permissive license',), ('universal permissive license (upl)',)),
    ('MS-PL', ('microsoft public license (ms-pl)',), ()),
    ('MulanPSL-2.0', ('mulan permissive software license',), ()),
    ('BUSL-1.1', ('business source license 1.1',), ()),
    ('SSPL-1.0', ('server side public license version 1',), ()),
    ('CDDL-1.0', ('common development and distribution license',), ()),
)  # fmt: skip
# A licence may hold the phrases of a lesser one.
_IMPLIES = {'HPND': ('PostgreSQL', 'ISC'), 'GPL-3.0-only': ('LGPL-3.0-only',)}
_LICENCE_FILE = re.compile(
    r'(?:[\w-]+[-_.])?(?:un)?licen[cs]es?(?:[-_.].{1,40})?|copying(?:[-_.].{1,40})?|copyright(?:\.\w{1,4})?'
    r'|(?:mit|apache|bsd)\.(?:txt|md)',
    re.IGNORECASE,
)
_CHOICE_FILE = re.compile(r'licen[cs]e[-_.](?!md$|txt$|rst$|html$)\w|\w[-_]licen[cs]e', re.IGNORECASE)
_NOISE = re.compile(r'[\s"\'`\u2018-\u201f*#_=>|/;]+')
_HEADER = re.compile(r'SPDX-License-Identifier:[ \t]*([^\n]{1,200})')
_HEADER_END = re.compile(r'\s*(?:\*/|-->|\*\)|#\}|--\]\]|"|\'|\\n|@|,).*')
_MANIFEST = {
    'package.json': re.compile(r'^\s{0,8}"license":\s*"([^"\n]{1,200})"', re.MULTILINE),
    'composer.json': re.compile(r'^\s{0,8}"license":\s*"([^"\n]{1,200})"', re.MULTILINE),
    'cargo.toml': re.compile(r'^license\s*=\s*"([^"\n]{1,200})"', re.MULTILINE),
    'pyproject.toml': re.compile(r'^license\s*=\s*(?:\{\s*text\s*=\s*)?["\']([^"\'\n]{1,200})["\']', re.MULTILINE),
    'setup.cfg': re.compile(r'^license\s*=\s*(\S[^\n]{0,200})', re.MULTILINE),
}
_TOKEN = re.compile(r'\s*([()]|[A-Za-z0-9][\w.+:-]*)\s*')
_LONGEST_EXPRESSION, _HEAD = 500, 4096


def check(document: Document, allow: Collection[str] = PERMISSIVE) -> Drop | None:
  """Why a document may not be used; None if it may, or if its kind carries no licence.

  A header in a file says more than the licence of its repository. A repository without a licence of its own has that of
  its licence files.

  Args:
    allow: SPDX identifiers; '' among them lets in what has no licence that we know.
  """
  expression = getattr(document, 'licence', None)
  if expression is None:
    return None
  if isinstance(document, Repository):
    expression = expression or licence_of(document.files)
  else:
    expression = header(document.text) or expression
  if is_allowed(expression, allow):
    return None
  return Drop('licence: not allowed', expression) if expression else Drop('licence: unknown')


def check_header(path: str, text: str, allow: Collection[str] = PERMISSIVE) -> str | Drop:
  """A file of a repository that is allowed, unless the file's own header says another licence that is not."""
  del path
  expression = header(text)
  return text if not expression or is_allowed(expression, allow) else Drop('licence: header not allowed', expression)


def header(text: str) -> str:
  """The expression after 'SPDX-License-Identifier:' in the first 4 KiB; '' if there is none."""
  if 'SPDX-License-Identifier:' not in text[:_HEAD]:
    return ''
  match = _HEADER.search(text, 0, _HEAD)
  return _HEADER_END.sub('', match[1]).strip() if match else ''


def says_licence(path: str) -> bool:
  """Whether `licence_of` would look at a file of this path."""
  folder, _, name = path.rpartition('/')
  return folder == 'LICENSES' or _LICENCE_FILE.fullmatch(name) is not None or name.lower() in _MANIFEST


def licence_of(files: Iterable[tuple[str, str]]) -> str:
  """The SPDX expression of a repository; '' if unknown.

  Several licence files all hold, unless their names offer a choice (LICENSE-MIT beside LICENSE-APACHE). Without a licence
  file the manifest of the package says it.

  Args:
    files: (path, text) of the repository; those nearest to its root count.
  """
  found, manifests = [], []
  for path, text in files:
    folder, _, name = path.rpartition('/')
    depth = folder.count('/') + 1 if folder else 0
    # REUSE keeps licences, one a file, in a folder of this name; each is used somewhere.
    if folder == 'LICENSES' or _LICENCE_FILE.fullmatch(name):
      found.append((0 if folder == 'LICENSES' else depth, name, text))
    elif name.lower() in _MANIFEST:
      manifests.append((depth, name, text))
  nearest = sorted(entry for entry in found if entry[0] == min(found)[0])
  expressions = [(name, expression) for _, name, text in nearest if (expression := of_text(text))]
  if expressions:
    choice = len(expressions) > 1 and all(_CHOICE_FILE.match(name) for name, _ in expressions)
    return _joined([expression for _, expression in expressions], ' OR ' if choice else ' AND ')
  for _, name, text in sorted(manifests):
    if match := _MANIFEST[name.lower()].search(text):
      return match[1].strip().replace('/', ' OR ')
  return ''


def of_text(text: str) -> str:
  """The SPDX expression of a licence's text; several licences in one file all hold. '' if none is known."""
  if expression := header(text):
    return expression
  plain = _NOISE.sub(' ', text[: 1 << 20].lower()).replace('licence', 'license')
  holds = lambda phrase: phrase in plain
  found = [name for name, held, missing in _TEXTS if all(map(holds, held)) and not any(map(holds, missing))]
  return _joined(found, ' AND ')


def is_allowed(expression: str, allow: Collection[str] = PERMISSIVE) -> bool:
  """Whether an SPDX expression can be met by allowed licences alone.

  An exception (WITH) only adds permissions. '-only', '-or-later' and '+' make no difference. '' is allowed if `allow` has
  it; what cannot be parsed is not.
  """
  names = {_base(name) for name in allow}
  if not expression.strip() or len(expression) > _LONGEST_EXPRESSION:
    return not expression.strip() and '' in names
  # Shunting yard, so that parentheses cannot exhaust the stack.
  values, operators, place, wants_value = [], [], 0, True
  while match := _TOKEN.match(expression, place):
    token, place = match[1], match.end()
    upper = token.upper()
    if token == '(' and wants_value:
      operators.append(token)
    elif token == ')' and not wants_value:
      while operators and operators[-1] != '(':
        _apply(operators.pop(), values)
      if not operators:
        return False
      operators.pop()
    elif upper in ('AND', 'OR') and not wants_value:
      while operators and operators[-1] != '(' and (operators[-1] == 'AND' or upper == 'OR'):
        _apply(operators.pop(), values)
      operators.append(upper)
      wants_value = True
    elif upper == 'WITH' and not wants_value:
      exception = _TOKEN.match(expression, place)
      if not exception or exception[1] in '()':
        return False
      place = exception.end()
    elif token not in '()' and wants_value and upper not in ('AND', 'OR', 'WITH'):
      values.append(_base(token) in names)
      wants_value = False
    else:
      return False
  if place < len(expression) or wants_value or '(' in operators:
    return False
  while operators:
    _apply(operators.pop(), values)
  return values == [True]


def _apply(operator: str, values: list[bool]) -> None:
  right, left = values.pop(), values.pop()
  values.append(left and right if operator == 'AND' else left or right)


def _base(name: str) -> str:
  return name.lower().removesuffix('+').removesuffix('-only').removesuffix('-or-later')


def _joined(expressions: Iterable[str], operator: str) -> str:
  unique = list(dict.fromkeys(expressions))
  unique = [name for name in unique if not any(other in unique for other in _IMPLIES.get(name, ()))]
  if len(unique) == 1:
    return unique[0]
  return operator.join(f'({name})' if ' AND ' in name or ' OR ' in name else name for name in unique)
