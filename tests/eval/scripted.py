"""A suite of sums whose answers are scripted, for tests of runs: no model, and no sandbox but where one is asked for."""

from iquest_jax.eval.answers import Answer
from iquest_jax.eval.suite import MISSING, Outcome, Problem, Prompt, Suite
from iquest_jax.infer.sampler import Sampling


class Sums(Suite):
  """What is a + a? The answer 'again' asks for another; problem 5 needs what is not installed."""

  name, length, samples, sampling = 'sums', 7, 2, Sampling(temperature=0.5, seed=3)

  def problems(self, folder=None):
    return [Problem(f'sum/{a}', {'a': a}) for a in range(6)]

  def prompt(self, problem):
    question = f'{problem.fields["a"]} + {problem.fields["a"]} ='
    return Prompt(question, [{'role': 'user', 'content': question}], stop=['.'])

  def follow_up(self, problem, messages, pool):
    return [{'role': 'user', 'content': 'Well?'}] if messages[-1]['content'] == 'again' else []

  def extract(self, problem, answers):
    return answers[-1].strip()

  def grade(self, problem, extracted, pool):
    if problem.id == 'sum/5':
      return Outcome(MISSING, 'no abacus')
    return Outcome.when(extracted == str(2 * problem.fields['a']), f'said {extracted}', length=float(len(extracted)))


class Scripted:
  """Answers `say(asked)`, last asked first; `asked` collects what was asked. Dies before answer number `dies`."""

  def __init__(self, say=lambda asked: right(asked), dies: int = -1, model: str = 'script'):
    self.settings, self.asked, self._say, self._dies = {'model': model}, [], say, dies

  def answer(self, asked):
    for one in reversed(asked):
      if len(self.asked) == self._dies:
        raise KeyboardInterrupt
      self.asked.append(one)
      text = self._say(one)
      yield Answer(one.id, text, 'stop', len(text))


def question(asked) -> str:
  return asked.prompt.text or asked.prompt.messages[0]['content']


def right(asked) -> str:
  return str(2 * int(question(asked)[0]))
