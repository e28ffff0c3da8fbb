"""SeqIO's definition of what a stage trains on: a Task per source, a Mixture per phase, and a Task of the training rows.

Workers that write rows call the same functions without this module, since it imports TensorFlow. Training imports neither.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import seqio
import tensorflow as tf
from ml_collections import ConfigDict

from iquest_jax.data import corpus as corpus_lib
from iquest_jax.data import sources
from iquest_jax.data.documents import Document, Drop
from iquest_jax.data.loader import Loader
from iquest_jax.data.rows import mixture
from iquest_jax.data.rows.manifest import SPLITS
from iquest_jax.data.split import in_buckets
from iquest_jax.run_folder import RunFolder
from iquest_jax.text.tokenizer import Tokenizer

# Fields of a row as the loader gives them, with their dtypes; all but the last are [T].
_ROW = {
    'tokens': tf.int32, 'targets': tf.int32, 'loss_weights': tf.float32, 'segment_ids': tf.int32, 'positions': tf.int32,
    'source_ids': tf.int32,
}  # fmt: skip


def register(config: ConfigDict, run: RunFolder) -> None:
  """Registers a prepared stage with SeqIO, so that `seqio.get_mixture_or_task` knows it.

  Tasks `<stage>.<source>`, Mixtures `<stage>.from_<step>` and the Task `<stage>`.

  Raises:
    UserError: the stage is not prepared.
    ValueError: the stage is registered already.
  """
  loader, corpus, tokenizer = Loader.of_stage(config, run), corpus_lib.load(run), Tokenizer.load(run.tokenizer)
  tasks = {}
  for source in loader.sources:
    shards = {'train': corpus.shards(source), 'held_out': corpus.held_out(source)}
    read = lambda split, shards=shards: in_buckets(corpus.read(shards[split]), tuple(config.data.buckets))
    tasks[source] = source_task(config, source, read, tokenizer)
  for task in (*tasks.values(), rows_task(config, loader)):
    seqio.TaskRegistry.add_provider(task.name, task)
  for phase in mixtures(config, tasks):
    seqio.MixtureRegistry.add_provider(phase.name, phase)


def source_task(
    config: ConfigDict, source: str, read: Callable[[str], Iterator[Document]], tokenizer: Tokenizer
) -> seqio.Task:
  """The Task `<stage>.<source>`: documents, formatted and tokenised, in order; those that are dropped are left out.

  Args:
    config: reads stage, seed and data; see sources.Rendering.
    read: gives the documents of a split ('train' or 'held_out') that the stage may see, from the first at every call.

  Returns:
    A task of features tokens int32 [n] and loss_weights float32 [n].
  """

  how = sources.Rendering.of(config)

  def examples(split: str) -> Iterator[dict[str, np.ndarray]]:
    for document in filter(sources.get(source).has, read(split)):
      rendered = sources.render(source, document, tokenizer, how)
      for example in () if isinstance(rendered, Drop) else rendered:
        yield {'tokens': example.tokens, 'loss_weights': example.loss_weights}

  features = {'tokens': tf.int32, 'loss_weights': tf.float32}
  return _task(f'{config.stage}.{source}', examples, SPLITS, features, tokenizer.vocab_size)


def rows_task(config: ConfigDict, loader: Loader) -> seqio.Task:
  """The Task `<stage>`: the rows of all steps of training, in exactly the loader's order, as in batch.Batch.

  They follow data.mixture; what a closed loop decides while a stage trains is not known here.

  Args:
    config: reads stage, model.vocab, train.steps and train.batch_rows.
  """

  def rows(split: str) -> Iterator[dict[str, np.ndarray]]:
    del split
    for batch in loader.numpy_batches(0, config.train.steps, range(config.train.batch_rows)):
      for row in range(config.train.batch_rows):
        yield {name: batch[name][row] for name in _ROW}

  return _task(config.stage, rows, ('train',), _ROW, config.model.vocab)


def mixtures(config: ConfigDict, tasks: Mapping[str, seqio.Task]) -> list[seqio.Mixture]:
  """The Mixtures `<stage>.from_<step>`, one for each phase of data.mixture, with the rates of the manifest."""
  return [
      seqio.Mixture(f'{config.stage}.from_{step}', [(tasks[source], rate) for source, rate in rates.items()])
      for step, rates in mixture.rates(config.data.mixture)
  ]


def _task(
    name: str,
    generate: Callable[[str], Iterator[dict[str, np.ndarray]]],
    splits: tuple[str, ...],
    dtypes: Mapping[str, tf.DType],
    vocabulary: int,
) -> seqio.Task:
  """A Task of what `generate` yields for a split; every feature is [n] but `source_ids`, which is a number."""
  ranks = {feature: int(feature != 'source_ids') for feature in dtypes}
  signature = {feature: tf.TensorSpec((None,) * ranks[feature], dtype) for feature, dtype in dtypes.items()}

  def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
    del shuffle_files, seed  # keeps the order; rows are shuffled when they are read
    return tf.data.Dataset.from_generator(lambda: generate(split), output_signature=signature)

  passed = seqio.PassThroughVocabulary(vocabulary)
  return seqio.Task(
      name,
      source=seqio.FunctionDataSource(dataset, splits=splits),
      preprocessors=[],
      output_features={
          name: seqio.Feature(passed, add_eos=False, dtype=dtype, rank=ranks[name]) for name, dtype in dtypes.items()
      },
      shuffle_buffer_size=None,
  )
