"""Prepare what training reads: the tokenizer of a chain and the packed rows of its stages.

  python -m launch.prepare --size=tiny_loop --workdir=runs/tiny_loop
  python -m launch.prepare --exp=midtrain_32k:size=7b --workdir=runs/7b --documents=corpus --tokenizer=tokenizer.json

Without --exp, every stage of the size. Documents are JSONL, DIR/<source>/*.jsonl[.gz], one a line; tiny sizes have
collectors of their own. What is prepared and whose input did not change is kept.
"""

import sys

from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from launch import command

_DOCUMENTS = flags.DEFINE_string('documents', '', 'Folder of <source>/*.jsonl[.gz]; tiny sizes need none.')
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
  if _TOKENIZER.value:
    prepare.import_tokenizer(configs[0], run_folder, _TOKENIZER.value)
  for config in configs:
    with console.status(config.stage) as status:
      manifest = prepare.prepare(
          config, run_folder, _DOCUMENTS.value, progress=lambda source, s=config.stage: status.update(f'{s}: {source}')
      )
    console.print(_table(config.stage, manifest))


def _table(stage: str, manifest: dict) -> Table:
  """What was prepared: documents, rows and tokens to train on, held-out rows, and what was dropped."""
  table = Table(title=f'{stage}: rows of {manifest["context"]} tokens', title_justify='left', box=box.SIMPLE)
  for heading in ('source', 'documents', 'rows', 'tokens', 'held out', 'dropped'):
    is_text = heading in ('source', 'dropped')
    table.add_column(heading, no_wrap=heading == 'source', justify='left' if is_text else 'right')
  for source, entry in manifest['sources'].items():
    train, held_out = entry['train'], entry['held_out']
    dropped = ', '.join(f'{count:,} {reason}' for reason, count in train['drops'].items())
    numbers = (f'{count:,}' for count in (train['documents'], train['rows'], train['tokens'], held_out['rows']))
    table.add_row(source, *numbers, dropped)
  return table


if __name__ == '__main__':
  command.run(main)
