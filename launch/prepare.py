"""Prepare what training reads: the tokenizer of a chain and the packed rows of its stages.

  python -m launch.prepare --size=tiny_loop --workdir=runs/tiny_loop
  python -m launch.prepare --exp=midtrain_32k:size=7b --workdir=runs/7b --documents=corpus --tokenizer=tokenizer.json

Without --exp, every stage of the size. Documents are JSONL, DIR/<source>/*.jsonl[.gz], one record of data/documents.py per
line, such as {"kind": "file", "id": "1", "path": "a.py", "text": "x = 1"}. Without --documents a tiny size writes a small
corpus to WORKDIR/corpus and reads that. Rows whose inputs have not changed are kept.
"""

import sys

from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from iquest_jax.errors import UserError
from launch import command

_DOCUMENTS = flags.DEFINE_string('documents', '', 'Folder of <source>/*.jsonl[.gz]; a tiny size can do without.')
_TOKENIZER = flags.DEFINE_string('tokenizer', '', 'A tokenizer.json to use instead of training one.')
flags.declare_key_flag('workdir')
flags.declare_key_flag('size')

FLAGS = flags.FLAGS


def main(argv):
  del argv
  from experiments import chain
  from iquest_jax.data import prepare

  run_folder, console = command.run_folder(), Console(file=sys.stdout)
  if 'exp' in FLAGS:
    configs = [command.config()]
  else:
    configs = [command.experiment(f'{stage}:size={FLAGS.size}') for stage in chain.stages(FLAGS.size)]
  documents = _DOCUMENTS.value or _corpus(configs[0].size, run_folder, console)
  if _TOKENIZER.value:
    prepare.import_tokenizer(configs[0], run_folder, _TOKENIZER.value)
  for config in configs:
    with console.status(config.stage) as status:
      manifest = prepare.prepare(
          config, run_folder, documents, progress=lambda source, s=config.stage: status.update(f'{s}: {source}')
      )
    console.print(_table(config.stage, manifest))


def _corpus(size: str, run_folder, console: Console):
  """The corpus of a tiny size, written if it does not exist; other sizes need --documents."""
  if not size.startswith('tiny'):
    raise UserError(
        f'--documents is missing; size "{size}" needs a folder of documents (DIR/<source>/*.jsonl), only tiny sizes do not'
    )
  from iquest_jax.data.tiny import corpus

  with console.status('corpus'):
    corpus.write(run_folder.corpus)
  return run_folder.corpus


def _table(stage: str, manifest: dict) -> Table:
  """What was prepared per source: documents, rows and tokens to train on, held-out rows, dropped documents."""
  table = Table(title=f'{stage}: rows of {manifest["context"]} tokens', title_justify='left', box=box.SIMPLE)
  for heading in ('source', 'documents', 'rows', 'tokens', 'held out', 'dropped'):
    is_text = heading in ('source', 'dropped')
    table.add_column(heading, no_wrap=heading == 'source', justify='left' if is_text else 'right')
  for source, entry in manifest['sources'].items():
    train, held_out = entry['train'], entry['held_out']
    dropped = ', '.join(f'{count:,} {reason}' for reason, count in train['drops'].items())
    counts = (f'{count:,}' for count in (train['documents'], train['rows'], train['tokens'], held_out['rows']))
    table.add_row(source, *counts, dropped)
  return table


if __name__ == '__main__':
  command.run(main)
