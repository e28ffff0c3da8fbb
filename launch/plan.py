"""Plan a mixture of programming languages by the multilingual scaling law: their shares, and the loss to expect.

  python -m launch.plan --languages=Python,Java,Go --tokens=100e9 --size=7b --available=Python=50e9,Java=30e9
  python -m launch.plan --languages=Python,Java --tokens=50e9 --size=7b --losses=points.json

The plan minimises the mean loss over the languages; no token is read more than --epochs times. --losses
fits the law to losses of your own, {"N": billions of parameters, "D": billions of tokens, "points":
{language: [[a loss per D], a row per N]}}; without it, the surfaces published in arXiv 2512.13472 serve.

gamma, which says how much one language helps another, is unpublished: 1.0 is our choice. The law as
printed cannot plan: its minimum puts everything on the language of the lowest irreducible loss (C#).
So each language's law, with the data that others add to it, is minimised instead.
"""

import sys

from absl import flags

from iquest_jax.errors import UserError
from launch import command

flags.declare_key_flag('size')
flags.DEFINE_string('languages', '', 'Languages to train on, as in Python,Java,Go; each counts alike.')
flags.DEFINE_float('tokens', 0.0, 'Tokens to train on, of all languages together.')
flags.DEFINE_string('available', '', 'Tokens there are, as in Python=50e9,Java=30e9; others are unlimited.')
flags.DEFINE_float('epochs', 4.0, 'How often a token may be read.')
flags.DEFINE_float('gamma', 1.0, 'How much transfer between languages counts; unpublished.')
flags.DEFINE_string('losses', '', 'A JSON file of measured losses to fit the law to; see above.')

FLAGS = flags.FLAGS

_BILLION = 1e9


def main(argv):
  del argv
  from iquest_jax.data.plan import mixture, scaling_law
  from iquest_jax.model import cost, sizes

  languages = [name.strip() for name in FLAGS.languages.split(',') if name.strip()]
  available = _available(FLAGS.available)
  size = cost.num_params(sizes.get(FLAGS.size)) / _BILLION
  measured = scaling_law.read_points(FLAGS.losses) if FLAGS.losses else None
  law = scaling_law.Law.fitted(measured, FLAGS.gamma) if measured else scaling_law.Law.published(FLAGS.gamma)
  planned = mixture.plan(law, size, FLAGS.tokens / _BILLION, languages, available, FLAGS.epochs)
  _print(planned, law, mixture.published_loss(law, planned.n, planned.d, languages), measured)


def _available(text: str) -> dict[str, float]:
  """{language: billions of tokens} of `Python=50e9,Java=30e9`."""
  found = {}
  for part in filter(None, (part.strip() for part in text.split(','))):
    name, separator, tokens = part.partition('=')
    if name in found:
      raise UserError(f'--available names "{name}" twice; give it once')
    try:
      found[name] = float(tokens) / _BILLION
    except ValueError:
      wrong = f'has no number of tokens in "{part}"' if separator else f'has no "=" in "{part}"'
      raise UserError(f'--available {wrong}; write it as in Python=50e9,Java=30e9') from None
  return found


def _print(planned, law, published_loss, measured) -> None:
  from rich import box
  from rich.console import Console
  from rich.table import Table

  title = f'{planned.d:g} billion tokens, {planned.n:.3g} billion parameters, gamma {law.gamma:g}'
  table = Table(box=box.SIMPLE, title=title, title_justify='left')
  for heading in ('language', 'share', 'billion tokens', 'epochs', 'expected loss', 'uniform', 'its loss'):
    table.add_column(heading, justify='left' if heading == 'language' else 'right', no_wrap=True)
  for name, share in planned.shares.items():
    epochs = f'{planned.epochs[name]:.2f}' if planned.epochs[name] else '-'
    table.add_row(
        name, f'{share:.4f}', f'{share * planned.d:.4g}', epochs, f'{planned.losses[name]:.4f}',
        f'{planned.uniform[name]:.4f}', f'{planned.uniform_losses[name]:.4f}',
    )  # fmt: skip
  table.add_section()
  table.add_row('mean', '', '', '', f'{planned.loss:.4f}', '', f'{planned.uniform_loss:.4f}')
  Console(width=None if sys.stdout.isatty() else 100, highlight=False).print(table)
  if measured:
    for name, surface in law.surfaces.items():
      size, data = f'{surface.a:.5g} N^-{surface.a_n:.5g}', f'{surface.b:.5g} D^-{surface.a_d:.5g}'
      print(f'{name}: L = {size} + {data} + {surface.floor:.5g}')
  if published_loss is not None:
    print(f'The allocation of arXiv 2512.13472 would have a mean loss of {published_loss:.4f} by this law.')
  for note in _notes(planned, law, measured):
    print(note)


def _notes(planned, law, measured) -> list[str]:
  """What a reader has to know before trusting the numbers."""
  notes = [
      'gamma is unpublished; shares and losses change with it, so compare --gamma=0 and others.',
      'The law as printed would put everything on the language of the lowest irreducible loss; this plan does not use it.',
  ]
  if not measured and (planned.n > 3.1 or planned.d > 64):
    notes.append('Extrapolated: the published losses end at 3.1 billion parameters and 64 billion tokens per language.')
  if unknown := [name for name in planned.shares if name not in law.transfer]:
    notes.append(f'No transfer was ever measured for {", ".join(unknown)}; it counts as 0.')
  return notes


if __name__ == '__main__':
  command.run(main)
