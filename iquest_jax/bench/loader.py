"""Batches from packed rows on disk, read in one process by one thread: what one core delivers."""

import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator

from iquest_jax.bench.machine import median_seconds
from iquest_jax.bench.packing import random_examples
from iquest_jax.data.loader import Loader
from iquest_jax.data.rows import manifest, packing, write
from iquest_jax.run_folder import write_whole

_FAR = 10**6


def results() -> Iterator[dict]:
  """Tokens/s, and milliseconds to the first batch at step 1,000,000, at a tiny and a full context."""
  yield measure(context=512, batch_rows=8, documents=4000, steps=400)
  yield measure(context=8192, batch_rows=4, documents=2000, steps=400)


def measure(context: int, batch_rows: int, documents: int, steps: int) -> dict:
  """Writes rows of random documents into a temporary folder and times reading them."""
  with tempfile.TemporaryDirectory() as folder:
    _write_rows(folder, context, documents)
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
      'tokens_per_second': round(tokens / wall),
      'tokens_per_cpu_second': round(tokens / cpu),
      'resume_at_step_1000000_ms': round(1e3 * resume, 1),
  }


def _write_rows(folder: str, context: int, documents: int) -> None:
  examples = random_examples(documents, 2 * context)
  rows = lambda counts: packing.pack(examples, context, False, counts)
  splits = {'train': rows, 'held_out': lambda counts: itertools.islice(rows(counts), 1)}
  with write.without_stderr():  # writing rows imports TensorFlow
    entry = write.write_source(folder, 'text', context, 'bench', splits)
  content = {'tokenizer': 'bench', 'context': context, 'sources': {'text': entry}}
  write_whole(pathlib.Path(folder) / manifest.MANIFEST, manifest.to_json(content))
