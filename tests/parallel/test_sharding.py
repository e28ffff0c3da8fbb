"""The sharding of every parameter and of a batch, against literal tables."""

import dataclasses

import jax
import pytest
from jax.sharding import PartitionSpec as P

from iquest_jax import sharding
from iquest_jax.model import transformer

from tests.model.small_models import DENSE, LOOP
from tests.parallel.split_rows import mesh_of

EMBED, ROWS = ('fsdp', 'context'), ('data', 'fsdp')
# The first dimension of everything under `layers` is the layer.
DENSE_SPECS = {
    'embedder/embedding': P('tensor', EMBED),
    'layers/attention/query': P(None, EMBED, 'tensor', None),
    'layers/attention/key': P(None, EMBED, 'tensor', None),
    'layers/attention/value': P(None, EMBED, 'tensor', None),
    'layers/attention/output': P(None, 'tensor', None, EMBED),
    'layers/attention_norm/scale': P(None, None),
    'layers/mlp/gate': P(None, EMBED, 'tensor'),
    'layers/mlp/up': P(None, EMBED, 'tensor'),
    'layers/mlp/down': P(None, 'tensor', EMBED),
    'layers/mlp_norm/scale': P(None, None),
    'final_norm/scale': P(None),
    'head': P(EMBED, 'tensor'),
}
LOOP_SPECS = DENSE_SPECS | {
    'layers/attention/gate_weight': P(None, 'tensor', None),
    'layers/attention/gate_bias': P(None, 'tensor'),
}


@pytest.mark.parametrize(('config', 'expected'), [(DENSE, DENSE_SPECS), (LOOP, LOOP_SPECS)], ids=['dense', 'loop'])
def test_every_parameter_is_sharded_as_the_table_says(config, expected):
  model = transformer.Transformer(dataclasses.replace(config, vocab=64), 'float32')
  boxed = jax.eval_shape(lambda: transformer.init_params(model, jax.random.key(0)))
  leaves = jax.tree_util.tree_leaves_with_path(sharding.shardings(boxed, mesh_of(fsdp=2, context=2, tensor=2)))
  assert {'/'.join(key.key for key in path): leaf.spec for path, leaf in leaves} == expected


def test_rows_are_split_over_data_and_fsdp_and_positions_over_context():
  batch = sharding.batch_shardings(mesh_of(data=2, fsdp=2, context=2))
  assert batch.source_ids.spec == P(ROWS)
  rows = (batch.tokens, batch.targets, batch.loss_weights, batch.segment_ids, batch.positions)
  assert [x.spec for x in rows] == [P(ROWS, 'context')] * 5
