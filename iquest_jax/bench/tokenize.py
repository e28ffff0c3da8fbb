"""Tokenising real source: the tokenizer alone, and the task of a stage, from a shard of documents to rows on disk."""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

from iquest_jax.bench import clean
from iquest_jax.data import pack, sources
from iquest_jax.data.build.fim import Proportions
from iquest_jax.data.documents import File, content_id
from iquest_jax.data.shards import ShardWriter
from iquest_jax.text.tokenizer import Tokenizer

_BYTES, _VOCABULARY, _CONTEXT = 4_000_000, 16_384, 8192


def results() -> Iterator[dict]:
  """Tokens per CPU second of the tokenizer and of the task, and the share of the former's speed that the latter has."""
  yield measure(_BYTES, _VOCABULARY, _CONTEXT)


def measure(size: int, vocabulary: int, context: int) -> dict:
  """Times about `size` bytes of source, with a tokenizer that is trained on them."""
  texts, total = [], 0
  for path, text in clean.sources():
    if total < size:
      texts.append((path, text))
      total += len(text)
  tokenizer = Tokenizer.train((text for _, text in texts), vocabulary)
  with tempfile.TemporaryDirectory() as folder:
    names = [f'{folder}/{name}' for name in ('documents.jsonl.zst', 'tokenizer.json', 'rows')]
    with ShardWriter(pathlib.Path(names[0])) as writer:
      for path, text in texts:
        writer.write(File(content_id(path, text), path, text))
    tokenizer.save(names[1])
    rendering = sources.Rendering(context, 0, sources.LEARN[0], Proportions(0, 0, {'lines': 1.0}))
    how = pack.Packing('bench', 'code', (0.0, 1.0), rendering)
    written = pack.pack_shard(how, False, *names)
    rates = []
    for call in (lambda: [tokenizer.encode(text) for _, text in texts], lambda: pack.pack_shard(how, False, *names)):
      rates.append(written['tokens'] / statistics.median(_cpu_seconds(call) for _ in range(3)))
  return {
      'context': context,
      'tokens_per_cpu_second': round(rates[1]),
      'tokens_per_cpu_second_of_the_tokenizer': round(rates[0]),
      'share_of_the_tokenizers_speed': round(rates[1] / rates[0], 2),
  }


def _cpu_seconds(call: Callable[[], object]) -> float:
  start = time.process_time()
  call()
  return time.process_time() - start
