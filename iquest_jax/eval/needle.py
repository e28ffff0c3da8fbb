"""Retrieval from long contexts: one fact in prose, and one function in a repository, at five depths and any size.

Ours, and no published benchmark: the problems are a function of (suite, size) alone, and no file is read. A size is in
KB of text; how many tokens that is depends on the tokenizer, and a prompt that does not fit the context scores 0.
"""

import pathlib
import random
import re
from collections.abc import Mapping, Sequence

from iquest_jax.eval.suite import Outcome, Problem, Prompt, Suite
from iquest_jax.sandbox.pool import Pool
from iquest_jax.text import extract

DEPTHS = (0, 25, 50, 75, 100)  # percent of the context in front of what is asked for
_PER_DEPTH = 4
_PLACES = (
    'archive',
    'bakery',
    'cellar',
    'dairy',
    'embassy',
    'foundry',
    'garage',
    'harbor',
    'icehouse',
    'kennel',
    'mill',
)
_NOUNS = ('river', 'lantern', 'market', 'orchard', 'bridge', 'winter', 'letter', 'garden', 'engine', 'window', 'valley')
_VERBS = (
    'follows',
    'crosses',
    'remembers',
    'borrows',
    'paints',
    'repairs',
    'measures',
    'carries',
    'answers',
    'forgets',
)


class _Retrieval(Suite):
  """Problems with `before`, `target`, `after`, `lead`, `question` and `answer`."""

  length = 64
  package = 'iquest_jax'  # There is nothing to download.

  def __init__(self, kind: str, kilobytes: int):
    self.name, self._kind, self._bytes = f'{kind}_{kilobytes}kb', kind, kilobytes << 10

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    del folder
    problems = []
    for depth in DEPTHS:
      for number in range(_PER_DEPTH):
        rng = random.Random(f'{self.name} {depth} {number}')
        problems.append(Problem(f'{depth}%/{number}', self._fields(rng, depth) | {'depth': depth}))
    return problems

  def _fields(self, rng: random.Random, depth: int) -> dict[str, str]:
    raise NotImplementedError

  def prompt(self, problem: Problem) -> Prompt:
    fields = problem.fields
    text = fields['before'] + fields['target'] + fields['after']
    chat = [{'role': 'user', 'content': f'{text}\n{fields["question"]}'}]
    return Prompt(f'{text}\n{fields["lead"]}', chat, stop=['\n'])

  def continued(self, problem: Problem, completion: str) -> str:
    return completion.split('\n')[0].strip()

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    answer = problem.fields['answer']
    return Outcome.when(extracted == answer, f'got {extracted[:80]!r}, expected {answer!r}')

  def score(self, problems: Mapping[str, Problem], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    figures = super().score(problems, outcomes)
    for depth in DEPTHS:
      mine = {key: samples for key, samples in outcomes.items() if problems[key].fields['depth'] == depth}
      if mine and len(mine) < len(outcomes):
        figures[f'depth {depth}%'] = super().score(problems, mine)['pass@1']
    return figures

  def _placed(self, rng: random.Random, target: str, depth: int, filler) -> dict[str, str]:
    """`target` between as many pieces of filler as the size has room for."""
    pieces, size = [], len(target)
    while size < self._bytes:
      pieces.append(filler(rng))
      size += len(pieces[-1])
    at = len(pieces) * depth // 100
    return {'before': ''.join(pieces[:at]), 'target': target, 'after': ''.join(pieces[at:])}


class Needle(_Retrieval):
  """A place's access code among sentences, some of them with the codes of other places."""

  def __init__(self, kilobytes: int):
    super().__init__('needle', kilobytes)

  def _fields(self, rng: random.Random, depth: int) -> dict[str, str]:
    places = list(_PLACES)
    rng.shuffle(places)
    place, code = places.pop(), str(rng.randrange(10**6, 10**7))

    def filler(rng: random.Random) -> str:
      if rng.random() < 0.02:
        return f'The access code of the {rng.choice(places)} is {rng.randrange(10**6, 10**7)}. '
      return f'The {rng.choice(_NOUNS)} {rng.choice(_VERBS)} the {rng.choice(_NOUNS)} of the {rng.choice(_NOUNS)}. '

    sentence = f'The access code of the {place} is {code}. '
    question = f'What is the access code of the {place}? Answer with the number alone.'
    placed = self._placed(rng, sentence, depth, filler)
    return placed | {'lead': f'The access code of the {place} is', 'question': question, 'answer': code}

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    """The last number of seven digits."""
    return (re.findall(r'(?<!\d)\d{7}(?!\d)', extract.without_thinking(answers[-1])) or [''])[-1]

  def continued(self, problem: Problem, completion: str) -> str:
    return (re.findall(r'\d+', completion) or [''])[0]


class Repository(_Retrieval):
  """What a function returns whose name many files of a repository define."""

  def __init__(self, kilobytes: int):
    super().__init__('repository', kilobytes)

  def _fields(self, rng: random.Random, depth: int) -> dict[str, str]:
    taken: set[str] = set()

    def module(rng: random.Random) -> tuple[str, str, str]:
      """Path, text and the expression that its `scaled` returns."""
      while (path := f'{rng.choice(_NOUNS)}/{rng.choice(_VERBS)}_{rng.randrange(10**4):04}.py') in taken:
        continue
      taken.add(path)
      expression = f'{rng.choice(_NOUNS)} * {rng.randrange(100, 1000)} + {rng.randrange(100, 1000)}'
      name = expression.split()[0]
      return path, f'# {path}\ndef scaled({name}):\n  return {expression}\n\n', expression

    path, text, expression = module(rng)
    placed = self._placed(rng, text, depth, lambda rng: module(rng)[1])
    lead = f'# {path}, once more\ndef scaled({expression.split()[0]}):\n  return'
    question = f'What does `scaled` in {path} return? Answer with the expression after `return` alone.'
    return placed | {'lead': lead, 'question': question, 'answer': expression}

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    """The last line that is not a fence, without `return` and quotation marks."""
    lines = [line.strip().strip('`').strip() for line in extract.without_thinking(answers[-1]).split('\n')]
    last = next((line for line in reversed(lines) if line), '')
    return last.removeprefix('return').strip()


NEEDLE_4, NEEDLE_32, NEEDLE_128, NEEDLE_512 = map(Needle, (4, 32, 128, 512))
REPOSITORY_4, REPOSITORY_32, REPOSITORY_128, REPOSITORY_512 = map(Repository, (4, 32, 128, 512))
