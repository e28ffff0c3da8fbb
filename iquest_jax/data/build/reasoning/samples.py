"""One question about a program, before and after it was verified, and its form as a conversation."""

import ast
import dataclasses
import random
from collections.abc import Mapping, Sequence

from iquest_jax.data.documents import Conversation, Drop, content_id
from iquest_jax.sandbox.tracing import Outcome

# ours: how a question about inputs states the domain, the call, the result and the program.
INPUT_FORMS = (
    'For which {} does `{} == {}` hold? Name every such call.\n\n```python\n{}```',
    'Take {}. Which calls make `{} == {}` true? Name all of them.\n\n```python\n{}```',
)
EASY, MEDIUM = 8, 24  # ours: a question is easy or medium up to so many steps, of a program lines executed, else hard


@dataclasses.dataclass(frozen=True)
class Sample:
  """A question that a run of its program answers.

  Attributes:
    question: as the user asks it.
    expression: what the program is asked to evaluate (output), or the template of a call, 'f({})' (inputs).
    result: what it comes to, as `result_of` writes it: stated in the question of inputs, the answer of an output.
    domain: inputs only: the text of every argument list that the question allows.
    inputs: inputs only: those for which the call == `result`, in the order of `domain`.
    steps: the reasoning; that of an output ends with its result.
    lines: lines executed to find the answer, the measure of difficulty.
  """

  question: str
  expression: str
  result: str
  steps: str
  lines: int
  domain: tuple[str, ...] = ()
  inputs: tuple[str, ...] = ()

  def expressions(self) -> tuple[str, ...]:
    """Everything that must be executed to verify the sample."""
    return tuple(self.expression.format(each) for each in self.domain) if self.domain else (self.expression,)


def result_of(outcome: Outcome) -> str:
  """The value, or 'raises NAME'; '' if there is neither."""
  return outcome.text or (f'raises {outcome.error}' if outcome.error else '')


def verify(sample: Sample, runs: Mapping[str, Outcome]) -> tuple[str, ...] | Drop:
  """Holds a sample against a run that had no part in making it; returns the names of the checks it passed.

  Args:
    runs: the outcome of every expression of `sample.expressions()`, from a fresh run without a trace.
  """
  results = {text: result_of(runs[text]) if text in runs else '' for text in sample.expressions()}
  if not all(results.values()):
    return Drop('reasoning: not executed', next(text for text, result in results.items() if not result))
  if not sample.domain:
    if results[sample.expression] != sample.result:
      return Drop('reasoning: wrong output', f'{sample.expression} gives {results[sample.expression]}, not {sample.result}')
    if not ends_with(sample.steps, sample.result):
      return Drop('reasoning: trace does not end in the answer', f'{sample.steps[-80:]!r} and {sample.result}')
    return ('output executed again', 'trace ends in the answer')
  wanted = value_of(sample.result)
  valid = [each for each in sample.domain if value_of(results[sample.expression.format(each)]) == wanted]
  if wrong := [each for each in sample.inputs if each not in valid]:
    return Drop('reasoning: wrong input', f'{wrong[0]} does not give {sample.result}')
  if list(sample.inputs) != valid:
    return Drop('reasoning: incomplete set', f'{len(sample.inputs)} of {len(valid)} inputs give {sample.result}')
  if not valid:
    return Drop('reasoning: no input', sample.result)
  if not ends_with(sample.steps, answer_of(sample)):
    return Drop('reasoning: trace does not end in the answer', f'{sample.steps[-80:]!r} and {answer_of(sample)}')
  return ('all inputs of the domain executed again',)


def ends_with(steps: str, answer: str) -> bool:
  """Whether the last word of the reasoning is the answer, not a longer value that ends alike."""
  return steps == answer or steps.endswith((f' {answer}', f'\n{answer}'))


def answer_of(sample: Sample) -> str:
  """What the assistant says in the end: the result, or every call that gives it."""
  return ', '.join(map(sample.expression.format, sample.inputs)) if sample.domain else sample.result


def value_of(result: str) -> object:
  """What a result is compared by, as Python's == does: True is 1 and 1.0 is 1. An exception equals nothing but itself."""
  try:
    return ast.literal_eval(result)
  except (ValueError, SyntaxError):  # 'raises NAME'
    return result, 'not a literal'


def output_question(source: str, call: str, rng: random.Random) -> str:
  """A question for what a call returns, in one of several forms (ours)."""
  question = rng.choice((
      'What does `{}` return?{}\n\n```python\n{}```',
      'Give the value of `{}`.{}\n\n```python\n{}```',
      'Complete the assertion `assert {} == ??`.{}\n\n```python\n{}```',
  ))  # fmt: skip
  return question.format(call, ' If it raises an exception, name it.' if 'raise ' in source else '', source)


def inputs_sample(
    source: str, name: str, parameters: Sequence[str], statement: str, outcomes: Mapping[str, Outcome], rng: random.Random,
    forms: Sequence[str] = INPUT_FORMS,
) -> Sample | None:
  """A question about the inputs of a domain that give a result; None if no result tells few of them from the rest.

  A result that several inputs give is preferred.

  Args:
    name, parameters: of the function.
    statement: the domain as the question states it.
    outcomes: of the call with every argument list of the domain, in order.
    forms: of the question, see INPUT_FORMS.
  """
  if any(outcome.stopped for outcome in outcomes.values()):
    return None
  results = {each: result_of(outcome) for each, outcome in outcomes.items()}
  values = {text: value_of(text) for text in results.values()}
  valid = {text: tuple(each for each, other in results.items() if values[other] == values[text]) for text in values}
  targets = [
      text
      for text, chosen in valid.items()
      if not text.startswith('raises ') and text != 'None' and len(chosen) <= max(1, len(results) // 3)
  ]  # fmt: skip
  if not targets:
    return None
  target = rng.choice([text for text in targets if len(valid[text]) > 1] or targets)
  call = f'{name}({{}})'
  question = rng.choice(forms).format(statement, call.format(', '.join(parameters)), target, source)
  lines = sum(outcome.steps for outcome in outcomes.values())
  sample = Sample(question, call, target, '', lines, tuple(results), valid[target])
  steps = [f'{call.format(each)} = {text}' for each, text in results.items()]
  return dataclasses.replace(sample, steps='\n'.join([*steps, f'{target}: {answer_of(sample)}']))


def conversation(sample: Sample, checks: tuple[str, ...], thinking: bool, repo: str = '') -> Conversation:
  """The sample as a chat; its id is that of its question.

  Args:
    thinking: the steps go in front of the answer as thinking; otherwise they are part of it.
  """
  answer = answer_of(sample)
  message = {'role': 'assistant'}
  if thinking:
    message |= {'thinking': sample.steps, 'content': answer}
  else:
    message |= {'content': f'{sample.steps}\nAnswer: {answer}'}
  messages = ({'role': 'user', 'content': sample.question}, message)
  return Conversation(content_id(sample.question), messages, repo=repo, difficulty=difficulty(sample.lines), checks=checks)


def difficulty(steps: int) -> str:
  """One of documents.DIFFICULTIES, by the number of steps to an answer."""
  return 'easy' if steps <= EASY else 'medium' if steps <= MEDIUM else 'hard'
