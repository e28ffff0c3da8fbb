"""Roll-outs of a step: groups are sampled, graded while others are decoded, stored, and dropped if they teach nothing.

Which groups a step samples, and what they hold, follows from its prompts and parameters alone. A group is sampled once it
is certain that the step needs it: `prompts_per_step` groups are kept, so every group that is known to be dropped makes one
more necessary. Nothing is sampled on suspicion, so a killed step, resumed, samples exactly what was missing.

Each process samples every n-th group on an engine of its own. They exchange groups through the store, which all of them
see, if some later than others: what a step has is what they tell each other, and each waits until it sees that.
"""

import collections
import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import logging

from iquest_jax import hosts
from iquest_jax.errors import UserError
from iquest_jax.infer.sampler import GREEDY
from iquest_jax.rl import advantages, rewards
from iquest_jax.rl.environment import Environment
from iquest_jax.rl.episode import Episode
from iquest_jax.rl.play import Player, Roll, Spent
from iquest_jax.rl.store import Store
from iquest_jax.rl.types import Group, Prompt, Trajectory
from iquest_jax.text.tokenizer import Tokenizer
from iquest_jax.train import preemption

# Notes of a trajectory: what it was sampled with, and why its group cannot be used.
STAMP, INVALID = 'sampled_with', 'invalid'

Score = Callable[[Prompt, Trajectory], Trajectory]


@dataclasses.dataclass(frozen=True)
class RolloutOptions:
  """How many roll-outs a step makes.

  Attributes:
    prompts_per_step: groups that are kept.
    group_size: roll-outs per group.
    max_groups: groups that are sampled at most; a step that then has kept fewer makes do with those.
    dynamic_sampling: whether groups of equal rewards are dropped and replaced (DAPO, arXiv 2503.14476, equation 11).
    max_tokens: after the prompt, sampled and observed.
  """

  prompts_per_step: int
  group_size: int
  max_groups: int
  dynamic_sampling: bool
  max_tokens: int

  def __post_init__(self):
    for name, least in (('prompts_per_step', 1), ('group_size', 2), ('max_tokens', 1)):
      if getattr(self, name) < least:
        raise UserError(f'config: rl.{name} must be at least {least}, got {getattr(self, name)}')
    if self.max_groups < self.prompts_per_step:
      raise UserError(
          f'config: rl.max_groups must be at least rl.prompts_per_step = {self.prompts_per_step}, got {self.max_groups}'
      )


@dataclasses.dataclass(frozen=True)
class Sampled:
  """The roll-outs of a step.

  Attributes:
    groups: all that were sampled, in order of their prompts.
    kept: those that are learned from, in order; at most prompts_per_step.
    equal, invalid: how many were dropped because their rewards are equal, or because something about them is broken.
    replayed: how many came from the store.
    spent: on the others, by this process.
  """

  groups: tuple[Group, ...]
  kept: tuple[Group, ...]
  equal: int
  invalid: int
  replayed: int
  spent: Spent


class Rollouts:
  """Samples the groups of steps."""

  def __init__(
      self,
      player: Player,
      tokenizer: Tokenizer,
      environment: Callable[[Prompt], Environment],
      score: Score,
      store: Store,
      options: RolloutOptions,
      seed: int,
  ):
    """Samples nothing yet.

    Args:
      environment: makes one for each roll-out.
      score: a trajectory with its rewards; is called from threads.
      seed: of the stage.
    """
    self._player, self._tokenizer, self._environment = player, tokenizer, environment
    self._score, self._store, self._options, self._seed = score, store, options, seed

  def sample(self, step: int, prompts: Sequence[Prompt], version: int, stamp: str) -> Sampled:
    """The roll-outs of a step; groups that the store holds are not sampled again.

    Args:
      prompts: of the step in order, max_groups of them.
      version: optimizer step of the sampling parameters.
      stamp: identifies what the roll-outs depend on besides step and prompts: parameters and settings. Stored groups of
        another stamp are removed.

    Raises:
      UserError: a roll-out cannot be scored on this machine at all, or the store is damaged.
      RunStopped: a process does not see, within hosts.VISIBLE_S, what the others have stored.
      Interrupt: on all processes, if one was asked to end.
    """
    done, spent = self._stored(step, prompts, stamp), Spent(slots=self._player.engine.free)
    replayed, processes, process = len(done), jax.process_count(), jax.process_index()
    mine = lambda index: index % processes == process
    while True:
      needed = self._needed(done.values())
      if any(mine(index) and index not in done for index in range(needed)):
        spent.add(_Step(self, step, prompts, version, stamp, done, mine).run())
      preemption.interrupt_together()
      done = self._exchanged(step, prompts, stamp, done)
      # Groups that others have dropped may have made more necessary.
      needed = self._needed(done.values())
      if all(index in done for index in range(needed)):
        break
    groups = [done[index] for index in sorted(done)]
    kept = [group for group in groups if not self._dropped(group)][: self._options.prompts_per_step]
    invalid = sum(bool(invalid_because(group)) for group in groups)
    return Sampled(tuple(groups), tuple(kept), len(groups) - len(kept) - invalid, invalid, replayed, spent)

  def answers(self, prompts: Sequence[Prompt]) -> dict[int, Trajectory]:
    """The likeliest answer to each prompt, scored, by index: those of this process, which are every n-th."""
    processes, process = jax.process_count(), jax.process_index()
    rolls = [Roll(index, 0, prompt) for index, prompt in enumerate(prompts) if index % processes == process]
    found: dict[int, Trajectory] = {}

    def begin(roll: Roll):
      episode = self._episode(roll, 0)
      return episode, dataclasses.replace(episode.request(roll.index, seed=0, noise=0), sampling=GREEDY)

    finish = lambda roll, trajectory: (roll.index, self._scored(roll.prompt, trajectory))
    take = lambda value: found.update([value])
    self._player.play(collections.deque(rolls), begin, finish, take, lambda stuck: _name_stuck(stuck, 'held-out'))
    preemption.interrupt_together()
    return found

  def _stored(self, step: int, prompts: Sequence[Prompt], stamp: str) -> dict[int, Group]:
    """The groups of a step in the store, if they are those that this step would sample; otherwise it is emptied."""
    stored = self._store.read(step)
    current = _current(stored, prompts, stamp)
    # Here all wait, before anyone appends to the store, or removes from it.
    if hosts.from_first(f'roll-outs of step {step} kept', len(current) == len(stored)):
      return self._exchanged(step, prompts, stamp, current)
    if jax.process_index() == 0:
      logging.warning('step %d: its stored roll-outs are of other parameters or settings and are sampled again', step)
      self._store.remove(step)
    hosts.barrier(f'roll-outs of step {step} removed')
    return {}

  def _exchanged(self, step: int, prompts: Sequence[Prompt], stamp: str, known: dict[int, Group]) -> dict[int, Group]:
    """The groups that any process knows, on all of them; nobody appends more before all have read them."""
    if jax.process_count() == 1:
      return known
    what = f'roll-outs of step {step}'
    wanted = set().union(*hosts.gather(what, sorted(known)))
    end = time.monotonic() + hosts.VISIBLE_S
    while not wanted <= (seen := _current(self._store.read(step), prompts, stamp)).keys() and time.monotonic() < end:
      time.sleep(1)
    found = {index: seen[index] for index in sorted(wanted & seen.keys())}
    hosts.agree(what, list(found))
    return found

  def _needed(self, known: Sequence[Group]) -> int:
    """How many groups the step needs at least, given these of them."""
    return min(self._options.prompts_per_step + sum(map(self._dropped, known)), self._options.max_groups)

  def _dropped(self, group: Group) -> bool:
    rewards_R = np.asarray([one.reward for one in group.trajectories])
    return bool(invalid_because(group)) or (self._options.dynamic_sampling and advantages.all_equal(rewards_R))

  def _episode(self, roll: Roll, version: int) -> Episode:
    environment, how = self._environment(roll.prompt), dict(version=version, max_tokens=self._options.max_tokens)
    return Episode(self._tokenizer, environment, roll.prompt, sample=roll.sample, **how)

  def _scored(self, prompt: Prompt, trajectory: Trajectory) -> Trajectory:
    """Raises UserError where no trajectory could be scored; any other failure makes this one invalid."""
    if trajectory.end == 'error':
      return _void(trajectory, trajectory.notes.get('error', 'the environment failed'))
    try:
      return self._score(prompt, trajectory)
    except UserError:
      raise
    except Exception as error:
      return _void(trajectory, f'not scored: {type(error).__name__}: {error}')


class _Step:
  """The groups of one step that this process samples."""

  def __init__(self, rollouts: Rollouts, step: int, prompts, version: int, stamp: str, done: dict[int, Group], mine):
    self._of, self._step, self._prompts, self._version, self._stamp = rollouts, step, prompts, version, stamp
    self._done, self._mine, self._asked = done, mine, 0
    self._rolls: collections.deque[Roll] = collections.deque()
    self._parts: dict[int, list[Trajectory]] = collections.defaultdict(list)
    self._lock = threading.Lock()
    digest = hashlib.sha256(f'rollout {rollouts._seed} {step}'.encode()).digest()
    self._sampling_seed = int.from_bytes(digest[:4], 'big') >> 1

  def run(self) -> Spent:
    """Samples until no more are known to be needed; `done` then holds them."""
    self._ask()
    return self._of._player.play(self._rolls, self._begin, self._finish, self._take, self._give_up)

  def _ask(self) -> None:
    needed = self._of._needed(self._done.values())
    for index in range(self._asked, needed):
      if self._mine(index) and index not in self._done:
        self._rolls += [Roll(index, sample, self._prompts[index]) for sample in range(self._of._options.group_size)]
    self._asked = needed

  def _begin(self, roll: Roll):
    episode = self._of._episode(roll, self._version)
    number = roll.index * self._of._options.group_size + roll.sample
    return episode, episode.request(number, seed=self._sampling_seed, noise=number)

  def _finish(self, roll: Roll, trajectory: Trajectory) -> tuple[int, Group] | None:
    """The group, stored, if this is the last of its trajectories."""
    trajectory = self._of._scored(roll.prompt, trajectory)
    with self._lock:
      part = self._parts[roll.index]
      if any(one.sample == roll.sample for one in part):  # it was given up
        return None
      part.append(trajectory)
      if len(part) < self._of._options.group_size:
        return None
    return roll.index, self._store(roll.index)

  def _store(self, index: int) -> Group:
    part = sorted(self._parts[index], key=lambda one: one.sample)
    if bad := rewards.not_finite(Group(self._prompts[index], tuple(part))):
      part = [_void(one, bad) for one in part]
    part = [dataclasses.replace(one, notes={**one.notes, STAMP: self._stamp}) for one in part]
    group = Group(self._prompts[index], tuple(part))
    self._of._store.append(self._step, index, group)
    return group

  def _take(self, finished: tuple[int, Group] | None) -> None:
    if finished is None:
      return
    index, group = finished
    self._done[index] = group
    if reason := invalid_because(group):
      logging.warning('step %d: the group of "%s" is dropped: %s', self._step, group.prompt.id, reason)
    self._ask()

  def _give_up(self, stuck: list[Roll]) -> None:
    _name_stuck(stuck, f'step {self._step}')
    for roll in stuck:
      nothing = Trajectory(roll.prompt.id, roll.sample, self._version, (), (), 'error', '')
      with self._lock:
        part = self._parts[roll.index]
        if any(one.sample == roll.sample for one in part):  # scored, but not stored in time
          continue
        part.append(_void(nothing, 'it never finished'))
        whole = len(part) == self._of._options.group_size
      if whole:
        self._take((roll.index, self._store(roll.index)))


def invalid_because(group: Group) -> str:
  """Why a group cannot be used; '' if it can."""
  return next((one.notes[INVALID] for one in group.trajectories if INVALID in one.notes), '')


def _current(stored: dict[int, Group], prompts: Sequence[Prompt], stamp: str) -> dict[int, Group]:
  """Those of these prompts and with this stamp."""
  is_current = lambda index, group: (
      index < len(prompts)
      and group.prompt.id == prompts[index].id
      and all(one.notes.get(STAMP) == stamp for one in group.trajectories)
  )
  return {index: group for index, group in stored.items() if is_current(index, group)}


def _void(trajectory: Trajectory, reason: str) -> Trajectory:
  """Without rewards, and with the reason why."""
  return dataclasses.replace(trajectory, rewards={}, reward=0.0, notes={**trajectory.notes, INVALID: reason})


def _name_stuck(stuck: Sequence[Roll], where: str) -> None:
  names = ', '.join(dict.fromkeys(f'"{roll.prompt.id}"' for roll in stuck))
  logging.warning('%s: roll-outs that never finished: %d, of %s', where, len(stuck), names)
