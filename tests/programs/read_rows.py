"""Reads a row, writes it again and imports the loader, then fails if that imported TensorFlow: ROWS_DIR SOURCE."""

import sys
import tempfile

from iquest_jax.data import loader
from iquest_jax.data.rows.read import Rows
from iquest_jax.data.rows.write import write_shard

row = Rows(*sys.argv[1:], 'train', '')[0]
with tempfile.TemporaryDirectory() as folder:
  assert loader and write_shard(f'{folder}/shard', [row], len(row['tokens']))['rows'] == 1
assert not {'tensorflow', 'seqio'} & sys.modules.keys()
