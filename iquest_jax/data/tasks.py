"""SeqIO's definition of what is trained on: one Task per source of a stage, one Mixture with its rates per phase.

Imports TensorFlow, so only preparation imports this module, never training.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import seqio
import tensorflow as tf
from ml_collections import ConfigDict

from iquest_jax.data import sources
from iquest_jax.data.documents import Document, from_json, to_json
from iquest_jax.data.rows import packing
from iquest_jax.data.rows.manifest import SPLITS
from iquest_jax.data.split import select
from iquest_jax.errors import UserError
from iquest_jax.text.example import Example
from iquest_jax.text.tokenizer import Tokenizer


class SourceTask:
  """A source of a stage as the Task `<stage>.<source>`: documents of a split, in order, formatted and tokenised.

  Attributes:
    task: the seqio.Task; features tokens int32 [n] and loss_weights float32 [n].
  """

  def __init__(self, config: ConfigDict, source: str, read: Callable[[], Iterator[Document]], tokenizer: Tokenizer):
    """Defines the Task; `read` yields the source's documents, from the first on at every call.

    Reads config.stage, seed, data.context (completions are made to fit) and data.buckets (the documents it may see).
    """
    self._context, self._whole = config.data.context, sources.get(source).whole
    self._error: UserError | None = None

    def lines(split: str) -> Iterator[str]:
      try:
        for document in select(read(), split, tuple(config.data.buckets)):
          sources.check(source, document)
          yield to_json(document)
      except UserError as error:
        # TensorFlow would bury it in an error and a log of its own: the dataset ends here, and `examples` raises it.
        self._error = error

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
      del shuffle_files, seed  # keeps the order of the documents; rows are shuffled when they are read
      return tf.data.Dataset.from_generator(lambda: lines(split), output_signature=tf.TensorSpec((), tf.string))

    def tokenise(line: bytes) -> tuple[np.ndarray, np.ndarray]:
      example = sources.render(source, from_json(line.decode()), tokenizer, config.data.context, config.seed)
      return example.tokens, example.loss_weights

    def features(line: tf.Tensor) -> dict[str, tf.Tensor]:
      tokens, weights = tf.numpy_function(tokenise, [line], (tf.int32, tf.float32))
      return {'tokens': tf.ensure_shape(tokens, (None,)), 'loss_weights': tf.ensure_shape(weights, (None,))}

    vocabulary = seqio.PassThroughVocabulary(tokenizer.vocab_size)
    self.task = seqio.Task(
        f'{config.stage}.{source}',
        source=seqio.FunctionDataSource(dataset, splits=SPLITS),
        preprocessors=[lambda dataset: dataset.map(features)],
        output_features={
            'tokens': seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32),
            'loss_weights': seqio.Feature(vocabulary, add_eos=False, dtype=tf.float32),
        },
        shuffle_buffer_size=None,
    )

  def examples(self, split: str) -> Iterator[Example]:
    """The Task's examples of a split; raises UserError for a document that is malformed or of the wrong kind."""
    dataset = self.task.get_dataset(sequence_length=None, split=split, shuffle=False, trim_output_features=False)
    self._error = None
    for item in dataset.as_numpy_iterator():
      yield Example(item['tokens'], item['loss_weights'])
    if self._error:
      raise self._error

  def rows(self, split: str, limit: int, counts: packing.Counts) -> Iterator[packing.Row]:
    """At most `limit` packed rows of a split; `counts` is updated as documents are read."""
    examples = self.examples(split)
    if split == 'held_out' and not self._whole:
      # At most one row per document: a few held-out rows should not all be pieces of one long document.
      examples = (example.head(self._context) for example in examples)
    return itertools.islice(packing.pack(examples, self._context, self._whole, counts), limit)


def rates(config: ConfigDict, tasks: dict[str, SourceTask]) -> list:
  """[[from_step, {source: rate}], ...]: each phase is a seqio.Mixture `<stage>.from_<step>`, whose rates are read back."""
  phases = []
  for step, weights in config.data.mixture:
    mixture = seqio.Mixture(f'{config.stage}.from_{step}', [(tasks[name].task, float(weight)) for name, weight in weights])
    phases.append([step, {name: mixture.get_rate(tasks[name].task) for name, _ in weights}])
  return phases
