"""SeqIO's definitions: a Task gives what the workers wrote, a Mixture the rates, the Task of a stage the loader's rows."""

import numpy as np
import pytest
import seqio
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from iquest_jax.data import pack, sources, tasks
from iquest_jax.data.build.fim import LEVELS
from iquest_jax.data.documents import Conversation, Drop, File, to_json
from iquest_jax.data.loader import Loader
from iquest_jax.data.rows import mixture, packing, write
from iquest_jax.data.rows.manifest import SPLITS
from iquest_jax.data.rows.read import Rows
from iquest_jax.text.example import Example
from iquest_jax.text.tokenizer import Tokenizer

from tests.small_rows import write_manifest, write_segment

CONTEXT = 48
TOKENIZER = Tokenizer.train(['def f(x):\n  return x + 1\n', 'ä𝄞 <think>'], 330)
CONFIG = ConfigDict({
    'stage': 'midtrain_32k',
    'seed': 3,
    'model': {'vocab': 330},
    'data': {
        'context': CONTEXT,
        'learn': sources.LEARN[0],
        'fim': {'share': 0.5, 'spm': 0.5, 'levels': dict.fromkeys(LEVELS, 1.0)},
        'buckets': (0.0, 1.0),
        'mixture': ((0, (('code', 3.0), ('file_level', 1.0))), (2, (('reasoning_qa', 1.0), ('code', 0.5)))),
    },
    'train': {'steps': 5, 'batch_rows': 4},
})
TEXT = st.text(st.sampled_from('def x():\n  return 1 + é𝄞<|im_end|>'), min_size=1, max_size=120)


def _file(number, text):
  return File(f'{number}', f'a{number}.py', text)


def _chat(number, text):
  asks = {'role': 'user', 'content': text}
  return Conversation(f'{number}', (asks, {'role': 'assistant', 'content': 'x = 1'}))


def examples_of(task, split='train'):
  dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False, trim_output_features=False)
  return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize(('source', 'made'), [('code', _file), ('file_level', _file), ('reasoning_qa', _chat)])
@settings(max_examples=4)
@given(texts=st.lists(TEXT, min_size=1, max_size=8))
def test_a_task_gives_what_the_workers_write(tmp_path_factory, source, made, texts):
  """Its examples, packed, are the rows of the shard that a worker packs from the file of the same documents."""
  folder = tmp_path_factory.mktemp('shard')
  documents = [made(number, text) for number, text in enumerate(texts)]
  lines = ''.join(to_json(document) + '\n' for document in documents)
  (folder / 'documents.jsonl.zst').write_bytes(zstandard.compress(lines.encode()))
  TOKENIZER.save(folder / 'tokenizer.json')
  how = pack.Packing(CONFIG.stage, source, (0.0, 1.0), sources.Rendering.of(CONFIG))
  names = [str(folder / name) for name in ('documents.jsonl.zst', 'tokenizer.json', 'by worker')]
  worker = pack.pack_shard(how, False, *names)
  task = tasks.source_task(CONFIG, source, lambda split: iter(documents), TOKENIZER)
  examples = [Example(item['tokens'], item['loss_weights']) for item in examples_of(task)]
  rows = packing.pack(examples, CONTEXT, sources.get(source).whole, packing.Counts())
  written = write.write_shard(folder / 'by task', rows, CONTEXT)
  assert written == {name: worker[name] for name in written}
  assert all(item['tokens'].dtype == np.int32 and item['loss_weights'].dtype == np.float32 for item in examples_of(task))


def test_a_task_leaves_out_what_is_dropped_and_keeps_its_splits_apart(monkeypatch):
  render = sources.render
  dropped = lambda name, document, *rest: Drop('x') if document.id == '1' else render(name, document, *rest)
  monkeypatch.setattr(sources, 'render', dropped)
  read = {'train': [_file(n, f'x = {n}') for n in range(3)], 'held_out': [_file(5, 'y = 5')]}
  task = tasks.source_task(CONFIG, 'code', lambda split: iter(read[split]), TOKENIZER)
  decoded = {split: [TOKENIZER.decode(item['tokens']) for item in examples_of(task, split)] for split in SPLITS}
  assert [len(texts) for texts in decoded.values()] == [2, 1]
  assert 'x = 0' in decoded['train'][0] and 'x = 2' in decoded['train'][1] and 'y = 5' in decoded['held_out'][0]
  assert task.name == 'midtrain_32k.code'


def test_the_rates_of_the_manifest_are_those_of_seqios_mixtures():
  read = lambda split: iter([_file(0, 'x')])
  made = {name: tasks.source_task(CONFIG, name, read, TOKENIZER) for name in ('code', 'file_level', 'reasoning_qa')}
  phases = tasks.mixtures(CONFIG, made)
  assert [phase.name for phase in phases] == ['midtrain_32k.from_0', 'midtrain_32k.from_2']
  for phase, (_, rates) in zip(phases, mixture.rates(CONFIG.data.mixture), strict=True):
    assert {task.name.split('.')[1]: phase.get_rate(task) for task in phase.tasks} == rates
  assert mixture.rates(CONFIG.data.mixture) == [
      [0, {'code': 3.0, 'file_level': 1.0}], [2, {'reasoning_qa': 1.0, 'code': 0.5}]
  ]  # fmt: skip


def test_the_task_of_a_stage_is_the_training_rows_in_the_loaders_order(tmp_path):
  random = np.random.default_rng(0)
  lengths = random.integers(2, 60, 90)
  examples = [Example(random.integers(0, 330, n, dtype=np.int32), np.ones(n, np.float32)) for n in lengths]
  rows = list(packing.pack(examples, CONTEXT, False, packing.Counts()))
  names = ('code', 'file_level', 'reasoning_qa')
  write_manifest(
      tmp_path,
      {
          name: {
              'train': [write_segment(tmp_path, name, 'train', rows[n::3], CONTEXT)],
              'held_out': [write_segment(tmp_path, name, 'held_out', rows[:1], CONTEXT)],
          }
          for n, name in enumerate(names)
      },
      CONTEXT,
  )  # fmt: skip
  loader = Loader(
      tmp_path, CONFIG.data.mixture, context=CONTEXT, batch_rows=4, seed=3, tokenizer_fingerprint='ours', command=''
  )  # fmt: skip
  found = examples_of(tasks.rows_task(CONFIG, loader))
  batches = list(loader.numpy_batches(0, 5, range(4)))
  assert len(found) == 20 and {int(row['source_ids']) for row in found} == {0, 1, 2}
  for number, row in enumerate(found):
    batch = batches[number // 4]
    assert row.keys() == batch.keys()
    for name, value in row.items():
      assert np.array_equal(value, batch[name][number % 4]) and value.dtype == batch[name].dtype


def test_a_prepared_stage_is_registered_by_name(prepared):
  from tests.data.small_stage import stage

  run, manifest = prepared
  config = stage()
  tasks.register(config, run)
  rows = examples_of(seqio.TaskRegistry.get(config.stage))
  assert len(rows) == config.train.steps * config.train.batch_rows
  for source, splits in manifest['sources'].items():
    task = seqio.TaskRegistry.get(f'{config.stage}.{source}')
    stored = Rows(run.rows(config.stage), source, 'train', '')
    tokens = {row['tokens'].tobytes() for row in (stored[n] for n in range(len(stored)))}
    examples = [Example(item['tokens'], item['loss_weights']) for item in examples_of(task)]
    again = packing.pack(examples, config.data.context, sources.get(source).whole, packing.Counts())
    assert splits['train']['rows'] and next(again)['tokens'].tobytes() in tokens
  assert seqio.MixtureRegistry.get(f'{config.stage}.from_0').tasks
