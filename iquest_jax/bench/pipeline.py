"""Half one of the pipeline on real source files: what a core does, and what a second worker adds."""

import pathlib
import tempfile
import time
from collections.abc import Iterator

from iquest_jax.bench import clean
from iquest_jax.data import corpus, inputs
from iquest_jax.data.documents import File, content_id
from iquest_jax.data.executors import Executor
from iquest_jax.data.shards import ShardWriter
from iquest_jax.run_folder import RunFolder

_FILES = 12
_SOURCES = '[[input]]\nname = "library"\nread = "documents"\npath = "*.jsonl.zst"\nsources = ["code"]\n'


def results() -> Iterator[dict]:
  """MB/s by step with one worker and with two, and the speed of two over one."""
  texts = clean.sources()
  seconds = {}
  with tempfile.TemporaryDirectory() as folder:
    _write(pathlib.Path(folder), texts)
    for workers in (1, 2):
      seconds[workers] = measure(pathlib.Path(folder) / 'sources.toml', pathlib.Path(folder) / f'run{workers}', workers)
  size = sum(len(text) for _, text in texts) / 1e6
  for step, alone in seconds[1].items():
    yield {
        'step': step,
        'mb': round(size, 1),
        'mb_per_second': round(size / alone, 1),
        'mb_per_second_of_two': round(size / seconds[2][step], 1),
        'two_over_one': round(alone / seconds[2][step], 2),
    }


def measure(sources: pathlib.Path, workdir: pathlib.Path, workers: int) -> dict[str, float]:
  """Seconds of each step, and of all."""
  began: dict[str, float] = {}
  start = time.perf_counter()
  run, given = RunFolder(workdir), inputs.load(sources)
  corpus.prepare(run, given, Executor(workers=workers), lambda step, _: began.setdefault(step, time.perf_counter()))
  ends = [*list(began.values())[1:], time.perf_counter()]
  return {step: end - at for (step, at), end in zip(began.items(), ends)} | {'all': ends[-1] - start}


def _write(folder: pathlib.Path, texts: list[tuple[str, str]]) -> None:
  """Files of documents of about the same size, as a corpus comes."""
  (folder / 'sources.toml').write_text(_SOURCES)
  for number in range(_FILES):
    with ShardWriter(folder / f'{number:02}.jsonl.zst') as writer:
      for path, text in texts[number::_FILES]:
        writer.write(File(content_id(path, text), path, text))
