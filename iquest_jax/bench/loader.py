"""Batches from packed rows on disk, read in one process by one thread: what one core delivers."""

import pathlib
import tempfile
import time
from collections.abc import Iterator

from iquest_jax.bench.machine import median_seconds
from iquest_jax.bench.packing import random_examples
from iquest_jax.data.loader import Loader
from iquest_jax.data.rows import manifest, packing, write

_FAR = 10**6
_SHARDS = 8


def results() -> Iterator[dict]:
  """Tokens/s, bytes per token, and milliseconds to the first batch at step 1,000,000, at a tiny and a full context."""
  yield measure(context=512, batch_rows=8, documents=4000, steps=400)
  yield measure(context=8192, batch_rows=4, documents=2000, steps=400)


def measure(context: int, batch_rows: int, documents: int, steps: int) -> dict:
  """Writes rows of random documents into a temporary folder and times reading them."""
  with tempfile.TemporaryDirectory() as folder:
    bytes_per_token = _write_rows(pathlib.Path(folder), context, documents)
    schedule, options = ((0, (('text', 1.0),)),), {'tokenizer_fingerprint': 'bench', 'command': ''}
    batches = lambda first, last: Loader(
        folder, schedule, context=context, batch_rows=batch_rows, seed=0, **options
    ).numpy_batches(first, last, range(batch_rows))
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in batches(0, steps):
      pass
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    resume = median_seconds(lambda: next(batches(_FAR, 2 * _FAR)), repeats=5)
  tokens = steps * batch_rows * context
  return {
      'context': context,
      'bytes_per_token': round(bytes_per_token, 2),
      'tokens_per_second': round(tokens / wall),
      'tokens_per_cpu_second': round(tokens / cpu),
      'resume_at_step_1000000_ms': round(1e3 * resume, 1),
  }


def _write_rows(folder: pathlib.Path, context: int, documents: int) -> float:
  """Writes the rows in eight shards; returns bytes per token on disk."""
  rows = list(packing.pack(random_examples(documents, 2 * context), context, False, packing.Counts()))
  parts = {'train': [rows[start::_SHARDS] for start in range(_SHARDS)], 'held_out': [rows[:1]]}
  segments, bytes_per_token = {}, {}
  for split, shards in parts.items():
    paths = [folder / f'{split}-{number}' for number in range(len(shards))]
    written = [(path, write.write_shard(path, shard, context)) for path, shard in zip(paths, shards)]
    segments[split] = {'segments': [write.seal_segment(folder, 'text', split, written, context)]}
    totals = [sum(counts[name] for _, counts in written) for name in ('bytes', 'tokens')]
    bytes_per_token[split] = totals[0] / totals[1]
  made = manifest.build(
      stage='bench', context=context, tokenizer='bench', schedule=(), rates=[], sources={'text': segments},
      drawn={'text': 1}, before={},
  )  # fmt: skip
  manifest.write(folder, made)
  return bytes_per_token['train']
