"""Have a model write samples of a domain, and keep those that pass its checks.

  python -m launch.synthesize --domain=mathematics --seeds=documents.jsonl.zst --count=1000 --out=made/mathematics.jsonl \\
      --endpoint=https://HOST/v1 --model=MODEL --key_env=API_KEY --budget=5 --prices=0.5,1.5
  python -m launch.synthesize --domain=instructions --seeds=files.jsonl --count=100 --out=made \\
      --endpoint=http://localhost:8000/v1 --model=A --judges=A,B,C

Each sample starts from a document of --seeds: JSON lines as launch.prepare writes and reads them. A wrong --domain lists
them all. OUT.jsonl holds what was kept, each with the checks it passed; name it as an input of sources.toml.
OUT.funnel.json says what was rejected by which check. If --out is a folder, the file is named after the domain.

Killed and restarted, it resumes: finished samples are in OUT.journal and paid answers in OUT.cache. With a larger --count
it continues. A run that used up its --budget keeps what is finished and exits with 0; rerun it with a larger one.
"""

import contextlib
import pathlib
import sys

from absl import flags
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iquest_jax.errors import RunStopped, UserError
from launch import command

flags.DEFINE_string('domain', '', 'What to make, such as mathematics.')
flags.DEFINE_string('seeds', '', 'Documents that samples start from: .jsonl, .jsonl.gz, .jsonl.zst or .parquet.')
flags.DEFINE_string('endpoint', '', 'URL of an OpenAI-compatible API.')
flags.DEFINE_string('model', '', 'Name of the model that writes.')
flags.DEFINE_list('judges', [], 'Names of the models that judge; by default the one that writes, in three roles.')
flags.DEFINE_string('key_env', '', "Environment variable that holds the endpoint's key.")
flags.DEFINE_float('budget', float('inf'), 'Dollars that all requests may cost, earlier runs included.', lower_bound=0.0)
flags.DEFINE_string('prices', '0,0', 'Dollars per million input and output tokens, as in 0.5,1.5; the same for all models.')
flags.DEFINE_integer('count', 100, 'Samples to make, the rejected ones included.', lower_bound=1)
flags.DEFINE_integer('parallel', 32, 'Requests at a time, per model.', lower_bound=1)
flags.DEFINE_integer('requests_per_minute', 0, 'Limit of the endpoint; 0 for none.', lower_bound=0)
flags.DEFINE_integer('tokens_per_minute', 0, 'Limit of the endpoint; 0 for none.', lower_bound=0)
flags.DEFINE_string('out', '', 'File to write, .jsonl, or its folder.')
flags.DEFINE_integer('seed', 0, 'Seed of everything that chance decides.', lower_bound=0)

FLAGS = flags.FLAGS


def main(argv):
  del argv
  from iquest_jax.data.read import jsonl
  from iquest_jax.data.synthesis import domains, run
  from iquest_jax.endpoint.client import Endpoint
  from iquest_jax.sandbox.pool import Pool

  domain = domains.load(FLAGS.domain)
  for name in ('seeds', 'endpoint', 'model', 'out'):
    if not FLAGS[name].value:
      raise UserError(f'--{name} is missing; see --help for an example')
  out, prices, console = pathlib.Path(FLAGS.out), _prices(), Console(file=sys.stdout, highlight=False)
  out = out if out.suffix == '.jsonl' else out / f'{domain.name}.jsonl'
  # The judges that are the writer's model share its endpoint, so that one bill and one limit hold for them.
  names = list(dict.fromkeys([FLAGS.model, *FLAGS.judges]))
  with contextlib.ExitStack() as stack:
    connect = lambda name: stack.enter_context(
        Endpoint(
            FLAGS.endpoint, name, key_env=FLAGS.key_env, parallel=FLAGS.parallel, cache=run.Files(out).cache,
            requests_per_minute=FLAGS.requests_per_minute, tokens_per_minute=FLAGS.tokens_per_minute,
            budget=FLAGS.budget / len(names), prices=prices,
        )
    )  # fmt: skip
    endpoints = {name: connect(name) for name in names}
    pool, bar = stack.enter_context(Pool()), stack.enter_context(_Progress(console, domain.name, endpoints.values()))
    judges = [endpoints[name] for name in FLAGS.judges]
    try:
      result = run.run(
          domain, jsonl.read_documents(FLAGS.seeds), out, endpoints[FLAGS.model], count=FLAGS.count, seed=FLAGS.seed,
          judges=judges, parallel=FLAGS.parallel, pool=pool, prices=prices, progress=bar,
      )  # fmt: skip
    except KeyboardInterrupt:
      raise RunStopped(f'interrupted; what is finished is in {out}: rerun the same command to resume') from None
  _show(result.report, console)
  console.print(f'{out}: {result.report["funnel"]["kept"]:,} samples', markup=False, soft_wrap=True)
  if result.stopped:
    console.print(str(result.stopped), markup=False, soft_wrap=True)


def _prices() -> tuple[float, float]:
  try:
    one, other = map(float, FLAGS.prices.split(','))
  except ValueError:
    raise UserError(f'--prices: must be two numbers, as in 0.5,1.5, got {FLAGS.prices}') from None
  return one, other


def _show(report: dict, console: Console) -> None:
  """Prints the report as tables."""
  funnel, usage = report['funnel'], report['usage']
  table = Table(title=Text(f'{report["domain"]} by {report["model"]}'), title_justify='left')
  table.add_column('samples')
  table.add_column('count', justify='right')
  rows = [('made', funnel['read'])]
  rows += [(f'  {rule}', count) for rule, count in sorted(funnel['drops'].items(), key=lambda item: (-item[1], item[0]))]
  rows += [('kept', funnel['kept']), *((f'  checked: {check}', count) for check, count in report['checks'].items())]
  rows += [(f'seeds: {rule}', count) for rule, count in report['unread'].items()]
  for name, count in rows:
    table.add_row(name, f'{count:,}')
  console.print(table)
  tokens = f'{usage["input_tokens"]:,} tokens in, {usage["output_tokens"]:,} out'
  console.print(f'{usage["requests"]:,} requests, {tokens}, ${usage["dollars"]:,.4f}', markup=False, soft_wrap=True)


class _Progress:
  """A bar of finished samples: kept, dropped, requests and tokens of this run, dollars, rate, time left."""

  def __init__(self, console: Console, name: str, endpoints):
    from rich import progress

    columns = (
        progress.TextColumn('{task.description}'), progress.BarColumn(), progress.MofNCompleteColumn(),
        progress.TextColumn('{task.fields[counts]}'), progress.TimeElapsedColumn(), progress.TextColumn('left'),
        progress.TimeRemainingColumn(),
    )  # fmt: skip
    self._bar = progress.Progress(*columns, console=console, transient=True)
    self._endpoints, self._console, self._name = list(endpoints), console, name
    self._task, self._shown = self._bar.add_task(name, total=None, counts=''), -1

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *_):
    self._bar.stop()

  def __call__(self, done, total: int) -> None:
    usages = [endpoint.usage for endpoint in self._endpoints]
    requests, tokens, dollars = (
        sum(getattr(usage, name) for usage in usages for name in names)
        for names in (('requests',), ('input_tokens', 'output_tokens'), ('cost',))
    )
    rate = self._bar.tasks[0].speed
    counts = f'{done.kept:,} kept, {done.read - done.kept:,} dropped, {requests:,} requests, {tokens:,} tokens'
    counts += f', ${dollars:,.2f}' + (f', {rate:,.1f}/s' if rate else '')
    self._bar.update(self._task, completed=done.read, total=total, counts=counts)
    if not self._console.is_terminal and done.read * 10 // total > self._shown:
      self._shown = done.read * 10 // total
      self._console.print(f'{self._name}: {done.read:,} of {total:,} made, {counts}', markup=False, soft_wrap=True)


if __name__ == '__main__':
  command.run(main)
