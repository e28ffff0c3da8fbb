"""Bits per byte: nats of text tokens over ln 2 and their bytes, against a plain computation in float64."""

import json
import math

import numpy as np
import pytest

from iquest_jax.data.loader import Loader
from iquest_jax.data.rows.read import Rows
from iquest_jax.errors import UserError
from iquest_jax.eval import bits_per_byte
from iquest_jax.eval.bits_per_byte import byte_counts, measure, of_rows, stage_config
from iquest_jax.text.tokenizer import SPECIAL, TAGS, Tokenizer

from tests.eval import small_stage
from tests.infer import oracle
from tests.model.small_models import random_params


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return small_stage.write(tmp_path_factory.mktemp('run'))


def plain(run, source):
  """(nats, bytes) of the held-out rows of a source, document by document, in float64."""
  tokenizer, nats, length = Tokenizer.load(run.tokenizer), 0.0, 0
  special = {tokenizer.id(token) for token in ('<unk>', '<s>', '</s>', *SPECIAL)}
  rows = Rows(run.rows('sft_instruct'), source, 'held_out', '')
  for row in [rows[i] for i in range(min(3, len(rows)))]:
    for segment in set(row['segment_ids'].tolist()) - {0}:
      tokens = row['tokens'][row['segment_ids'] == segment]
      weights = row['loss_weights'][row['segment_ids'] == segment]
      whole = np.zeros((1, 32), np.int32)  # one length, one compile; what follows a token does not change it
      whole[0, : len(tokens)] = tokens
      logps = np.asarray(oracle.log_probabilities(small_stage.MODEL, random_params(small_stage.MODEL), whole))
      for at in range(1, len(tokens)):
        if weights[at] > 0 and tokens[at] not in special:
          nats -= float(logps[at - 1, tokens[at]])
          # One token may be part of a character, so its bytes are those it adds to a text.
          length += len(tokenizer._without_special.id_to_token(int(tokens[at])))
  return nats, length


@pytest.mark.parametrize('devices', [1, 4])
def test_it_is_the_plain_computation_per_source(run, monkeypatch, tmp_path, devices):
  answers = small_stage.answers(run, monkeypatch, devices=devices)
  results = measure(run, 'sft_instruct', tmp_path / 'out', answers.settings, answers.model, answers.params)
  assert set(results['figures']) == set(small_stage.SOURCES) == set(results['rows'])
  for source, figure in results['figures'].items():
    nats, length = plain(run, source)
    assert sum(row[1] for row in results['rows'][source]) == length
    np.testing.assert_allclose(figure, nats / math.log(2) / length, rtol=1e-5)
  assert results['scored'] == 6 and json.loads((tmp_path / 'out/results.json').read_text()) == results


def test_what_is_measured_is_kept_until_checkpoint_or_rows_change(run, monkeypatch, tmp_path):
  answers = small_stage.answers(run, monkeypatch)
  results = measure(run, 'sft_instruct', tmp_path, answers.settings, answers.model, answers.params)
  monkeypatch.setattr(bits_per_byte, 'byte_counts', None)  # nothing is measured again
  assert measure(run, 'sft_instruct', tmp_path, answers.settings, answers.model, answers.params) == results
  with pytest.raises(TypeError):
    measure(run, 'sft_instruct', tmp_path, answers.settings | {'step': 13}, answers.model, answers.params)


def test_byte_counts_are_those_of_the_text_of_any_tokens():
  tokenizer = Tokenizer.train([small_stage.TEXT * 3], 330)
  counts = byte_counts(tokenizer)
  for text in (small_stage.TEXT, 'ß ∀x <think>y</think> 123\t', '\n\n  '):
    ids = tokenizer.encode(text)
    assert counts[ids].sum() == len(text.encode())
  for token in ('<s>', *SPECIAL):
    assert counts[tokenizer.id(token)] == -1
  assert [counts[tokenizer.encode(tag)[0]] for tag in TAGS] == [len(tag) for tag in TAGS]


def test_byte_counts_of_sentencepiece_take_blanks_and_byte_tokens_for_what_they_are():
  file = json.loads(Tokenizer.train(['a'], 300).to_str())
  blank = {'type': 'Replace', 'pattern': {'String': '▁'}, 'content': ' '}
  file['decoder'] = {'type': 'Sequence', 'decoders': [blank, {'type': 'ByteFallback'}, {'type': 'Fuse'}]}
  vocabulary = file['model']['vocab']
  renamed = {'a': '▁a', 'b': '<0xC3>', 'c': '∀', 'd': '▁▁'}
  file['model']['vocab'] = {renamed.get(token, token): index for token, index in vocabulary.items()}
  counts = byte_counts(Tokenizer(json.dumps(file)))
  assert [counts[vocabulary[token]] for token in 'abcd'] == [2, 1, 3, 2]


def test_rows_count_by_their_bytes():
  assert of_rows([[math.log(2) * 6, 2], [math.log(2) * 2, 2]]) == 2.0


def test_a_stage_without_a_configuration_is_refused(run):
  with pytest.raises(UserError, match='bits_per_byte: .*config.json is missing or damaged'):
    stage_config(run, 'anneal')
  assert Loader.of_stage(stage_config(run, 'sft_instruct'), run).sources == small_stage.SOURCES
