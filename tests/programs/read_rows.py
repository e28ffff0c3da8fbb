"""Reads a row and imports the loader, then fails if that imported TensorFlow: ROWS_DIR SOURCE."""

import sys

from iquest_jax.data import loader
from iquest_jax.data.rows.read import Rows

assert loader and len(Rows(*sys.argv[1:], 'train', '')[0]['tokens']) == 64
assert not {'tensorflow', 'seqio'} & sys.modules.keys()
