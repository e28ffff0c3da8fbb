"""The compiled train step of several stages, on random tokens; on a CPU beside the same step in eager PyTorch."""

import json
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from iquest_jax import hardware, sharding
from iquest_jax.batch import Batch
from iquest_jax.bench import machine
from iquest_jax.bench.peer import Peer, has
from iquest_jax.data.rows import mixture
from iquest_jax.model import cost
from iquest_jax.train import state, step


def results(experiment: Callable[[str], ConfigDict]) -> Iterator[dict]:
  """Tiny stages, dense and looped; with an accelerator also four layers of 7b.

  Args:
    experiment: resolves the name of an experiment. PyTorch is measured too if the peers' interpreter has it.
  """
  with_peer = jax.default_backend() == 'cpu' and has('torch')
  for name in ('pretrain:size=tiny', 'midtrain_32k:size=tiny_loop', 'midtrain_128k:size=tiny_loop'):
    yield {'experiment': name, **measure(experiment(name), with_peer)}
  if jax.default_backend() != 'cpu':
    config = experiment('pretrain:size=7b')
    config.model.layers, config.train.accumulation = 4, 1
    config.mesh = {'data': 1, 'fsdp': -1, 'context': 1, 'tensor': 1}
    config.train.batch_rows = 2 * jax.device_count()
    yield {'experiment': 'pretrain:size=7b, 4 layers', **measure(config)}


def measure(config: ConfigDict, with_peer: bool = False) -> dict:
  """Times the train step of a stage on all devices; MFU counts useful FLOPs, without recomputation.

  `with_peer`: steps of torch_step.py and ours alternate, and `speed_over_torch` is the ratio.
  """
  mesh = sharding.make_mesh(config.mesh)
  shape, rng = (config.train.batch_rows, config.data.context), np.random.default_rng(0)
  tokens = rng.integers(0, config.model.vocab, shape, dtype=np.int32)
  ones, positions = np.ones(shape, np.int32), np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
  batch = Batch(tokens, tokens, ones.astype(np.float32), ones, positions, np.zeros(shape[0], np.int32))
  with jax.set_mesh(mesh):
    stage = step.of_stage(config, mesh, len(mixture.source_names(config.data.mixture)))
    batch = jax.tree.map(jax.device_put, batch, sharding.batch_shardings(mesh))
    train_state = state.fresh_optimizer(state.random_params(stage.model, mesh, 0), stage.tx, stage.abstract)

    def once():
      nonlocal train_state
      train_state, metrics = stage.train_step(train_state, batch)
      jax.block_until_ready(metrics['loss'])

    if not with_peer:
      seconds, torch_seconds = machine.median_seconds(once, repeats=5), None
    else:
      described = json.dumps(config.model.to_dict()), *map(str, shape)
      with Peer('torch_step.py', *described) as torch_step:
        seconds, torch_seconds = machine.alternating_medians([once, torch_step], repeats=9)
  useful = cost.TRAIN_PASSES * shape[0] * cost.forward_flops(stage.model.config, shape[1])
  peak = hardware.peak_flops(jax.devices()[0].device_kind)
  return {
      'context': shape[1],
      'tokens_per_second': round(tokens.size / seconds),
      'mfu': round(useful / seconds / peak / jax.device_count(), 4) if peak else 'peak unknown',
      'gflops_per_second': round(useful / seconds / 1e9, 1),
      'speed_over_torch': round(torch_seconds / seconds, 2) if torch_seconds else None,
  }
