"""Learning from roll-outs: groups are sampled and scored, advantages taken, and the policy updated (GRPO and variants).

Source: IQuest-Coder-V1 report, section on reinforcement learning: GRPO, no KL term, Clip-Higher; the reward is the fraction
of tests passed.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iquest_jax import hosts
from iquest_jax.errors import RunStopped, UserError, check_name
from iquest_jax.infer.engine import Engine
from iquest_jax.model.transformer import Transformer
from iquest_jax.rl import advantages, batches, curriculum, losses, problems, rewards, rollout, tools
from iquest_jax.rl.environment import Environment, SingleTurn, ToolUse
from iquest_jax.rl.grading import Grader
from iquest_jax.rl.measured import Measured, pass_rate
from iquest_jax.rl.play import Player
from iquest_jax.rl.store import Store
from iquest_jax.rl.sync import Sync
from iquest_jax.rl.types import Group, Prompt, Trajectory
from iquest_jax.run_folder import RunFolder
from iquest_jax.sandbox.pool import Pool
from iquest_jax.text.tokenizer import Tokenizer
from iquest_jax.train import layer_groups, metrics
from iquest_jax.train.state import TrainState
from iquest_jax.train.step import Stage


class PolicyLearner:
  """One of the learners of rl/loop.py.

  Attributes:
    data_hash: identifies the problems.
    objective: the loss of a micro-batch, for train/step.py.
    updates: per step.
    needs_reference: whether it learns relative to the parameters that the stage began with.
  """

  def __init__(self, config: ConfigDict, run_folder: RunFolder, tokenizer: Tokenizer, closing: contextlib.ExitStack):
    """Reads and checks the problems; executes their reference solutions where that was not done before.

    Args:
      closing: closes what is opened.

    Raises:
      UserError: options or problems do not fit, or programs cannot be isolated here.
    """
    rl = config.rl
    self._config, self._tokenizer = config, tokenizer
    self._folder = run_folder.stage(config.stage)
    self._how = rollout.RolloutOptions(
        rl.prompts_per_step, rl.group_size, rl.max_groups, rl.dynamic_sampling, rl.max_tokens
    )
    self._rewards = rewards.RewardOptions(dict(rl.rewards), rl.max_tokens, rl.overlong_cache)
    self._window = curriculum.Window(*rl.pass_rate_window)
    self.objective = functools.partial(losses.policy_sums, options=losses.PolicyOptions.of(rl))
    self._policy = jax.jit(functools.partial(losses.policy_params, temperature=rl.temperature))
    self.updates, self.needs_reference = rl.mini_batches * rl.epochs, rl.kl_coef > 0
    check_name('config: rl.baseline', rl.baseline, advantages.BASELINES)
    check_name('config: rl.loss_agg', rl.loss_agg, batches.LOSS_AGGS)
    for name in ('mini_batches', 'epochs', 'max_turns', 'slots', 'graders'):
      if rl[name] < 1:
        raise UserError(f'config: rl.{name} must be at least 1, got {rl[name]}')
    if rl.max_tokens >= config.data.context:
      raise UserError(
          f'config: rl.max_tokens must be below data.context = {config.data.context}, which holds the prompt too, got '
          f'{rl.max_tokens}'
      )
    self._pool = closing.enter_context(Pool(rl.graders))
    self._grader, self._tools = Grader(self._pool), tools.executed(self._pool)
    self._prompts = self._load(rl.problems, run_folder)
    self._held_out = self._load(rl.held_out, run_folder)
    self._by_id = {prompt.id: prompt for prompt in self._prompts}
    if both := sorted(self._by_id.keys() & {prompt.id for prompt in self._held_out}):
      raise UserError(f'rl: held-out problems must not be trained on, got {len(both)} in both sets, such as "{both[0]}"')
    asked = [
        [one.id, one.messages, one.tools, one.executes, one.checks, one.problem and one.problem.tests]
        for one in self._prompts
    ]
    self.data_hash = hashlib.sha256(json.dumps(asked).encode()).hexdigest()

  def _load(self, names: Sequence[str], run_folder: RunFolder) -> list[Prompt]:
    rl, paths = self._config.rl, [run_folder.path / name for name in names]
    if not paths:
      raise UserError('config: rl.problems and rl.held_out must each name at least one file')
    load = lambda: problems.load(
        paths, self._tokenizer, self._pool, self._folder.problems,
        max_prompt_tokens=self._config.data.context - rl.max_tokens, max_tests=rl.max_tests,
    )  # fmt: skip
    with hosts.after_first('rl problems'):  # it executes the reference solutions; the others read how they did
      found = load()
    names, kept = ', '.join(path.name for path in paths), [one for one in found.prompts if self._is_rewarded(one)]
    dropped, unrewarded = found.dropped, len(found.prompts) - len(kept)
    if unrewarded:
      dropped |= {'prompt: no reward applies to it': unrewarded}
    for drop in found.drops:
      logging.warning('%s: %s: %s', names, drop.rule, drop.evidence)
    counts = ''.join(f'; dropped: {count:,} {rule}' for rule, count in dropped.items())
    logging.info('%s: %d prompts, %d without a reference solution%s', names, len(kept), found.without_solution, counts)
    if not kept:
      weighted = ', '.join(name for name, weight in self._rewards.weights.items() if weight)
      raise UserError(f'rl: {names}: none of the rewards {weighted or "(all have weight 0)"} applies to any prompt')
    return kept

  def _is_rewarded(self, prompt: Prompt) -> bool:
    nothing = Trajectory(prompt.id, 0, 0, (), (), 'stop', '')
    return any(self._rewards.weights[name] for name in rewards.score(prompt, nothing, None, self._rewards))

  def begin(self, stage: Stage, mesh: Mesh, done: int, reference: Any | None, closing: contextlib.ExitStack) -> None:
    """Makes the sampler.

    Args:
      done: steps taken so far.
      reference: parameters that the KL divergence is taken from; None without one.
    """
    config, rl = self._config, self._config.rl
    self._stage, self._mesh, self._reference = stage, mesh, reference
    self._sync, self._synced = Sync(stage.model.config, config.train.dtype), None
    self._store = Store(
        self._folder.rollouts, self._tokenizer.decode, f'{config.stage}:{config.size}', jax.process_index()
    )
    self._measured = Measured(self._folder.measured, self._store, done)
    self._player, self._closing, self._groups = None, closing, layer_groups.names(stage.abstract.params)
    micro_rows = config.train.batch_rows // config.train.accumulation
    self._logps = jax.jit(
        functools.partial(losses.batch_logps, stage.model, micro_rows=micro_rows, chunk=config.train.loss_chunk)
    )
    settings = json.dumps([rl.to_dict(), config.data.context, config.seed, self.data_hash], sort_keys=True)
    self._settings = hashlib.sha256(settings.encode()).hexdigest()[:16]

  def learn(self, step: int, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Takes step number `step`, counted from 1: (new state, its record).

    Raises:
      RunStopped: sampler and trainer disagree, or three updates in a row were not finite.
    """
    began = time.monotonic()
    stamp = self._synchronise(state)
    synced = time.monotonic()
    ids = curriculum.order(list(self._by_id), self._config.seed, step, self._measured, self._window)
    prompts = [self._by_id[id] for id in itertools.islice(ids, self._how.max_groups)]
    sampled = self._rollouts.sample(step, prompts, int(state.step), stamp)
    self._measured.add(step, sampled.groups)
    rolled = time.monotonic()
    record = self._describe(sampled)
    if sampled.kept:
      state, updated = self._update(step, state, sampled.kept)
      record |= updated
    else:
      logging.warning('step %d: all %d groups were dropped, so nothing is updated', step, len(sampled.groups))
    end = time.monotonic()
    spent = sampled.spent
    seconds = {
        'sync_seconds': synced - began,
        'rollout_seconds': rolled - synced,
        'grading_seconds': spent.thread_seconds,
        'grading_wait_seconds': spent.idle_seconds,
        'update_seconds': end - rolled,
    }
    record['timing'] = seconds | spent.shares() | {'replayed': sampled.replayed}
    self._check(step, record)
    return state, record

  def pass_over(self, step: int) -> None:
    """Notes that a step has sampled nothing: a resume must not count groups that an earlier run stored for it."""
    self._measured.add(step, ())

  def evaluate(self, state: TrainState) -> dict[str, Any]:
    """Mean pass rate of the held-out problems, and the share solved; each is answered once, by the likeliest tokens."""
    began = time.monotonic()
    self._synchronise(state)
    answers = self._rollouts.answers(self._held_out)
    sums = np.zeros((len(self._held_out), 3))
    for index, answer in answers.items():
      rate = 0.0 if rollout.INVALID in answer.notes else pass_rate(answer)
      sums[index] = rate, rate == 1.0, sum(len(turn.tokens) for turn in answer.turns)
    sums = np.sum(hosts.gather('answers to held-out problems', sums.tolist()), axis=0)
    rate, solved, length = np.mean(sums, axis=0).tolist()
    figures = {'pass_rate': rate, 'solved': solved, 'length': length, 'problems': len(self._held_out)}
    return figures | {'timing': {'eval_seconds': time.monotonic() - began}}

  def _synchronise(self, state: TrainState) -> str:
    """Gives the sampler the parameters, if it has others; returns what roll-outs depend on besides step and prompts."""
    if self._synced is None or self._synced[0] is not state:
      params, found = self._sync(self._policy(state.params))
      if self._player is None:
        self._open_sampler(params)
      else:
        self._player.engine.load(params)
      self._synced = state, f'{found}-{self._settings}'
    return self._synced[1]

  def _open_sampler(self, params: Any) -> None:
    rl, model = self._config.rl, self._stage.model.config
    engine = Engine(Transformer(model, self._stage.model.dtype), params, rl.slots, self._config.data.context)
    self._player = Player(engine, rl.graders, rl.patience_s)
    self._closing.callback(self._player.close)
    self._rollouts = rollout.Rollouts(
        self._player, self._tokenizer, self._environment, self._score, self._store, self._how, self._config.seed
    )

  def _environment(self, prompt: Prompt) -> Environment:
    """Of one roll-out: calls are executed where the prompt says so, and otherwise the first reply is the answer."""
    if not prompt.executes:
      return SingleTurn()
    return ToolUse([self._tools[name] for name in prompt.executes], self._config.rl.max_turns)

  def _score(self, prompt: Prompt, trajectory: Trajectory) -> Trajectory:
    graded = self._grader.grade(prompt.problem, trajectory.text) if prompt.problem else None
    return rewards.scored(prompt, trajectory, graded, self._rewards)

  def _describe(self, sampled: rollout.Sampled) -> dict[str, Any]:
    valid = [group for group in sampled.groups if not rollout.invalid_because(group)]
    rolled = [one for group in valid for one in group.trajectories]
    lengths = [sum(len(turn.tokens) for turn in one.turns) for one in rolled]
    return rewards.summary(rolled) | {
        'length': float(np.mean(lengths)) if lengths else 0.0,
        'cut_off': float(np.mean([one.end == 'length' for one in rolled])) if rolled else 0.0,
        'groups': len(sampled.kept),
        'groups_sampled': len(sampled.groups),
        'groups_equal': sampled.equal,
        'groups_invalid': sampled.invalid,
    }

  def _update(self, step: int, state: TrainState, kept: Sequence[Group]) -> tuple[TrainState, dict[str, Any]]:
    """Updates the policy with the groups of a step, once per mini-batch and epoch."""
    rl, updates = self._config.rl, []
    parts = batches.mini_batches(len(kept), rl.mini_batches, seed=self._config.seed, step=step)
    placed = [self._batch([kept[index] for index in part]) for part in parts]
    if self._reference is not None:
      placed = [batch.replace(reference_logps=self._logps(self._policy(self._reference), batch)) for batch in placed]
    if len(placed) * rl.epochs > 1:
      placed = [batch.replace(old_logps=self._logps(self._policy(state.params), batch)) for batch in placed]
    for _ in range(rl.epochs):
      for batch in placed:
        state, found = self._stage.train_step(state, batch)
        updates.append(found)
    updates = jax.device_get(updates)
    last, mean = updates[-1], lambda name: float(np.mean([found[name] for found in updates]))
    scalars = [name for name, value in last.items() if np.ndim(value) == 0 and name not in _LAST + _COUNTS]
    record = {name: mean(name) for name in scalars}
    record |= {name: last[name].item() for name in _LAST} | metrics.by_layer(last, self._groups)
    return state, record | {'tokens': int(sum(found['tokens'] for found in updates)), 'updates': len(updates)}

  def _batch(self, groups: Sequence[Group]) -> batches.PolicyBatch:
    rl, trajectories, values = self._config.rl, [], []
    for group in groups:
      earned = np.asarray([one.reward for one in group.trajectories])
      values += advantages.advantages(earned, baseline=rl.baseline, norm_adv_by_std=rl.norm_adv_by_std).tolist()
      trajectories += group.trajectories
    rows = batches.policy_rows(
        trajectories, values, context=self._config.data.context, unit=self._config.train.batch_rows, loss_agg=rl.loss_agg,
        length_divisor=rl.max_tokens if rl.loss_agg == 'seq_sum' else None,
    )  # fmt: skip
    return batches.place(batches.PolicyBatch, rows, self._mesh)

  def _check(self, step: int, record: dict[str, Any]) -> None:
    difference, most = record.get('logp_difference', 0.0), self._config.rl.max_logp_difference
    if difference > most:
      raise RunStopped(
          f'{self._config.stage}: log-probabilities of sampler and trainer differ by {difference:.3g} on average at step '
          f'{step}, more than rl.max_logp_difference = {most:g}; the sampler computes another model, or too coarsely'
      )


# Fields of an update that count or follow a schedule; those of the last update of a step are reported.
_LAST = ('lr', 'skipped', 'skipped_in_a_row')
# What FLOPs are counted from; of these only the sum of tokens is reported.
_COUNTS = ('tokens', 'pairs', 'local_pairs')
