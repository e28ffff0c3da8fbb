"""A small stage of reinforcement learning as users run it: a parent with random parameters, prompts with instructions."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from iquest_jax.checkpoint import lineage
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.model import sizes
from iquest_jax.model.sizes import ModelConfig
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer
from launch import command

from tests.model.small_models import random_params

STAGE = 'rl_instruct'
TEXTS = ['user\nSay a word, please.\n', 'assistant\nyes, a word of mine\n', 'the end of a line, or two']
FIELDS = dict(vocab=320, d_model=32, d_ff=64, layers=2, heads=2, kv_heads=2, head_dim=16, max_context=128)
# A model that is not trained keeps to some of these now and then.
CHECKS = ({'check': 'no_commas'}, {'check': 'most_words', 'count': 1}, {'check': 'lower_case'})
SMALL = {
    **{f'model.{name}': value for name, value in FIELDS.items()},
    'data.context': 128,
    'train.steps': 3,
    'train.batch_rows': 2,
    'train.z_loss': 1e-9,  # too little to move anything; reported all the same
    'checkpoint.every': 2,
    'eval.every': 3,
    'optim.peak_lr': 1e-2,
    # The first step of Adam moves an element by the rate, whichever size its gradient has; a large epsilon keeps the update
    # in proportion to the gradient, as tests compare it.
    'optim.eps': 1e-3,
    'optim.warmup': 0.0,
    'rl.problems': ('problems.jsonl',),
    'rl.held_out': ('held_out.jsonl',),
    'rl.prompts_per_step': 2,
    'rl.group_size': 4,
    'rl.max_groups': 5,
    'rl.max_tokens': 10,
    'rl.slots': 3,
    'rl.graders': 1,
    'rl.overlong_cache': 4,
}


def prompts(count: int, start: int = 0) -> list[dict[str, Any]]:
  asked = lambda number: [{'role': 'user', 'content': f'Say a word, {number}.'}]
  return [{'id': f'p{n}', 'messages': asked(n), 'checks': CHECKS} for n in range(start, start + count)]


def write(workdir: pathlib.Path, problems=None, held_out=None) -> pathlib.Path:
  """A run folder with a tokenizer, problems, and a finished sft_instruct of random parameters."""
  run = RunFolder(workdir)
  tokenizer = Tokenizer.train(TEXTS * 3, FIELDS['vocab'])
  tokenizer.save(run.tokenizer)
  write_problems(workdir, problems, held_out)
  write_parent(run.stage('sft_instruct'), tokenizer.fingerprint)
  return workdir


def write_problems(workdir: pathlib.Path, problems=None, held_out=None) -> None:
  for name, records in (('problems', problems or prompts(6)), ('held_out', held_out or prompts(3, 100))):
    (workdir / f'{name}.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))


def write_pairs(workdir: pathlib.Path) -> dict[str, Any]:
  """Writes preference pairs, eight to learn from and six held out, with two rules; returns how to learn from them."""
  for name, numbers in (('train', range(8)), ('held_out', range(20, 26))):
    pairs = [
        {'messages': [{'role': 'user', 'content': f'Say a word, {number}.'}], 'chosen': 'no', 'rejected': 'yes',
         'rule': f'say: {number % 2}'}
        for number in numbers
    ]  # fmt: skip
    (workdir / f'{name}.jsonl').write_text(''.join(json.dumps(pair) + '\n' for pair in pairs))
  return {
      'rl.objective': 'dpo', 'rl.dpo.pairs': ('train.jsonl',), 'rl.dpo.held_out': ('held_out.jsonl',),
      'rl.dpo.pairs_per_step': 4,
  }  # fmt: skip


def write_parent(folder, tokenizer: str, params: Any = None, **fields: Any) -> None:
  """A finished stage with these parameters, or random ones, of a model with these fields changed."""
  model = {**vars(sizes.get('tiny')), **FIELDS, **fields}
  params = jax.tree.map(jax.numpy.asarray, random_params(ModelConfig(**model)) if params is None else params)
  before = lineage.imported(folder.name, 'tiny', '', model) | {'tokenizer': tokenizer}
  checkpoints = Checkpoints(folder)
  checkpoints.save(1, params, {'step': jax.numpy.zeros((), jax.numpy.int32)}, before | {'steps': 1})
  checkpoints.close()


def overrides(**changes: Any) -> list[str]:
  """SMALL with changes, as flags; values are Python literals."""
  return [f'--exp.{key}={value}' for key, value in (SMALL | changes).items()]


def train(workdir: pathlib.Path, **changes: Any) -> list[str]:
  """The arguments of python that train the stage."""
  return ['-m', 'launch.tpu', f'--exp={STAGE}:size=tiny', f'--workdir={workdir}', *overrides(**changes)]


def config(changes: Mapping[str, Any]):
  """The configuration for a call within this process, on its eight devices."""
  made = command.experiment(f'{STAGE}:size=tiny')
  made.update_from_flattened_dict({**SMALL, 'mesh.data': 8, 'mesh.fsdp': 1, 'train.batch_rows': 8, **changes})
  return made


def records(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """metrics.jsonl without times."""
  path = workdir / STAGE / 'metrics.jsonl'
  times = ('timing', 'step_seconds', 'tokens_per_second')
  found = [json.loads(line) for line in path.read_text().splitlines()]
  return [{key: value for key, value in record.items() if key not in times} for record in found]


def lines(workdir: pathlib.Path) -> dict[str, list[str]]:
  """{file: its groups}, sorted, since they are stored as they finish."""
  return {path.name: sorted(path.read_text().splitlines()) for path in (workdir / STAGE / 'rollouts').iterdir()}


def stored(workdir: pathlib.Path) -> list[tuple[int, int]]:
  """(step, index) of every group in the store, in order of the files."""
  paths = sorted((workdir / STAGE / 'rollouts').iterdir())
  found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
  return [(record['step'], record['index']) for record in found]
