"""One question about a program, before and after it was verified, and its form as a conversation."""

import ast
import dataclasses
import random
from collections.abc import Mapping

from iquest_jax.data.documents import Conversation, Drop, content_id
from iquest_jax.sandbox.tracing import Outcome

EASY, MEDIUM = 8, 24  # ours: a question is easy or medium up to so many lines executed, else hard


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
  valid = [each for each in sample.domain if same(results[sample.expression.format(each)], sample.result)]
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


def same(one: str, other: str) -> bool:
  """Whether two results are the same to a reader, who takes True for 1 and 1.0 for 1."""
  if one == other:
    return True
  try:
    return ast.literal_eval(one) == ast.literal_eval(other)
  except (ValueError, SyntaxError):
    return False


def conversation(sample: Sample, checks: tuple[str, ...], thinking: bool) -> Conversation:
  """The sample as a chat.

  Args:
    thinking: the steps go in front of the answer as thinking; otherwise they are part of it.
  """
  answer = answer_of(sample)
  message = {'role': 'assistant'}
  if thinking:
    message |= {'thinking': sample.steps, 'content': answer}
  else:
    message |= {'content': f'{sample.steps}\nAnswer: {answer}'}
  difficulty = 'easy' if sample.lines <= EASY else 'medium' if sample.lines <= MEDIUM else 'hard'
  messages = ({'role': 'user', 'content': sample.question}, message)
  identity = content_id(sample.question, message['content'])
  return Conversation(identity, messages, difficulty=difficulty, checks=checks)
