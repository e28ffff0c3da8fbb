"""Bits per byte of held-out text, per source: comparable between tokenizers, where loss per token is not.

Over the tokens of a source's held-out rows that are learned and are text, it is the sum of -log p in nats, divided by ln 2
and by the sum of their UTF-8 bytes. Special tokens and the first token of a document have no part in either sum. The
model's log-probabilities are float32 and are summed in float64. Legend: B batch, T positions, V vocabulary.
"""

import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from iquest_jax import sharding
from iquest_jax.data.loader import Loader
from iquest_jax.errors import UserError
from iquest_jax.eval.suites import BITS_PER_BYTE
from iquest_jax.hosts import from_first
from iquest_jax.kernels.cross_entropy import target_logps
from iquest_jax.run_folder import RunFolder, write_whole
from iquest_jax.text.tokenizer import Tokenizer


def byte_counts(tokenizer: Tokenizer) -> np.ndarray:
  """int [V]: the UTF-8 bytes that each token stands for; -1 for a special one and for an id without a token.

  Byte-level tokens have one character per byte; those of SentencePiece are text with `▁` for a blank, or `<0xNN>`.
  """
  file = json.loads(tokenizer.to_str())
  vocabulary = file['model']['vocab']
  counts = np.full(tokenizer.vocab_size, -1)
  byte_level = 'ByteLevel' in json.dumps(file['decoder'])
  for token, index in vocabulary.items():
    is_byte = len(token) == 6 and token.startswith('<0x') and token.endswith('>')
    counts[index] = len(token) if byte_level else 1 if is_byte else len(token.replace('▁', ' ').encode())
  for token in file['added_tokens']:  # tags are text that the model writes, special tokens are not
    counts[token['id']] = -1 if token['special'] else len(token['content'].replace('▁', ' ').encode())
  return counts


def measure(
    run: RunFolder, stage: str, folder: pathlib.Path, settings: dict[str, Any], model: Any, params: Any
) -> dict[str, Any]:
  """Measures a stage's model on the held-out rows of its sources, eval.rows of each; returns and writes results.json.

  Args:
    folder: of this run alone.
    settings: of the checkpoint, see EngineAnswers; a results.json with the same ones is kept.
    model, params: as `restore.newest_model` gives them.

  Raises:
    UserError: the stage has no configuration or rows.
  """
  config = stage_config(run, stage)
  loader = Loader.of_stage(config, run)
  settings = {'suite': BITS_PER_BYTE, 'rows': loader.manifest_hash, 'per_source': config.eval.rows, 'answers': settings}
  path = folder / 'results.json'
  earlier = json.loads(path.read_text()) if path.exists() else {}
  same = earlier.get('settings') == json.loads(json.dumps(settings))
  # Hosts may see the file at different times, and what follows needs all of them.
  if earlier := from_first('earlier results', earlier if same else {}):
    return earlier
  mesh = jax.tree.leaves(params)[0].sharding.mesh
  counts = byte_counts(Tokenizer.load(run.tokenizer))
  sums = {source: [] for source in loader.sources}
  with jax.set_mesh(mesh):
    everywhere = NamedSharding(mesh, PartitionSpec())

    def score(params, batch):
      hidden_BTD, _ = model.apply({'params': params}, batch.tokens, batch.segment_ids, batch.positions)
      logps_BT, _ = target_logps(hidden_BTD, params['head'], batch.targets, config.train.loss_chunk)
      return logps_BT, batch.targets, batch.loss_weights > 0, batch.source_ids

    score = jax.jit(score, out_shardings=everywhere)
    rows = max(sharding.ways('batch', mesh), min(config.train.batch_rows, 8))
    rows += -rows % sharding.ways('batch', mesh)
    for batch in loader.held_out(config.eval.rows, rows, sharding.batch_shardings(mesh)):
      logps_BT, targets_BT, learned_BT, source_B = map(np.asarray, score(params, batch))
      for logps_T, targets_T, learned_T, source in zip(logps_BT, targets_BT, learned_BT, source_B):
        text_T = learned_T & (counts[targets_T] >= 0)
        if text_T.any():  # rows that fill up a batch have no weight
          nats = -math.fsum(logps_T[text_T].astype(np.float64))
          sums[loader.sources[source]].append([nats, int(counts[targets_T[text_T]].sum())])
  figures = {source: of_rows(rows) for source, rows in sums.items() if rows}
  results = {'settings': settings, 'figures': figures, 'scored': sum(map(len, sums.values())), 'missing': {}, 'rows': sums}
  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(results, indent=1) + '\n')
  return results


def of_rows(rows: list[list[float]]) -> float:
  """Bits per byte of rows of (nats, bytes)."""
  nats, length = (math.fsum(column) for column in zip(*rows))
  return nats / math.log(2) / length


def stage_config(run: RunFolder, stage: str) -> ConfigDict:
  """The configuration that a stage was trained with; raises UserError if it has none."""
  try:
    return ConfigDict(json.loads(run.stage(stage).config.read_text()))
  except (OSError, ValueError):
    path = run.stage(stage).config
    raise UserError(f'{BITS_PER_BYTE}: {path} is missing or damaged; it needs a stage that was trained here') from None
