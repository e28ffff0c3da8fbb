"""The protocol of a benchmark: problems, prompt, extract, grade, score."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.infer.sampler import GREEDY, Sampling
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.verdict import FAILED, PASSED, Verdict
from iquest_jax.text.chat import Message

# Beside the statuses of a verdict: what a problem needs is not installed. It is listed and not part of any score.
MISSING = 'missing'


@dataclasses.dataclass(frozen=True)
class Problem:
  """One problem; `fields` are the file's own, checked when it was read."""

  id: str
  fields: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Prompt:
  """What the model is given: a text to continue, or messages to answer.

  Attributes:
    text: for a base model; empty if the suite has a chat form only.
    messages: for a chat model; empty if the suite has a completion form only.
    tools: definitions for a chat.
    stop: words that end a completion.
  """

  text: str = ''
  messages: Sequence[Message] = ()
  tools: Sequence[Mapping[str, Any]] = ()
  stop: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What grading an answer came to.

  Attributes:
    status: of a verdict of the sandbox, or 'missing'.
    reason: one line; empty if passed.
    seconds: of the program, if one ran.
    figures: what a suite measures beyond passing, such as a similarity.
  """

  status: str
  reason: str = ''
  seconds: float = 0.0
  figures: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, verdict: Verdict) -> 'Outcome':
    return cls(verdict.status, ': '.join(filter(None, [verdict.test, verdict.reason])), verdict.seconds)

  @classmethod
  def when(cls, passed: bool, reason: str = '', **figures: float) -> 'Outcome':
    return cls(PASSED if passed else FAILED, '' if passed else reason, figures=figures)


class Suite:
  """A benchmark. A family is a file, a benchmark of it an instance.

  Attributes:
    name: as given to --suite.
    sampling: as the benchmark's published results use it.
    length: most tokens of an answer.
    samples: answers per problem.
    ks: the k of the pass@k it reports.
    package: an installed package whose folder stands for --data where that is not given; empty if none ships the files.
    in_corpus: whether its problems are read from the corpus of tiny sizes, `<workdir>/corpus`, instead of --data.
  """

  name: str
  sampling: Sampling = GREEDY
  length: int = 1024
  samples: int = 1
  ks: Sequence[int] = (1,)
  package: str = ''
  in_corpus: bool = False

  def problems(self, folder: pathlib.Path) -> list[Problem]:
    """Reads the official files below `folder`; raises UserError for one that is missing, malformed or another version."""
    raise NotImplementedError

  def prompt(self, problem: Problem) -> Prompt:
    raise NotImplementedError

  def follow_up(self, problem: Problem, messages: Sequence[Message], pool: Pool) -> list[Message]:
    """The messages after which the model answers once more, after those so far; none ends the conversation.

    Args:
      messages: of the prompt, then of the model and this method in turn; a model's holds all that it wrote.
    """
    return []

  def extract(self, problem: Problem, answers: Sequence[str]) -> str:
    """What is graded, from the model's answers in order; never raises."""
    raise NotImplementedError

  def continued(self, problem: Problem, completion: str) -> str:
    """What is graded if the model continued `Prompt.text`; never raises."""
    return self.extract(problem, [completion])

  def grade(self, problem: Problem, extracted: str, pool: Pool) -> Outcome:
    """Grades what was extracted; never raises for what a model wrote."""
    raise NotImplementedError

  def score(self, problems: Mapping[str, Problem], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    """The figures of the table, in percent, from the outcomes of each problem's samples; none of them is 'missing'.

    By default pass@k for every k of `ks` that the samples allow.
    """
    del problems
    return {f'pass@{k}': pass_at(k, outcomes) for k in self.ks if all(len(samples) >= k for samples in outcomes.values())}


def pass_at(k: int, outcomes: Mapping[str, Sequence[Outcome]]) -> float:
  """Unbiased pass@k in percent, the mean over problems of 1 - C(n - c, k) / C(n, k), where c of n >= k samples passed.

  Source: Chen et al. 2021, equation 1.
  """
  chances = []
  for samples in outcomes.values():
    failed = sum(outcome.status != PASSED for outcome in samples)
    chances.append(1 - math.comb(failed, k) / math.comb(len(samples), k))
  return 100 * math.fsum(chances) / len(chances) if chances else 0.0
