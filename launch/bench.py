"""Measure this machine: one JSON line per case, with the machine named.

  python -m launch.bench                                 every case
  python -m launch.bench --what=attention,train_step     some

Cases: attention (gated attention forward and backward: milliseconds, TFLOP/s, and its time over that of two calls of a
library and a mix), train_step (tokens/s, and MFU where the peak of the device is known), loader (tokens/s a core, and
milliseconds to the first batch at step 1,000,000), packing (MB/s of token ids). An accelerator takes attention at the
model's width, and four of its layers as one more train step.
"""

import contextlib
import functools
import itertools
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

from absl import flags

from iquest_jax.errors import UserError, nearest
from launch import command

flags.DEFINE_list('what', [], 'Cases to run; empty runs all.')

FLAGS = flags.FLAGS


def main(argv):
  del argv
  cases = {'attention': _attentions, 'train_step': _train_steps, 'loader': _loaders, 'packing': _packing}
  for name in FLAGS.what:
    if name not in cases:
      raise UserError(f'--what: case "{name}" does not exist{nearest(name, cases)}')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  import jax

  machine = {
      'device': jax.devices()[0].device_kind,
      'devices': jax.device_count(),
      'cpu': _cpu(),
      'cores': os.cpu_count(),
      'python': platform.python_version(),
      'jax': jax.__version__,
  }
  for name in FLAGS.what or cases:
    for result in cases[name]():
      print(json.dumps({'case': name, **result, 'machine': machine}), flush=True)


def _cpu() -> str:
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo') as file:
      for line in file:
        if line.startswith('model name'):
          return line.partition(':')[2].strip()
  return platform.processor()


def _median_seconds(call, repeats: int) -> float:
  """Median of several timed calls, after one that is not timed."""
  call()
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def _attentions():
  """One document a row, since that is what the libraries can do."""
  import jax

  if jax.default_backend() == 'cpu':
    yield _attention(T=4096, heads=(8, 8), dtype='float32', repeats=3)
    return
  for T in (4096, 8192, 32768):
    yield _attention(T, heads=(40, 8), dtype='bfloat16', repeats=10)


def _attention(T: int, heads: tuple[int, int], dtype: str, repeats: int) -> dict:
  """Forward and backward of one row; floating-point operations are those of visible pairs, 2.5 times as many backward."""
  import jax
  import jax.numpy as jnp

  from iquest_jax.kernels import gated_attention as kernels

  (H, G), K, window = heads, 128, 64
  ids = kernels.Ids(jnp.ones((1, T), jnp.int32), jnp.arange(T, dtype=jnp.int32)[None])
  shapes = [(1, T, n, K) for n in (H, G, G, G, G, H)]
  *args, d_out = (jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate(shapes))
  args.append(jax.random.normal(jax.random.key(len(shapes)), (1, T, H)))

  def milliseconds(gated) -> float:
    @jax.jit
    def both(args):
      out, pull = jax.vjp(gated, *args)
      return out, pull(d_out)

    return round(1e3 * _median_seconds(lambda: jax.block_until_ready(both(args)), repeats), 3)

  def fused(q, k1, v1, k2, v2, logits):
    return kernels.gated_attention(q, ids, kernels.Keys(k1, v1, ids), kernels.Keys(k2, v2, ids), logits, window)

  ours = milliseconds(fused)
  theirs = {}
  for name, attend in _library_attentions().items():

    def mixed(q, k1, v1, k2, v2, logits, attend=attend):
      gate = jax.nn.sigmoid(logits)[..., None]
      near = attend(q, k2, v2, is_causal=True, local_window_size=(window - 1, 0))
      return (gate * attend(q, k1, v1, is_causal=True) + (1 - gate) * near).astype(q.dtype)

    try:
      theirs[name] = milliseconds(mixed)
    except Exception as error:  # each refuses in its own way what it cannot do here, and the others still count
      theirs[name] = f'{type(error).__name__}: {error}'.partition('\n')[0][:200]
  pairs = T * (T + 1) // 2 + T * window - window * (window - 1) // 2
  measured = [x for x in theirs.values() if isinstance(x, float)]
  return {
      'tokens': T,
      'heads': f'{H}/{G}',
      'head_dim': K,
      'dtype': dtype,
      'milliseconds': ours,
      'tflops_per_second': round(3.5 * 4 * K * H * pairs / ours / 1e9, 2),
      'two_calls_and_mix_milliseconds': theirs,
      'time_over_best_two_calls': round(ours / min(measured), 3) if measured else None,
  }


def _library_attentions() -> dict:
  """Attention functions that take is_causal and local_window_size, by name."""
  import jax

  if jax.default_backend() == 'cpu':
    return {'jax.nn': jax.nn.dot_product_attention}
  found = {'cudnn': functools.partial(jax.nn.dot_product_attention, implementation='cudnn')}
  try:
    import tokamax
  except ImportError:
    return found
  return found | {'tokamax': functools.partial(tokamax.dot_product_attention, implementation='mosaic')}


def _train_steps():
  """The real train step of tiny stages, dense and looped, on random tokens."""
  import jax

  for experiment in ('pretrain:size=tiny', 'midtrain_32k:size=tiny_loop', 'midtrain_128k:size=tiny_loop'):
    yield {'experiment': experiment, **_train_step(command.experiment(experiment))}
  if jax.default_backend() != 'cpu':
    config = command.experiment('pretrain:size=7b')
    config.model.layers, config.train.accumulation = 4, 1
    config.mesh = {'data': 1, 'fsdp': -1, 'context': 1, 'tensor': 1}
    config.train.batch_rows = 2 * jax.device_count()
    yield {'experiment': 'pretrain:size=7b, 4 layers', **_train_step(config)}


def _train_step(config) -> dict:
  import jax
  import numpy as np

  from iquest_jax import hardware, sharding
  from iquest_jax.batch import Batch
  from iquest_jax.data.rows import mixture
  from iquest_jax.model import cost
  from iquest_jax.train import state, step

  mesh = sharding.make_mesh(config.mesh)
  shape, rng = (config.train.batch_rows, config.data.context), np.random.default_rng(0)
  tokens = rng.integers(0, config.model.vocab, shape, dtype=np.int32)
  ones, positions = np.ones(shape, np.int32), np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
  batch = Batch(tokens, tokens, ones.astype(np.float32), ones, positions, np.zeros(shape[0], np.int32))
  with jax.set_mesh(mesh):
    stage = step.of_stage(config, mesh, len(mixture.source_names(config.data.mixture)))
    batch = jax.tree.map(jax.device_put, batch, sharding.batch_shardings(mesh))
    current = state.fresh_optimizer(state.random_params(stage.model, mesh, 0), stage.tx, stage.abstract)

    def once():
      nonlocal current
      current, numbers = stage.train_step(current, batch)
      jax.block_until_ready(numbers['loss'])

    seconds = _median_seconds(once, repeats=5)
  useful = cost.TRAIN_PASSES * shape[0] * cost.forward_flops(stage.model.config, shape[1])
  peak = hardware.peak_flops(jax.devices()[0].device_kind)
  return {
      'context': shape[1],
      'tokens_per_second': round(tokens.size / seconds),
      'mfu': round(useful / seconds / peak / jax.device_count(), 4) if peak else 'peak unknown',
      'gflops_per_second': round(useful / seconds / 1e9, 1),
  }


def _examples(count: int, longest: int):
  """Documents of random tokens, their lengths spread evenly in the logarithm."""
  import numpy as np

  from iquest_jax.text.example import Example

  rng = np.random.default_rng(0)
  for length in np.exp(rng.uniform(np.log(16), np.log(longest), count)).astype(int):
    yield Example(rng.integers(0, 1000, length, dtype=np.int32), np.ones(length, np.float32))


@contextlib.contextmanager
def _silent():
  """Writing rows imports TensorFlow, which greets from C++ on the standard error stream: that is closed meanwhile."""
  sys.stderr.flush()
  kept = os.dup(2)
  with open(os.devnull, 'wb') as nowhere:
    os.dup2(nowhere.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)


def _loaders():
  """Batches from packed rows on disk, in one process with one reading thread: what one core delivers."""
  from iquest_jax.data import loader, packing, rows

  for context, batch_rows, documents in ((512, 8, 4000), (8192, 4, 2000)):
    with tempfile.TemporaryDirectory() as folder:
      examples = list(_examples(documents, 2 * context))
      splits = {
          'train': lambda counts, e=examples, c=context: packing.pack(e, c, False, counts),
          'held_out': lambda counts, e=examples, c=context: itertools.islice(packing.pack(e, c, False, counts), 1),
      }
      with _silent():
        entry = rows.write_source(folder, 'text', context, 'bench', splits)
      rows.write_json(
          pathlib.Path(folder) / rows.MANIFEST,
          {'tokenizer': 'bench', 'context': context, 'sources': {'text': entry}},
      )

      def opened(folder=folder, context=context, batch_rows=batch_rows):
        return loader.Loader(
            folder,
            ((0, (('text', 1.0),)),),
            context=context,
            batch_rows=batch_rows,
            seed=0,
            tokenizer_fingerprint='bench',
            command='',
        )

      steps = 400
      cpu, wall = time.process_time(), time.perf_counter()
      for _ in opened().numpy_batches(0, steps, range(batch_rows)):
        pass
      cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
      resume = _median_seconds(lambda o=opened, b=batch_rows: next(o().numpy_batches(10**6, 2 * 10**6, range(b))), 5)
      tokens = steps * batch_rows * context
      yield {
          'context': context,
          'tokens_per_second': round(tokens / wall),
          'tokens_per_cpu_second': round(tokens / cpu),
          'resume_at_step_1000000_ms': round(1e3 * resume, 1),
      }


def _packing():
  """Token ids (4 bytes each) into rows."""
  from iquest_jax.data import packing

  for context in (512, 8192):
    examples = list(_examples(4000, 2 * context))
    size = sum(example.tokens.nbytes for example in examples)

    def once(examples=examples, context=context):
      return sum(1 for _ in packing.pack(examples, context, False, packing.Counts()))

    yield {'context': context, 'mb_per_second': round(size / _median_seconds(once, repeats=3) / 1e6, 1)}


if __name__ == '__main__':
  command.run(main)
