"""Calls a function in Java, C++, Go or Rust with plain data: a program around it makes the calls and prints the results.

Types come from the cases: whole numbers of 64 bits, floats, booleans, text, and lists of one of these. Results are printed
one value per line, lists between brackets, text in hexadecimal, so that a language's own way of printing does not matter.
What is expected is not in the program.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from iquest_jax.data.synthesis.cases import Case

# 'int', 'float', 'bool', 'str', or ('list', type); '' is the type of the items of a list that is always empty.
Type = str | tuple[str, Any]
_LARGEST = 1 << 62
_DIGITS = 12  # of floats; libraries differ in the last ones


@dataclasses.dataclass(frozen=True)
class Language:
  """Templates of a language.

  Attributes:
    types: names of 'int', 'float', 'bool' and 'str'; `parts` has those that differ inside a list.
    list: type of a list of {0}.
    items: list of {0} with the values {1}.
    values: literals of 'int' and 'str'; other literals are the same in all languages.
    prints: statements that print {0} of a type; {1} is a free name.
    each: runs {2} for each {1} of the list {0}.
    line: prints the word {0}.
    call: assigns the result of function {0} with arguments {1} to r of type {2}.
    program: the code {0} and a main program with the statements {1}.
    signature: tells a translator about function {0} with parameters of types {1} and a result of type {2}.
  """

  types: dict[str, str]
  list: str
  items: str
  values: dict[str, str]
  prints: dict[str, str]
  each: str
  line: str
  call: str
  program: str
  signature: str
  parts: dict[str, str] = dataclasses.field(default_factory=dict)


_SIGNATURE = 'parameters of the types ({1}) in this order and a result of type {2}'
LANGUAGES = {
    'java': Language(
        types={'int': 'long', 'float': 'double', 'bool': 'boolean', 'str': 'String'},
        parts={'int': 'Long', 'float': 'Double', 'bool': 'Boolean'},
        list='java.util.List<{0}>',
        items='new java.util.ArrayList<{0}>(java.util.List.of({1}))',
        values={'int': '{0}L', 'str': '{0}'},
        prints={
            'int': 'System.out.println({0});',
            'float': f'System.out.println(new java.math.BigDecimal({{0}}).round(new java.math.MathContext({_DIGITS})));',
            'bool': 'System.out.println({0});',
            'str': 'System.out.print("s"); for (byte {1} : {0}.getBytes(java.nio.charset.StandardCharsets.UTF_8)) '
                   'System.out.printf("%02x", {1}); System.out.println();',
        },
        each='for (var {1} : {0}) {{ {2} }}',
        line='System.out.println("{0}");',
        call='{2} r = Solution.{0}({1});',
        program='{0}\nclass Main {{\n  public static void main(String[] arguments) {{\n{1}\n  }}\n}}\n',
        signature=f'a class `Solution` with a static method `{{0}}` that has {_SIGNATURE}',
    ),
    'cpp': Language(
        types={'int': 'long long', 'float': 'double', 'bool': 'bool', 'str': 'std::string'},
        list='std::vector<{0}>',
        items='std::vector<{0}>{{{1}}}',
        values={'int': '{0}LL', 'str': 'std::string({0})'},
        prints={
            'int': 'std::puts(std::to_string({0}).c_str());',  # a result of another type is not cut to a whole number
            'float': f'std::printf("%.{_DIGITS}g\\n", (double)({{0}}));',
            'bool': 'std::puts({0} ? "true" : "false");',
            'str': 'std::putchar(\'s\'); for (unsigned char {1} : {0}) std::printf("%02x", {1}); std::puts("");',
        },
        each='for (const auto& {1} : {0}) {{ {2} }}',
        line='std::puts("{0}");',
        call='auto r = {0}({1});',
        program='#include <cstdio>\n#include <string>\n#include <vector>\n{0}\nint main() {{\n{1}\n}}\n',
        signature=f'a function `{{0}}` with {_SIGNATURE}; no `main`',
    ),
    'go': Language(
        types={'int': 'int64', 'float': 'float64', 'bool': 'bool', 'str': 'string'},
        list='[]{0}',
        items='[]{0}{{{1}}}',
        values={'int': '{0}', 'str': '{0}'},
        prints={
            'int': 'harness.Printf("%d\\n", {0})',
            'float': f'harness.Printf("%.{_DIGITS}g\\n", {{0}})',
            'bool': 'harness.Printf("%t\\n", {0})',
            'str': 'harness.Printf("s%x\\n", []byte({0}))',
        },
        each='for _, {1} := range {0} {{ {2} }}',
        line='harness.Println("{0}")',
        call='r := {0}({1});',
        program='{0}\nfunc main() {{\n{1}\n}}\n',
        signature=f'a file of `package main` with a function `{{0}}` that has {_SIGNATURE}; no `main`',
    ),
    'rust': Language(
        types={'int': 'i64', 'float': 'f64', 'bool': 'bool', 'str': 'String'},
        list='Vec<{0}>',
        items='Vec::<{0}>::from([{1}])',
        values={'int': '{0}i64', 'str': 'String::from({0})'},
        prints={
            'int': 'println!("{{}}", {0});',
            'float': f'println!("{{{{:.{_DIGITS - 1}e}}}}", {{0}});',
            'bool': 'println!("{{}}", {0});',
            'str': 'print!("s"); for {1} in {0}.bytes() {{ print!("{{:02x}}", {1}); }} println!();',
        },
        each='for {1} in {0}.iter() {{ {2} }}',
        line='println!("{0}");',
        call='let r: {2} = {0}({1});',
        program='{0}\nfn main() {{\n{1}\n}}\n',
        signature=f'a function `{{0}}` with {_SIGNATURE}; no `main`',
    ),
}  # fmt: skip


def types(cases: Sequence[Case]) -> tuple[list[Type], Type] | None:
  """(Types of the parameters, type of the result) of the calls; None if they have none that all languages know."""
  if len({len(case.given) for case in cases}) != 1:
    return None
  columns = [*zip(*(case.given for case in cases)), [case.expected for case in cases]]
  found = [_common([_type(value) for value in column]) for column in columns]
  return (found[:-1], found[-1]) if None not in found else None


def signature(language: str, function: str, cases: Sequence[Case]) -> str:
  """What a translator must be told about a function of cases that have types."""
  into, (given, result) = LANGUAGES[language], types(cases)
  name = lambda kind: _name(into, kind).replace('java.util.', '').replace('std::', '')
  return into.signature.format(function, ', '.join(map(name, given)), name(result))


def program(language: str, code: str, function: str, cases: Sequence[Case]) -> tuple[str, str]:
  """(A program, what it prints if the function is right) of cases that have types."""
  into, (given, result) = LANGUAGES[language], types(cases)
  calls = []
  for case in cases:
    arguments = ', '.join(_value(into, kind, value) for kind, value in zip(given, case.given))
    call = into.call.format(function, arguments, _name(into, result))
    calls.append(f'{{ {call} {_printed(into, result, "r", 0)} }}')
  if language == 'go':  # under a name of our own: the code may import it too
    code = re.sub(r'^[ \t]*package[ \t]+main\b[ \t]*;?', 'package main; import harness "fmt";', code, count=1, flags=re.M)
  if language == 'java':  # the file is called Main.java
    code = re.sub(r'^public\s+(?=(final\s+)?class\b)', '', code, flags=re.M)
  expected = ''.join(f'{line}\n' for case in cases for line in _lines(case.expected))
  return into.program.format(code, '\n'.join(calls)), expected


def _type(value: Any) -> Type | None:
  match value:
    case bool():
      return 'bool'
    case int():
      return 'int' if abs(value) < _LARGEST else None
    case float():
      return 'float'
    case str():
      # Escapes of other characters differ between languages.
      return 'str' if all(char.isprintable() or char in '\n\t' for char in value) else None
    case list():
      kind = _common([_type(item) for item in value])
      return None if kind is None else ('list', kind)
  return None


def _common(kinds: Sequence[Type | None]) -> Type | None:
  """The type of all these; '' if there are none, None if there is no such type."""
  kinds = set(kinds) - {''}
  if None in kinds:
    return None
  if len(kinds) < 2:
    return next(iter(kinds), '')
  if kinds == {'int', 'float'}:
    return 'float'
  if all(isinstance(kind, tuple) for kind in kinds):
    inner = _common([kind[1] for kind in kinds])
    return None if inner is None else ('list', inner)
  return None


def _name(into: Language, kind: Type, inside: bool = False) -> str:
  if isinstance(kind, tuple):
    return into.list.format(_name(into, kind[1], inside=True))
  kind = kind or 'int'  # of lists that are always empty
  return into.parts.get(kind, into.types[kind]) if inside else into.types[kind]


def _value(into: Language, kind: Type, value: Any) -> str:
  if isinstance(kind, tuple):
    items = ', '.join(_value(into, kind[1], item) for item in value)
    return into.items.format(_name(into, kind[1], inside=True), items)
  if kind == 'str':
    escaped = value.replace('\\', '\\\\').replace('"', '\\"').replace('\n', '\\n').replace('\t', '\\t')
    return into.values['str'].format(f'"{escaped}"')
  if kind == 'int':
    return into.values['int'].format(value)
  return repr(float(value)) if kind == 'float' else str(value).lower()


def _printed(into: Language, kind: Type, name: str, depth: int) -> str:
  """Statements that print a variable."""
  free = f'item{depth}'
  if not isinstance(kind, tuple):
    return into.prints[kind or 'int'].format(name, free)
  each = into.each.format(name, free, _printed(into, kind[1], free, depth + 1))
  apart = '; ' if into is LANGUAGES['go'] else ' '
  return apart.join([into.line.format('['), each, into.line.format(']')])


def _lines(value: Any) -> list[str]:
  """What the programs print for a value."""
  match value:
    case list():
      return ['[', *(line for item in value for line in _lines(item)), ']']
    case bool():
      return [str(value).lower()]
    case float():
      return [format(value, f'.{_DIGITS}g')]
    case str():
      return ['s' + value.encode().hex()]
  return [str(value)]
