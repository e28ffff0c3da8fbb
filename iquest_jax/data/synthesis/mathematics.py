"""Mathematics: problems with a solution, whose answer independent solutions must reach, compared by math-verify."""

import asyncio
import dataclasses
import difflib
import re

from iquest_jax.data.documents import Conversation, Document, Drop, File, Problem, texts
from iquest_jax.data.synthesis import answers, equivalence, turns
from iquest_jax.data.synthesis.domain import Domain, Tools

# ours: the numbers, the topics and the levels.
_LONGEST_SEED = 4000  # characters
_SOLUTIONS = 3
_TEMPERATURE = 0.7
_COPIED = 0.8  # of a solution: as similar to the problem as this, it repeats it
_TOPICS = (
    'algebra', 'number theory', 'combinatorics', 'probability', 'geometry', 'calculus', 'linear algebra', 'sequences',
    'logic', 'optimisation', 'counting operations of an algorithm', 'modular arithmetic',
)  # fmt: skip
_LEVELS = ('easy', 'medium', 'hard')
_GENERATE = """Write a problem of {topic}, {level} for a student of mathematics, and solve it. Take its setting or an
idea from the passage below, but let the problem be complete without it.

- It has exactly one answer: a number, an expression, a set or an interval; no proof, no choice among options, no drawing.
- The answer does not stand in the problem.
- The solution goes step by step and ends with the answer in \\boxed{{}}.

<passage>
{passage}
</passage>

Answer with these three sections and nothing else:
## Problem
## Solution
## Answer
the answer alone, in LaTeX"""
_SOLVE = """{problem}

Solve this step by step and put the answer, and nothing else, in \\boxed{{}} at the end. If the problem is contradictory,
incomplete, or has several answers, end with \\boxed{{\\text{{unsolvable}}}}."""


@dataclasses.dataclass(frozen=True)
class Candidate:
  problem: str
  solution: str
  answer: str
  difficulty: str = ''
  repo: str = ''


async def generate(seed: Document, tools: Tools) -> Candidate | Drop:
  """Asks for a problem of a topic and a level that chance chooses."""
  topic, level = tools.rng.choice(_TOPICS), tools.rng.choice(_LEVELS)
  passage = '\n'.join(texts(seed))[:_LONGEST_SEED]
  prompt = _GENERATE.format(topic=topic, level=level, passage=passage)
  said = await tools.ask(turns.request(prompt), temperature=_TEMPERATURE)
  found = answers.sections(said, ('Problem', 'Solution', 'Answer'))
  if not found:
    return Drop('mathematics: malformed answer', said[:300])
  return Candidate(found['Problem'], found['Solution'], found['Answer'].strip('$ \n'), level, getattr(seed, 'repo', ''))


async def verify(candidate: Candidate, tools: Tools) -> Conversation | Drop:
  """Holds the solution against its answer, and the answer against solutions that have seen the problem alone.

  Every one of them must reach it.
  """
  problem, solution, answer = candidate.problem, candidate.solution, candidate.answer
  if drop := _copies(problem, solution, answer):
    return drop
  if not await tools.run(equivalence.is_answer, answer):
    return Drop('mathematics: answer is not an expression', answer)
  concluded = equivalence.boxed(solution)
  if concluded is None or not await tools.run(equivalence.equal, answer, concluded):
    return Drop('mathematics: solution gives another answer', f'{answer} and {concluded}')
  prompt = _SOLVE.format(problem=problem)
  solutions = await asyncio.gather(*(
      tools.ask(turns.request(prompt), temperature=_TEMPERATURE, max_tokens=4096, seed=1 + number)
      for number in range(_SOLUTIONS)
  ))  # fmt: skip
  for said in solutions:
    reached = equivalence.boxed(said)
    if reached is None:
      return Drop('mathematics: a solution without an answer', said[-300:])
    if not await tools.run(equivalence.equal, answer, reached):
      return Drop('mathematics: solutions disagree', f'{answer} and {reached}')
  checks = ('answer not in question', 'solution gives the answer', 'independent solutions agree')
  made = turns.conversation(problem, solution, checks, candidate.repo)
  return dataclasses.replace(made, difficulty=candidate.difficulty)


def _copies(problem: str, solution: str, answer: str) -> Drop | None:
  """Whether the problem gives its answer away, or the solution does nothing but repeat the problem."""
  plain = lambda text: ' '.join(text.split())
  # A small number may well be among those that are given.
  telling = len(answer) > 3 or not answer.isdecimal()
  stands = re.search(rf'(?<![\w.\\]){re.escape(plain(answer))}(?![\w{{]|\.\d)', plain(problem))
  if telling and stands and len(answer) > 1 or re.search(r'\\boxed|\bthe answer is\b', problem, re.I):
    return Drop('mathematics: answer in question', f'{answer}: {problem[:300]}')
  likeness = difflib.SequenceMatcher(None, plain(problem)[:2000], plain(solution)[:2000], autojunk=False)
  if likeness.real_quick_ratio() > _COPIED and likeness.ratio() > _COPIED:
    return Drop('mathematics: solution repeats the question', solution[:300])
  return None


DOMAIN = Domain('mathematics', (File, Problem, Conversation), generate, verify)
