"""A stage small enough to be prepared in a second, and the check of its rows."""

from ml_collections import ConfigDict

from iquest_jax.data.rows.manifest import check_manifest


def stage(**changes) -> ConfigDict:
  """The stage with changes, as in data__context=8."""
  config = ConfigDict({
      'stage': 'midtrain_32k',
      'size': 'tiny',
      'seed': 0,
      'model': {'vocab': 512},
      'data': {
          'context': 64,
          'learn': 'all',
          'fim': {'share': 0.5, 'spm': 0.5, 'levels': (('characters', 1.0), ('function', 1.0))},
          'rows_dir': '',
          'buckets': (0.0, 1.0),
          'closed_loop': {'every': 0},
          'mixture': ((0, (('reasoning_qa', 3.0), ('file_level', 1.0))), (2, (('commits', 1.0),))),
      },
      'train': {'steps': 4, 'batch_rows': 8},
      'eval': {'rows': 3},
  })
  for key, value in changes.items():
    section, _, field = key.rpartition('__')
    (config[section] if section else config)[field] = value
  return config


def check(folder, manifest, **changes):
  """check_manifest of the rows of `stage()`, with changed arguments."""
  expected = dict(sources=('commits',), context=64, tokenizer_fingerprint=manifest['tokenizer'], command='THE COMMAND')
  return check_manifest(folder, **{**expected, **changes})
