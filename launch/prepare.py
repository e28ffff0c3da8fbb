"""Prepare what training reads: clean documents, the tokenizer of a chain, and the packed rows of its stages.

  python -m launch.prepare --size=tiny_loop --workdir=runs/tiny_loop
  python -m launch.prepare --exp=midtrain_32k:size=7b --sources=sources.toml --workdir=runs/7b --workers=16
  python -m launch.prepare inspect runs/7b/rows/midtrain_32k
  python -m launch.prepare export runs/7b/documents --out=parquet
  python -m launch.prepare label --documents=code.jsonl --kind=code --out=labels.jsonl --count=5000 --key_env=KEY \
      --endpoint=https://HOST/v1 --model=MODEL --budget=5 --prices=0.5,1.5
  python -m launch.prepare train-quality labels.jsonl --out=quality/code.json

Without --exp, every stage of the size. sources.toml names git repositories, documents (JSONL, Parquet),
chats and problem sets, and the sources made of them; iquest_jax/data/inputs.py shows one. Without it, a
tiny size writes a small corpus to WORKDIR/corpus; other sizes use the documents prepared before.

Killed and restarted, it resumes. What has not changed is kept; rows are only ever appended, so more
steps keep every earlier batch. Work is divided by the input: workers affect only the speed.

inspect shows rows as the model reads them; export writes the documents as Parquet for other trainers.
label asks a model how dense, educational and toxic texts are; train-quality trains a classifier on such labels,
of any origin, and shows how good it is on texts held out. Inputs of sources.toml name it and its thresholds.
"""

import importlib.util
import pathlib
import sys
import time

from absl import flags
from rich.console import Console

from iquest_jax.errors import RunStopped, UserError
from launch import command

flags.DEFINE_string('sources', '', 'A sources.toml; see above.')
flags.DEFINE_string('tokenizer', '', 'A tokenizer.json or SentencePiece model to use instead of training one.')
flags.DEFINE_integer('workers', 0, 'Tasks at a time; 0 is one per core.')
flags.DEFINE_string('executor', 'local', 'Where tasks run: local, slurm, ray.')
flags.DEFINE_string('partition', 'cpu', 'Partition of Slurm jobs.')
flags.DEFINE_string('time_limit', '20:00:00', 'Time limit of Slurm jobs.')
flags.DEFINE_string('source', '', 'The only source that inspect shows.')
flags.DEFINE_integer('rows', 2, 'Rows per source that inspect shows.', lower_bound=1)
flags.DEFINE_string('out', '', 'Folder that export writes, or file that label and train-quality write.')
flags.DEFINE_string('documents', '', 'Documents that label draws from: a file, a folder or a glob.')
flags.DEFINE_string('kind', '', 'What is labelled: text, code, mathematics.')
flags.DEFINE_integer('count', 1000, 'Documents that label draws.', lower_bound=1)
flags.DEFINE_integer('seed', 0, 'Seed of the draw, and of the split for training a classifier.', lower_bound=0)
flags.DEFINE_string('endpoint', '', 'URL of an OpenAI-compatible API that label asks.')
flags.DEFINE_string('model', '', 'Name of the model at the endpoint.')
flags.DEFINE_string('key_env', '', "Environment variable that holds the endpoint's key.")
flags.DEFINE_integer('parallel', 8, 'Requests at a time.', lower_bound=1)
flags.DEFINE_float('budget', float('inf'), 'Dollars that the requests may cost.', lower_bound=0.0)
flags.DEFINE_string('prices', '0,0', 'Dollars per million input and output tokens, as in 0.5,1.5.')
flags.declare_key_flag('workdir')
flags.declare_key_flag('size')

FLAGS = flags.FLAGS


# Of the extra `data`: what a corpus cannot be prepared without.
_PACKAGES = ('datatrove', 'pyarrow', 'sklearn', 'tree_sitter', 'zstandard')


def main(argv):
  if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
    raise UserError(f'prepare: the package {missing[0]} is not installed; pip install -e .[data] brings what it needs')
  try:
    if argv[1:]:
      commands = {'inspect': _inspect, 'export': _export, 'label': _label, 'train-quality': _train_quality}
      name, operands = command.subcommand(argv, commands)
      commands[name](*operands)
    else:
      _prepare()
  except KeyboardInterrupt:
    raise RunStopped('prepare: interrupted; run the same command to resume') from None


def _prepare():
  from experiments import chain
  from iquest_jax.data import corpus, inputs, page, prepare
  from iquest_jax.text import tokenizer

  run_folder, console = command.run_folder(), Console(file=sys.stdout)
  if 'exp' in FLAGS:
    configs = [command.config()]
    if chain.is_rl(configs[0].stage):
      raise UserError(f'prepare: {configs[0].stage} learns from problems and needs no rows; python -m launch.tpu trains it')
  else:
    configs = [command.experiment(f'{stage}:size={FLAGS.size}') for stage in chain.stages_on_rows(FLAGS.size)]
  executor = _executor()
  for config in configs:
    prepare.check(config)
  with prepare.alone(run_folder), _Progress(console) as progress:
    if FLAGS.sources or configs[0].size.startswith('tiny') and not corpus.exists(run_folder):
      given = inputs.load(FLAGS.sources or _tiny(run_folder))
      for config in configs:
        given.check(prepare.check(config))  # before days of reading
      documents = corpus.prepare(run_folder, given, executor, progress)
    else:
      documents = corpus.load(run_folder)
    if FLAGS.tokenizer:
      imported = prepare.import_tokenizer(configs[0], run_folder, FLAGS.tokenizer)
      for text in imported.round_trip_report(tokenizer.PROBES):
        console.print(f'tokenizer: {text!r} decodes to {imported.decode(imported.encode(text))!r}', markup=False)
    manifests = []
    try:
      for config in configs:
        manifests.append(prepare.prepare(config, run_folder, documents, executor, progress))
    finally:
      # Where a stage has no rows, this says what became of its documents.
      report = page.preparation(documents.report, manifests)
      page.tables(report, console)
      console.print(f'report: {page.write(report, run_folder.preparation)}')


def _executor():
  from iquest_jax.data import executors

  workers = FLAGS.workers or executors.cores()
  return executors.Executor(FLAGS.executor, workers, FLAGS.partition, FLAGS.time_limit)


def _tiny(run_folder) -> pathlib.Path:
  from iquest_jax.data.tiny import corpus

  corpus.write(run_folder.corpus)
  return run_folder.corpus / 'sources.toml'


def _inspect(folder: str) -> None:
  from iquest_jax.data import inspect
  from iquest_jax.text.tokenizer import Tokenizer

  rows = pathlib.Path(folder).absolute()
  if not (rows / 'manifest.json').exists():
    raise UserError(f'inspect: {rows} has no rows; name the folder of a stage, as in runs/7b/rows/midtrain_32k')
  tokenizer = rows.parent.parent / 'tokenizer' / 'tokenizer.json'
  if FLAGS.workdir:
    tokenizer = command.run_folder().tokenizer
  inspect.show(rows, Tokenizer.load(tokenizer), Console(file=sys.stdout), source=FLAGS.source, count=FLAGS.rows)


def _export(folder: str) -> None:
  from iquest_jax.data import export

  if not FLAGS.out:
    raise UserError('export: --out is missing; name the folder to write')
  with _Progress(Console(file=sys.stdout)) as progress:
    counts = export.export(pathlib.Path(folder), pathlib.Path(FLAGS.out), _executor(), progress)
  print(f'{FLAGS.out}: {sum(counts.values()):,} documents in {len(counts)} files')


def _label() -> None:
  import asyncio

  from iquest_jax.data import executors
  from iquest_jax.data.read import compressed, jsonl
  from iquest_jax.data.synthesis import labels
  from iquest_jax.endpoint.client import Endpoint

  for name in ('documents', 'kind', 'endpoint', 'model', 'out'):
    if not FLAGS[name].value:
      raise UserError(f'label: --{name} is missing; the help of launch.prepare shows an example')
  if not (paths := compressed.input_files(FLAGS.documents)):
    raise UserError(f'label: --documents: {FLAGS.documents} has no file that ends in {", ".join(compressed.SUFFIXES)}')
  documents, out = (document for path in paths for document in jsonl.read_documents(path)), pathlib.Path(FLAGS.out)
  how = dict(key_env=FLAGS.key_env, parallel=FLAGS.parallel, budget=FLAGS.budget, prices=_prices(FLAGS.prices))
  with (
      Endpoint(FLAGS.endpoint, FLAGS.model, cache=out.with_name(f'{out.name}.replies'), **how) as endpoint,
      _Progress(Console(file=sys.stdout)) as progress,
  ):
    shown = lambda funnel: progress('label', executors.Done(funnel.read, FLAGS.count, 0, 0, funnel.kept))
    try:
      asking = labels.label(documents, endpoint, FLAGS.kind, out, FLAGS.count, FLAGS.seed, shown)
      _say_funnel(str(out), asyncio.run(asking))
    finally:
      used = endpoint.usage
      print(
          f'{used.requests:,} requests, {used.cached:,} answers from disk, {used.input_tokens:,} tokens in, '
          f'{used.output_tokens:,} out, ${used.cost:.4f}'
      )


def _prices(text: str) -> tuple[float, ...]:
  try:
    return tuple(float(price) for price in text.split(','))
  except ValueError:
    raise UserError(f'--prices: must be two numbers, as in 0.5,1.5, got "{text}"') from None


def _train_quality(labels: str) -> None:
  import json

  from iquest_jax.data.clean import classifier_training
  from iquest_jax.data.read import records
  from iquest_jax.run_folder import write_whole

  if not FLAGS.out:
    raise UserError('train-quality: --out is missing; name the file to write, as in --out=quality/code.json')
  given, kind, funnel = classifier_training.read_labels(records.records(labels))
  _say_funnel(labels, funnel)
  model = classifier_training.train(given, kind, FLAGS.seed)
  for name in sorted({name for label in given for name in label.scores} - model['scores'].keys()):
    print(f'{labels}: every text has the same "{name}"; the classifier does not judge it')
  out = pathlib.Path(FLAGS.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  write_whole(out, json.dumps(model))
  print('\n'.join([f'{out}: on texts held out (in brackets: always the majority)', *classifier_training.lines(model)]))


def _say_funnel(name: str, funnel) -> None:
  dropped = ''.join(f'; {count:,} dropped, {rule}' for rule, count in sorted(funnel.drops.items()))
  print(f'{name}: {funnel.kept:,} labels of {funnel.read:,}{dropped}')


class _Progress:
  """A bar of the step that runs: documents, bytes and their rate, tasks, time left."""

  def __init__(self, console: Console):
    from rich import progress

    columns = (
        progress.TextColumn('{task.description:<18}'), progress.BarColumn(), progress.TextColumn('{task.fields[tasks]}'),
        progress.TextColumn('{task.fields[documents]}'), progress.TextColumn('{task.fields[bytes]}'),
        progress.TimeElapsedColumn(), progress.TextColumn('left'), progress.TimeRemainingColumn(),
    )  # fmt: skip
    self._bar = progress.Progress(*columns, console=console, transient=True)
    self._step, self._task, self._console, self._began = '', None, console, 0.0

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *_):
    self._bar.stop()

  def __call__(self, step: str, done) -> None:
    if step != self._step:
      if self._task is not None:
        self._bar.remove_task(self._task)
      self._step, self._task = step, self._bar.add_task(step, tasks='', documents='', bytes='')
      self._began = time.monotonic()
      if not self._console.is_terminal:
        self._console.print(f'{step}: {done.total_tasks:,} tasks, {done.tasks:,} of them done')
    documents = f'{done.documents:,} documents' if done.documents else ''
    rate = done.bytes / max(time.monotonic() - self._began, 1e-3)
    size = f'{done.bytes / 1e6:,.0f}/{done.total_bytes / 1e6:,.0f} MB, {rate / 1e6:,.1f} MB/s' if done.total_bytes else ''
    # A step whose input has no size is measured in tasks.
    part, whole = (done.bytes, done.total_bytes) if done.total_bytes else (done.tasks, done.total_tasks)
    tasks = f'{done.tasks:,}/{done.total_tasks:,}'
    self._bar.update(self._task, completed=part, total=whole, tasks=tasks, documents=documents, bytes=size)


if __name__ == '__main__':
  command.run(main, operands=True)
