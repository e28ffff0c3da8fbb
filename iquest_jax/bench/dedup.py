"""Near-deduplication from text to the list of what to drop, and decontamination, on one core."""

import pathlib
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from iquest_jax.data.clean import clusters, duplicates, index, minhash
from iquest_jax.data.clean.decontaminate import EvalIndex

_SHARDS, _PARTS = 4, 2
_PROBLEMS, _PROBLEM_CHARACTERS = 10_000, 600


def results() -> Iterator[dict]:
  """MB/s of Python's standard library, each file once and every fourth twice; with 10,000 problems of 600 characters."""
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  paths = sorted(path for path in root.rglob('*.py') if 'site-packages' not in path.parts)
  texts = [path.read_text(errors='replace') for path in paths]
  yield near_deduplication(texts + texts[::4])
  yield decontamination(texts[::2], texts[1::2])


def near_deduplication(texts: Sequence[str]) -> dict:
  """Times all three steps over texts: signatures and index, links of all partitions, clusters."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    folders = [folder / f'{shard}' for shard in range(_SHARDS)]
    links = [folder / f'links{part}' for part in range(_PARTS)]

    def sign():
      for shard, path in enumerate(folders):
        with index.IndexWriter(path, duplicates.TEXT) as writer:
          for row, text in enumerate(texts[shard::_SHARDS]):
            writer.add(f'{shard}/{row}', minhash.exact_digest(text), 0.5, minhash.signature(text))

    def join():
      for part, path in enumerate(links):
        duplicates.find_pairs(folders, part, _PARTS, path)
      clusters.merge(links, folder / 'clusters')

    signing, joining = _cpu_seconds(sign), _cpu_seconds(join)
    found = clusters.Clusters(folder / 'clusters')
    dropped = sum(len(found.dropped(shard)) for shard in range(_SHARDS))
  return {
      'what': 'near-deduplication',
      'mb_per_second': round(_megabytes(texts) / (signing + joining), 1),
      'share_of_signatures': round(signing / (signing + joining), 2),
      'documents': len(texts),
      'dropped': dropped,
  }


def decontamination(texts: Sequence[str], others: Sequence[str]) -> dict:
  """Times matching texts against problems that are cut from other texts."""
  cut = lambda text: range(0, len(text) - _PROBLEM_CHARACTERS, _PROBLEM_CHARACTERS)
  problems = [(f'{row}/{at}', text[at : at + _PROBLEM_CHARACTERS]) for row, text in enumerate(others) for at in cut(text)]
  evaluation = EvalIndex.build({'suite': problems[:: max(1, len(problems) // _PROBLEMS)]})
  found = []
  seconds = _cpu_seconds(lambda: found.extend(filter(None, map(evaluation.match, texts))))
  return {
      'what': 'decontamination',
      'mb_per_second': round(_megabytes(texts) / seconds, 1),
      'problems': len(evaluation.problems),
      'documents': len(texts),
      'found': len(found),
  }


def _megabytes(texts: Sequence[str]) -> float:
  return sum(len(text.encode(errors='replace')) for text in texts) / 1e6


def _cpu_seconds(call: Callable[[], object]) -> float:
  start = time.process_time()
  call()
  return time.process_time() - start
