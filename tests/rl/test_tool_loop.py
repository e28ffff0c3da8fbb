"""Several turns with tools through the loop as users run it, by a small model that knows two conversations by heart."""

import functools
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iquest_jax.model import sizes
from iquest_jax.model.sizes import ModelConfig
from iquest_jax.model.transformer import Transformer
from iquest_jax.rl import batches
from iquest_jax.rl.store import Store
from iquest_jax.rl.tools import calculator
from iquest_jax.run_folder import RunFolder
from iquest_jax.text import chat, example
from iquest_jax.text.tokenizer import Tokenizer

from tests.model.small_models import random_params
from tests.rl import small_stage
from tests.rl.small_stage import records, stored, train
from tests.run import helpers as run_helpers
from tests.run.helpers import killed_at

STAGE = 'rl_instruct'
CONTEXT = 192
CALCULATOR = calculator()
HOW = {
    'model.vocab': 0,  # of the tokenizer, once it is trained
    'model.max_context': CONTEXT,
    'data.context': CONTEXT,
    'checkpoint.every': 1,
    'checkpoint.keep': 9,
    'optim.peak_lr': 3e-3,
    'rl.problems': ('asked.jsonl',),
    'rl.held_out': ('asked_held_out.jsonl',),
    'rl.max_turns': 3,
    'rl.max_tokens': 60,
    'rl.group_size': 8,
    'rl.max_groups': 3,
    'rl.slots': 8,
}


QUESTION = {'role': 'user', 'content': 'What is 2 * 4?'}
RIGHT, WRONG = ({'name': 'calculator', 'arguments': {'expression': f'2 {operator} 4'}} for operator in '*+')


def conversation(made):
  """One in which the calculator is called, and its result is the answer."""
  result = CALCULATOR(made['arguments'])
  called = {'role': 'assistant', 'content': '', 'tool_calls': (made,)}
  answer = {'role': 'assistant', 'content': f'It is {result}.'}
  return chat.segments([QUESTION, called, {'role': 'tool', 'content': result}, answer], (CALCULATOR.definition,))


def learnt(config, conversations):
  """Parameters that know the conversations by heart: what they share, then any of them."""
  model, width = Transformer(config, jnp.float32), max(len(one.tokens) for one in conversations)
  padded = lambda values: np.stack([np.pad(one, (0, width - len(one))) for one in values])
  tokens_BT = padded([one.tokens for one in conversations])
  weights_BT = padded([one.loss_weights for one in conversations])
  segments_BT = padded([np.ones_like(one.tokens) for one in conversations])
  positions_BT = np.broadcast_to(np.arange(width, dtype=np.int32), tokens_BT.shape)

  def loss(params):
    logits_BTV = model.apply({'params': params}, tokens_BT, segments_BT, positions_BT, method='logits')
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV[:, :-1], tokens_BT[:, 1:])
    return jnp.sum(losses_BT * weights_BT[:, 1:]) / jnp.sum(weights_BT[:, 1:])

  optimizer = optax.adam(1e-2, b2=0.99)

  @jax.jit
  def update(params, moments):
    updates, moments = optimizer.update(jax.grad(loss)(params), moments)
    return optax.apply_updates(params, updates), moments

  params = random_params(config)
  moments = optimizer.init(params)
  for _ in range(60):
    params, moments = update(params, moments)
  return params


def write(workdir):
  """A run folder with a parent that asks the calculator, and questions whose answers must."""
  texts = [conversation(made) for made in (RIGHT, WRONG)]
  tokenizer = Tokenizer.train([''.join(part for part, _ in segments if isinstance(part, str)) for segments in texts], 512)
  tokenizer.save(RunFolder(workdir).tokenizer)
  fields = {'vocab': tokenizer.vocab_size, 'max_context': CONTEXT}
  config = ModelConfig(**{**vars(sizes.get('tiny')), **small_stage.FIELDS, **fields})
  params = learnt(config, [example.build(tokenizer, segments) for segments in texts])
  small_stage.write_parent(RunFolder(workdir).stage('sft_instruct'), tokenizer.fingerprint, params, **fields)
  scored = {'messages': [QUESTION], 'tools': ['calculator'], 'checks': [{'check': 'tool_calls', 'calls': [RIGHT]}]}
  for name, ids in (('asked', ('p1', 'p2', 'p3')), ('asked_held_out', ('p4',))):
    (workdir / f'{name}.jsonl').write_text(''.join(json.dumps({'id': id, **scored}) + '\n' for id in ids))
  return workdir


def command(workdir):
  vocab = Tokenizer.load(RunFolder(workdir).tokenizer).vocab_size
  return train(workdir, **{**HOW, 'model.vocab': vocab})


@pytest.fixture(name='straight', scope='session')
def _straight(session_folder, commands):
  """A run folder with a finished stage that nothing interrupted."""
  folder = session_folder / 'tool_loop'
  folder.parent.mkdir(exist_ok=True)
  with run_helpers.locked(session_folder / 'tool_loop.lock'):
    if not (folder / 'made').exists():
      commands.run(command(write(folder)))
      (folder / 'made').touch()
  return folder


@functools.cache
def groups(workdir):
  """The groups of all steps, read back, and the tokenizer."""
  tokenizer = Tokenizer.load(RunFolder(workdir).tokenizer)
  store = Store(workdir / STAGE / 'rollouts', tokenizer.decode, '')
  return [group for step in store.steps() for group in store.read(step).values()], tokenizer


def test_calls_are_executed_in_the_loop_and_the_right_ones_earn(straight):
  found, tokenizer = groups(straight)
  played = [one for group in found for one in group.trajectories]
  answered = [one for one in played if len(one.turns) > 1]
  assert len(answered) > len(played) / 3
  matched = 0
  for one in answered:
    calls, shown = chat.parse(one.earlier[0]).tool_calls, tokenizer.decode(one.turns[0].observation)
    if calls in ((RIGHT,), (WRONG,)):
      matched += 1
      assert f'<tool_response>\n{CALCULATOR(calls[0]["arguments"])}\n</tool_response>' in shown
    right = RIGHT in [made for text in (*one.earlier, one.text) for made in chat.parse(text).tool_calls]
    assert (one.reward > 0) == right
  assert matched
  steps = [record for record in records(straight) if record['kind'] == 'train']
  assert all(0 < record['reward_tool_values'] <= record['reward_tool_schema'] <= 1 for record in steps)
  assert any(record['groups'] for record in steps) and 'reward_instructions' not in steps[0]


def test_observed_tokens_are_in_the_sequence_with_weight_zero(straight):
  """And the trainer's log-probabilities are the sampler's: it learns the ids that were sampled and observed."""
  found, tokenizer = groups(straight)
  for group in found:
    for one in (one for one in group.trajectories if len(one.turns) > 1):
      first, observed = one.turns[0].tokens, one.turns[0].observation
      start = len(one.prompt_tokens) + len(first)
      assert one.tokens[start : start + len(observed)] == observed and observed
      batch = batches.policy_rows([one], [1.0], context=CONTEXT, unit=1, loss_agg='token_mean')
      # The weight of a token stands where it is the target.
      weights = batch['loss_weights'][0, start - 1 : start - 1 + len(observed)]
      assert not weights.any() and batch['loss_weights'].sum() == sum(len(turn.tokens) for turn in one.turns)
  for record in (record for record in records(straight) if record.get('groups')):
    assert 0 < record['logp_difference'] < 1e-5 and record['grad_norm'] > 0


@pytest.mark.long
def test_killed_between_turns_it_ends_bit_equal(straight, tmp_path, commands):
  workdir = shutil.copytree(straight, tmp_path / 'run', ignore=shutil.ignore_patterns(STAGE))
  for place, count in (('iquest_jax.rl.environment:ToolUse.step', 20), ('iquest_jax.infer.engine:Engine.extend', 25)):
    commands.run(killed_at(place, count, command(workdir)), status=-signal.SIGKILL)
  commands.run(command(workdir))
  assert sorted(stored(workdir)) == sorted(set(stored(workdir))) == sorted(stored(straight))
  run_helpers.assert_same_state(workdir / STAGE, straight / STAGE, 3)
  assert records(workdir) == records(straight)
