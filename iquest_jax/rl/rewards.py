"""Rewards: what a trajectory earns by component, and their weighted sum.

An experiment names the components that it uses, with their weights; each is logged apart. One that does not apply to a
prompt, such as the pass rate where there are no tests, is absent.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iquest_jax.data.synthesis import schemas
from iquest_jax.errors import UserError, check_name
from iquest_jax.rl import memorised
from iquest_jax.rl.grading import Graded
from iquest_jax.rl.types import Group, Prompt, Trajectory
from iquest_jax.text import chat, extract, instructions

# The check of a prompt that holds the expected tool calls: {'check': 'tool_calls', 'calls': [{'name', 'arguments'}, ...]}.
TOOL_CALLS = 'tool_calls'


@dataclasses.dataclass(frozen=True)
class RewardOptions:
  """What is rewarded.

  Attributes:
    weights: {component: weight}; see COMPONENTS.
    overlong_max, overlong_cache: tokens after the prompt. The component 'overlong' is 0 up to overlong_max -
      overlong_cache and falls to -1 at overlong_max.
  """

  weights: Mapping[str, float]
  overlong_max: int = 0
  overlong_cache: int = 0

  def __post_init__(self):
    if not self.weights:
      raise UserError(f'rl: rewards.weights is empty; name at least one of {", ".join(COMPONENTS)}')
    for name, weight in self.weights.items():
      check_name('rl: rewards.weights: component', name, COMPONENTS)
      if not math.isfinite(weight):
        raise UserError(f'rl: rewards.weights.{name} must be finite, got {weight}')
    if 'overlong' in self.weights and not 0 < self.overlong_cache <= self.overlong_max:
      raise UserError(
          f'rl: rewards.overlong_cache must be in (0, overlong_max], got {self.overlong_cache} with overlong_max '
          f'{self.overlong_max}'
      )


def scored(prompt: Prompt, trajectory: Trajectory, graded: Graded | None, options: RewardOptions) -> Trajectory:
  """The trajectory with its rewards, and notes of what they follow from.

  Notes: `verdict` (status, reason, test, passed, total) of a graded program; `memorised`, how many visible examples it
  branches on, if that are at least memorised.SUSPICIOUS.

  Args:
    graded: of the program of the last answer; None if the prompt has no problem.
  """
  rewards = score(prompt, trajectory, graded, options)
  notes = dict(trajectory.notes)
  if graded is not None:
    given = graded.verdict
    notes['verdict'] = {name: getattr(given, name) for name in ('status', 'reason', 'test', 'passed', 'total')}
    if prompt.problem and (count := memorised.count(graded.program, prompt.problem)) >= memorised.SUSPICIOUS:
      notes['memorised'] = count
  reward = sum(options.weights[name] * value for name, value in rewards.items())
  return dataclasses.replace(trajectory, rewards=rewards, reward=reward, notes=notes)


def score(
    prompt: Prompt, trajectory: Trajectory, graded: Graded | None, options: RewardOptions
) -> dict[str, float]:
  """The unweighted components that apply. If the environment broke, none of them is above 0."""
  found = {name: COMPONENTS[name](prompt, trajectory, graded, options) for name in options.weights}
  found = {name: value for name, value in found.items() if value is not None}
  return {name: min(value, 0.0) for name, value in found.items()} if trajectory.end == 'error' else found


def not_finite(group: Group) -> str:
  """Which reward of a group is not a number, '' if all are: such a group must be dropped, and counted."""
  for one in group.trajectories:
    values = {'reward': one.reward, **one.rewards}
    if bad := [f'{name} {value}' for name, value in values.items() if not math.isfinite(value)]:
      return f'{", ".join(bad)} of sample {one.sample} of "{group.prompt.id}"'
  return ''


def summary(trajectories: Sequence[Trajectory]) -> dict[str, float]:
  """Means over trajectories: the reward, each component over those that have it, and shares.

  `memorised` is the share of graded programs that branch on visible examples, `memorised_reward` the share of all pass
  rates that they took, and `verdict_STATUS` the share of graded programs with a verdict.
  """
  if not trajectories:
    return {}
  mean = lambda values: math.fsum(values) / len(values) if values else 0.0
  found = {'reward': mean([one.reward for one in trajectories])}
  for name in COMPONENTS:
    if values := [one.rewards[name] for one in trajectories if name in one.rewards]:
      found[f'reward_{name}'] = mean(values)
  if graded := [one for one in trajectories if 'verdict' in one.notes]:
    rates = [one.rewards.get('pass_rate', 0.0) for one in graded]
    suspicious = ['memorised' in one.notes for one in graded]
    taken = math.fsum(rate for rate, flag in zip(rates, suspicious) if flag)
    found |= {'memorised': mean(suspicious), 'memorised_reward': taken / math.fsum(rates) if math.fsum(rates) else 0.0}
    statuses = [one.notes['verdict']['status'] for one in graded]
    found |= {f'verdict_{status}': mean([one == status for one in statuses]) for status in sorted(set(statuses))}
  return found


def overlong(tokens: int, overlong_max: int, overlong_cache: int) -> float:
  """The soft penalty of length (DAPO, arXiv 2503.14476, equation 13), in [-1, 0].

  Args:
    tokens: after the prompt, sampled and observed.
  """
  return -min(max((tokens - (overlong_max - overlong_cache)) / overlong_cache, 0.0), 1.0)


def _pass_rate(prompt: Prompt, trajectory: Trajectory, graded: Graded | None, options: RewardOptions) -> float | None:
  """The fraction of hidden tests that passed."""
  return None if prompt.problem is None else 0.0 if graded is None else graded.fraction


def _code_block(prompt: Prompt, trajectory: Trajectory, graded: Graded | None, options: RewardOptions) -> float | None:
  """1 if the answer, thinking aside, has exactly one code block, which is closed and of the problem's language."""
  if prompt.problem is None:
    return None
  answer = extract.without_thinking(trajectory.text)
  blocks, language = extract.blocks(answer), prompt.problem.language
  # Only where every block is closed does one more fence open another.
  closed = extract.blocks(f'{answer}\n```\n\0\n```')[-1].text == '\0\n'
  return float(closed and len(blocks) == 1 and blocks[0].language in extract.ALIASES.get(language, (language,)))


def _thinking(prompt: Prompt, trajectory: Trajectory, graded: Graded | None, options: RewardOptions) -> float:
  """1 if the answer is one thought, not empty and closed, and then something else."""
  before, opened, rest = trajectory.text.partition('<think>')
  thought, closed, answer = rest.partition('</think>')
  nested = '<think>' in rest or '</think>' in answer
  return float(bool(opened and closed and thought.strip() and answer.strip()) and not before.strip() and not nested)


def _tool_schema(prompt: Prompt, trajectory: Trajectory, graded: Graded | None, options: RewardOptions) -> float | None:
  """The share of the calls that are well-formed and fit the definition of their tool."""
  if (expected := _expected(prompt)) is None:
    return None
  (calls, made), tools = _made(trajectory), [tool.get('function', tool) for tool in prompt.tools]
  if not made:
    return float(not expected)
  return sum(not schemas.problem_of_call(call, tools) for call in calls) / made


def _tool_values(prompt: Prompt, trajectory: Trajectory, graded: Graded | None, options: RewardOptions) -> float | None:
  """The share of calls that are among the expected ones, in any order: of those made or expected, whichever are more."""
  if (expected := _expected(prompt)) is None:
    return None
  calls, made = _made(trajectory)
  most = max(made, len(expected))
  left = [_canonical(call) for call in expected]
  matched = 0
  for call in map(_canonical, calls):
    if call in left:
      left.remove(call)
      matched += 1
  return matched / most if most else 1.0


def _instructions(prompt: Prompt, trajectory: Trajectory, graded: Graded | None, options: RewardOptions) -> float | None:
  """The share of the prompt's instructions that the answer keeps to, thinking aside."""
  checks = [check for check in prompt.checks if check.get('check') != TOOL_CALLS]
  return instructions.satisfied(checks, extract.without_thinking(trajectory.text)) if checks else None


def _overlong(prompt: Prompt, trajectory: Trajectory, graded: Graded | None, options: RewardOptions) -> float:
  tokens = len(trajectory.tokens) - len(trajectory.prompt_tokens)
  return overlong(tokens, options.overlong_max, options.overlong_cache)


COMPONENTS: Mapping[str, Callable[..., float | None]] = {
    'pass_rate': _pass_rate,
    'code_block': _code_block,
    'thinking': _thinking,
    'tool_schema': _tool_schema,
    'tool_values': _tool_values,
    'instructions': _instructions,
    'overlong': _overlong,
}


def problem_of(prompt: Prompt) -> str:
  """What is wrong with the checks of a prompt or with its tools, '' if nothing is; to be asked before the first step."""
  for check in prompt.checks:
    if check.get('check') != TOOL_CALLS:
      if wrong := instructions.problem_of(check):
        return wrong
      continue
    if wrong := schemas.problem_of_tools([tool.get('function', tool) for tool in prompt.tools]):
      return f'tools: {wrong}'
    calls = check.get('calls')
    if not isinstance(calls, (list, tuple)):
      return f'{TOOL_CALLS}: "calls" must be a list'
    tools = [tool.get('function', tool) for tool in prompt.tools]
    if wrong := next(filter(None, (schemas.problem_of_call(call, tools) for call in calls)), ''):
      return f'{TOOL_CALLS}: an expected call is wrong: {wrong}'
  return ''


def _expected(prompt: Prompt) -> Sequence[Mapping[str, Any]] | None:
  """The calls that an answer should make; None if the prompt does not say."""
  return next((check['calls'] for check in prompt.checks if check.get('check') == TOOL_CALLS), None)


def _made(trajectory: Trajectory) -> tuple[list[Mapping[str, Any]], int]:
  """(the calls of all replies, how many were tried): what is malformed in a reply was tried, too."""
  replies = [chat.parse(text) for text in (*trajectory.earlier, trajectory.text)]
  calls = [call for reply in replies for call in reply.tool_calls]
  return calls, len(calls) + sum(len(reply.problems) for reply in replies)


def _canonical(value: Any) -> Any:
  """A value of JSON such that equal ones compare equal, and true is not 1."""
  if isinstance(value, Mapping):
    return {key: _canonical(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_canonical(item) for item in value]
  return ('bool', value) if isinstance(value, bool) else value
