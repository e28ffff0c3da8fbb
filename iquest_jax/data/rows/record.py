"""A packed row as it is stored: a tf.train.Example of its tokens, the lengths of its documents and runs of loss weights.

Padding, positions and segment ids follow from the lengths, so they are not stored. Integers are varints, which ArrayRecord
compresses; TFDS reads the same records by the description that `features` gives.
"""

import functools
import json
from typing import Any

import numpy as np

from iquest_jax.data.rows.packing import FIELDS, Row

# What a record holds. `weight_values[i]` is the loss weight of the next `weight_lengths[i]` tokens.
_FIELDS = {'document_lengths': 'int32', 'tokens': 'int32', 'weight_lengths': 'int32', 'weight_values': 'float32'}


def serialize(row: Row) -> bytes:
  """The record of a row; the same row gives the same bytes."""
  used = int(np.count_nonzero(row['segment_ids']))
  weights = row['loss_weights'][:used]
  starts = np.concatenate([[0], 1 + np.flatnonzero(weights[1:] != weights[:-1])])
  example = _example_type()()
  fields = example.features.feature
  fields['tokens'].int64_list.value.extend(row['tokens'][:used].tolist())
  fields['document_lengths'].int64_list.value.extend(np.bincount(row['segment_ids'][:used])[1:].tolist())
  fields['weight_lengths'].int64_list.value.extend(np.diff(starts, append=used).tolist())
  fields['weight_values'].float_list.value.extend(weights[starts].tolist())
  return example.SerializeToString(deterministic=True)


def parse(record: bytes, context: int) -> Row:
  """The row of a record, padded to T = `context` tokens; raises ValueError if it is not one."""
  fields = _example_type().FromString(record).features.feature
  tokens, lengths, runs = (
      np.fromiter(fields[name].int64_list.value, np.int32, len(fields[name].int64_list.value))
      for name in ('tokens', 'document_lengths', 'weight_lengths')
  )
  values = np.asarray(fields['weight_values'].float_list.value, np.float32)
  used = len(tokens)
  if not lengths.sum() == runs.sum() == used <= context or len(runs) != len(values):
    raise ValueError(f'its lengths do not fit {used} tokens in a row of {context}')
  row = {name: np.zeros(context, dtype) for name, dtype in FIELDS.items()}
  row['tokens'][:used] = tokens
  row['loss_weights'][:used] = np.repeat(values, runs)
  row['segment_ids'][:used] = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
  row['positions'][:used] = np.arange(used) - np.repeat(np.cumsum(lengths) - lengths, lengths)
  return row


def features() -> str:
  """The text of TFDS's features.json."""
  tensor = lambda dtype: {
      'pythonClassName': 'tensorflow_datasets.core.features.tensor_feature.Tensor',
      'tensor': {'dtype': dtype, 'encoding': 'none', 'shape': {'dimensions': ['-1']}},
  }
  return _to_json({
      'pythonClassName': 'tensorflow_datasets.core.features.features_dict.FeaturesDict',
      'featuresDict': {'features': {name: tensor(dtype) for name, dtype in _FIELDS.items()}},
  })


def dataset_info(source: str, split: str, version: str, shard_lengths: list[int], size: int) -> str:
  """The text of TFDS's dataset_info.json for one split, whose shards take `size` bytes."""
  return _to_json({
      'name': source,
      'version': version,
      'description': f'Packed rows of {source}.',
      'fileFormat': 'array_record',
      'disableShuffling': True,
      'splits': [{
          'name': split,
          'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
          'numBytes': str(size),
          'shardLengths': [str(length) for length in shard_lengths],
      }],
  })  # fmt: skip


def _to_json(content: dict[str, Any]) -> str:
  return json.dumps(content, indent=1, sort_keys=True) + '\n'


@functools.cache
def _example_type() -> type:
  """tf.train.Example without TensorFlow; imported here since it costs half a second, which `--help` need not pay."""
  from tensorflow_datasets.proto import tf_example_pb2

  return tf_example_pb2.Example
