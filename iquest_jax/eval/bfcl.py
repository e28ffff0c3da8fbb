"""BFCL, single turn: calls of the given functions, compared with the allowed ones by the official rules.

Source: the package `bfcl-eval`, which ships the files. A call is a <tool_call>, or Python text like `[f(x=1), g(y=2)]`.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.errors import UserError
from iquest_jax.eval import bfcl_values, literals, read
from iquest_jax.eval.suite import Outcome, Problem, Prompt, Suite
from iquest_jax.infer.sampler import Sampling
from iquest_jax.sandbox.pool import Pool
from iquest_jax.text import chat, extract

SAMPLING = Sampling(temperature=0.01, top_p=0.85)


class Bfcl(Suite):
  """One category of calls in a single turn."""

  sampling = SAMPLING
  package = 'bfcl_eval'

  def __init__(self, category: str):
    self.name, self._category = f'bfcl_{category}', category
    self.language = {'simple_java': 'java', 'simple_javascript': 'javascript'}.get(category, 'python')

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    records = with_answers(folder, self._category, {'id': str, 'question': list, 'function': list})
    for where, fields in records:
      for function in fields['function']:
        check_function(where, function, self.language)
      for truth in fields['ground_truth']:
        name = next(iter(truth), '') if isinstance(truth, dict) else ''
        if not any(function['name'] == name for function in fields['function']):
          raise UserError(f'{where}: the answer calls "{name}", not one of its functions; download both files again')
    return [Problem(fields['id'], fields) for _, fields in records]

  def prompt(self, problem: Problem) -> Prompt:
    tools = [definition(function, self.language) for function in problem.fields['function']]
    return Prompt(messages=problem.fields['question'][0], tools=tools)

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    return json.dumps(calls_of(answers[-1], problem.fields['function'] if self.language == 'python' else ()))

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    calls, truths = json.loads(extracted), problem.fields['ground_truth']
    if len(calls) != len(truths):
      return Outcome.when(False, f'{len(calls)} calls, {len(truths)} expected')
    functions = {function['name']: function for function in problem.fields['function']}
    for truth in truths:  # In any order; a call stands for the first truth that it satisfies.
      ((name, allowed),) = truth.items()
      reasons = [bfcl_values.mismatch(call, functions[name], allowed, self.language) for call in calls]
      if '' not in reasons:
        return Outcome.when(False, reasons[0])
      del calls[reasons.index('')]
    return Outcome.when(True)


def with_answers(folder: pathlib.Path, category: str, fields: Mapping[str, type]) -> list[tuple[str, dict[str, Any]]]:
  """(where, record) per problem of a category, its `ground_truth` added."""
  path = read.find(folder, f'BFCL_v4_{category}.json')
  answers_path = path.parent / 'possible_answer' / path.name
  if not answers_path.is_file():
    raise UserError(f'--data: {path.parent} must have {path.name} and possible_answer/{path.name}; download both there')
  answers = {one['id']: one for one in read.records(answers_path, {'id': str, 'ground_truth': list})}
  found = []
  for record in read.records(path, fields):
    if record['id'] not in answers:
      raise UserError(f'{answers_path}: has no answer for {record["id"]}; download both files again')
    found.append((f'{path}: {record["id"]}', record | {'ground_truth': answers[record['id']]['ground_truth']}))
  return found


def check_function(where: str, function: Any, language: str) -> None:
  """Raises UserError unless a definition has what the rules need."""
  try:
    described = list(function['parameters']['properties'].values())
    types = [one['type'] for one in described] + [
        one['items']['type'] for one in described if 'type' in one.get('items', {})
    ]
    function['name'], list(function['parameters']['required'])
  except (TypeError, KeyError, AttributeError):
    raise UserError(f'{where}: a function must have a name and parameters; is it the official file?') from None
  if unknown := set(map(str, types)) - bfcl_values.TYPES[language].keys():
    raise UserError(f'{where}: type "{sorted(unknown)[0]}" is not one of {language}; this reads version 4 of the file')


def definition(function: Mapping[str, Any], language: str = 'python') -> dict[str, Any]:
  """A function as tools are defined for a chat. Values of Java and JavaScript are asked for as text in that language."""
  properties = {}
  for name, described in function['parameters']['properties'].items():
    one = _schema(described)
    if language != 'python':
      kind = f'{described["type"]} of {described["items"]["type"]}' if 'items' in described else described['type']
      said = f'{described.get("description", "")} Written as in {language}, as a string; its type there: {kind}.'
      one = {'type': 'string', 'description': said.strip()}
    properties[name] = one
  parameters = {'type': 'object', 'properties': properties, 'required': function['parameters']['required']}
  return {'name': function['name'], 'description': function.get('description', ''), 'parameters': parameters}


def _schema(described: Mapping[str, Any]) -> dict[str, Any]:
  """A parameter's description with the types that JSON Schema knows."""
  schema = dict(described)
  if isinstance(described.get('type'), str):
    schema['type'] = bfcl_values.SCHEMA.get(described['type'], described['type'])
  if isinstance(described.get('items'), dict):
    schema['items'] = _schema(described['items'])
  if isinstance(described.get('properties'), dict):
    schema['properties'] = {name: _schema(one) for name, one in described['properties'].items()}
  return schema


def calls_of(answer: str, functions: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
  """The calls of an answer as {'name', 'positional', 'arguments'}, in order; none if any is malformed.

  Args:
    functions: definitions, which say what the arguments of the XML form, all of them text, are meant to be.
  """
  reply = chat.parse(answer)
  if reply.problems or not all(_is_shallow(call['arguments']) for call in reply.tool_calls):
    return []
  if reply.tool_calls:
    calls = [{'positional': []} | call for call in reply.tool_calls]
    return [bfcl_values.typed(call, functions) for call in calls] if '<function=' in answer else calls
  text = extract.without_thinking(answer).strip()
  if blocks := extract.blocks(text):
    text = blocks[-1].text
  return literals.calls(text.strip('` \n')) or []


def _is_shallow(value: Any, levels: int = 100) -> bool:
  """Whether a value is nested no deeper than `levels`: what can be parsed cannot always be written again."""
  inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
  return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


_CATEGORIES = ('simple_python', 'simple_java', 'simple_javascript', 'multiple', 'parallel', 'parallel_multiple')
SUITES = {category: Bfcl(category) for category in _CATEGORIES}
SIMPLE_PYTHON, SIMPLE_JAVA, SIMPLE_JAVASCRIPT, MULTIPLE, PARALLEL, PARALLEL_MULTIPLE = SUITES.values()
