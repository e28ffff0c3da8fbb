"""Rows on disk without a preparation: segments from packed rows, and the manifest that names them."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from iquest_jax.data.rows import manifest, mixture
from iquest_jax.data.rows.packing import Row
from iquest_jax.data.rows.write import seal_segment, write_shard

Sources = Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]


def write_segment(
    folder: pathlib.Path, source: str, split: str, rows: Sequence[Row], context: int, shards: int = 1
) -> dict[str, Any]:
  """Seals rows, dealt over some shards, as a segment; returns its entry."""
  paths = [folder / f'{source}-{split}-{shard}' for shard in range(shards)]
  per_shard = -(-len(rows) // shards)
  written = [
      (path, write_shard(path, rows[shard * per_shard : (shard + 1) * per_shard], context))
      for shard, path in enumerate(paths)
  ]  # fmt: skip
  sealed = seal_segment(folder, source, split, written, context)
  for path in paths:
    path.unlink()
  return sealed


def plain_shards(count: int) -> tuple[dict[str, Any], dict[str, bytes]]:
  """(a manifest of one source, {path of a shard: its content}), where contents are to be copied and not to be parsed."""
  contents = {f'code/train-0/{manifest.shard_name("code", "train", i, count)}': b'shard %d' % i for i in range(count)}
  stamps = [{'bytes': len(one), 'sha256': hashlib.sha256(one).hexdigest()} for one in contents.values()]
  return {'sources': {'code': {'train': {'segments': [{'folder': 'code/train-0', 'shards': stamps}]}}}}, contents


def write_manifest(folder: pathlib.Path, sources: Sources, context: int, tokenizer: str = 'ours') -> dict[str, Any]:
  """Replaces the manifest of a folder by one of {source: {split: segments}}, each drawn alike; returns it."""
  schedule = ((0, tuple((source, 1.0) for source in sources)),)
  entries = {
      source: {split: {'segments': list(segments)} for split, segments in splits.items()}
      for source, splits in sources.items()
  }  # fmt: skip
  made = manifest.build(
      stage='small', context=context, tokenizer=tokenizer, schedule=schedule, rates=mixture.rates(schedule),
      sources=entries, drawn=dict.fromkeys(sources, 1), before=manifest.read(folder),
  )  # fmt: skip
  manifest.write(folder, made)
  return made
