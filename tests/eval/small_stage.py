"""A stage with a small random model, as if it were trained: tokenizer, rows, configuration, and answers of its model."""

import dataclasses
import types

import jax
import jax.numpy as jnp

from iquest_jax import sharding
from iquest_jax.checkpoint import restore
from iquest_jax.config import to_json
from iquest_jax.eval import answers as answers_module
from iquest_jax.eval.answers import EngineAnswers
from iquest_jax.model.transformer import Transformer
from iquest_jax.run_folder import RunFolder, write_whole
from launch import command

from tests.model.small_models import LOOP, random_params
from tests.run.helpers import VOCAB, write_rows, write_tokenizer

MODEL = dataclasses.replace(LOOP, vocab=VOCAB)
TEXT = 'def add(a, b):\n  return a + b\n\nclass Größe:\n  """Über alles."""\n'
SOURCES = ('code', 'facts')


def write(folder) -> RunFolder:
  """The run folder of a stage sft_instruct with rows of two sources."""
  write_tokenizer(folder, TEXT)
  write_rows(folder, 'sft_instruct', 32, SOURCES)
  config = command.experiment('sft_instruct:tiny')
  config.data.context, config.data.mixture, config.eval.rows = 32, ((0, (('code', 1.0), ('facts', 1.0))),), 3
  run = RunFolder(folder)
  run.stage('sft_instruct').path.mkdir()
  write_whole(run.stage('sft_instruct').config, to_json(config))
  return run


def answers(run: RunFolder, monkeypatch, slots: int = 3, devices: int = 1) -> EngineAnswers:
  """Those of the random model, on a mesh of so many devices."""
  mesh = sharding.make_mesh(dict(data=-1, fsdp=1, context=1, tensor=1), jax.devices()[:devices])
  abstract = restore.abstract_params(MODEL, mesh)
  params = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), random_params(MODEL), abstract)
  lineage = {'size': 'small', 'steps': 12, 'end_fingerprint': 'f' * 16}
  monkeypatch.setattr(answers_module.restore, 'newest_model', lambda folder: (Transformer(MODEL, jnp.float32), params))
  saved = types.SimpleNamespace(latest_step=lambda: lineage['steps'], lineage=lambda step: lineage)
  monkeypatch.setattr(answers_module, 'Checkpoints', lambda folder: saved)
  return EngineAnswers(run, 'sft_instruct', slots)
