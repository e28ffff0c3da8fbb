"""Settings and run folders that do not fit are refused in one line with status 2, and no file is touched."""

import re
import shlex
import shutil

import pytest

from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.run_folder import StageFolder

from tests.processes import refusal
from tests.run import helpers as run_helpers
from tests.run.helpers import CONTEXT, killed_at, train


def refused(shared, workdir, command, devices=1):
  """The line a command is refused with; asserts that no file is changed, added or removed."""
  before = run_helpers.files(workdir)
  line = refusal(shared.run(command, devices, status=2))
  assert run_helpers.files(workdir) == before
  return line


# What does not fit the stage, the mesh or the rows: (devices, overrides, part of the error).
SETTINGS = {
    'fewer devices than the mesh needs': (
        1, {'mesh.fsdp': 4}, 'fsdp 4 x context 1 x tensor 1 = 4;'),
    'more devices than the mesh takes': (4, {'mesh.fsdp': 2}, 'must multiply to 4 devices'),
    'a batch that does not divide': (
        4, {'train.batch_rows': 6}, 'train.batch_rows must be a multiple of data x fsdp x accumulation = 4, got 6; change'),
    'a batch that does not accumulate': (1, {'train.accumulation': 3}, 'data x fsdp x accumulation = 3, got 8; change one'),
    'a row that does not divide': (
        4, {'mesh.fsdp': 1, 'mesh.context': 4, 'data.context': 30},
        'data.context must be a multiple of 2 x mesh.context = 8'),
    'a row longer than the model allows': (1, {'model.max_context': 16}, 'must be at most model.max_context = 16'),
    'a row that does not divide by the chunk': (1, {'train.loss_chunk': 12}, 'train.loss_chunk, got 12'),
    'heads that do not divide': (4, {'mesh.fsdp': 1, 'mesh.tensor': 4}, 'must be a multiple of mesh axes tensor = 4'),
    'rows of another context length': (
        1, {'data.context': 64}, 'have context 32, the stage has 64; prepare them again with python -m launch.prepare '
        '--exp=anneal:size=tiny --workdir='),
    'a mixture that is none': (1, {'data.mixture': (1, 2)}, 'data.mixture must be ((from_step, ((source, weight)'),
    'a mixture that starts late': (1, {'data.mixture': ((3, (('code', 1.0),)),)}, 'the first phase must start at step 0'),
    'a mixture of a source without rows': (
        1, {'data.mixture': ((0, (('commits', 1.0),)),)}, 'has no rows of "commits"; prepare them again with'),
    'an unknown schedule': (1, {'optim.schedule': 'cosin'}, 'did you mean "cosine"?'),
    'a model the parent was not made for': (
        1, {'model.rope_theta': 10000.0}, 'has model.rope_theta = 500000.0, but this stage has 10000.0; set '),
    'a parent of another size': (1, {'model.d_ff': 96}, 'has model.d_ff = 64, but this stage has 96; set '),
    'a start that does not exist': (1, {'init.transform': 'foo'}, 'init.transform must be "" or "dense_to_loop"'),
    'a rate below nothing': (1, {'optim.floor': -3.0}, 'config: optim.floor must be in [0, 1], got -3.0'),
    'moments of an unknown type': (1, {'optim.moment_dtype': 'float23'}, 'did you mean "float32"?'),
    'no step': (1, {'train.steps': 0}, 'config: train.steps must be at least 1, got 0'),
    'no rows': (1, {'train.batch_rows': 0}, 'config: train.batch_rows must be at least 1, got 0'),
    'a save every no steps': (1, {'checkpoint.every': 0}, 'config: checkpoint.every must be at least 1, got 0'),
    'an evaluation of no rows': (1, {'eval.rows': 0}, 'config: eval.rows must be at least 1, got 0'),
    'a vocabulary of nothing': (1, {'model.vocab': 0}, 'model: vocab must be at least 1, got 0'),
    'a milestone that is never saved': (
        1, {'checkpoint.milestones': (6, 7)}, 'checkpoint.milestones must be multiples of checkpoint.every = 3, got 7'),
    'no checkpoint to be kept': (1, {'checkpoint.keep': 0}, 'checkpoint.keep must be at least 1, got 0'),
}  # fmt: skip


@pytest.mark.parametrize('mistake', SETTINGS)
def test_settings_that_do_not_fit_are_refused(shared, workdir, mistake):
  devices, changes, error = SETTINGS[mistake]
  assert error in refused(shared, workdir, train('anneal', workdir, **changes), devices)


def test_a_parent_without_a_checkpoint_is_named_with_its_command(shared, workdir):
  shutil.rmtree(workdir / 'pretrain')
  line = refused(shared, workdir, train('anneal', workdir))
  advice = re.fullmatch(r'(\S+): anneal starts from pretrain, which has no checkpoint; train it with python (.*)', line)
  assert advice[1] == str(workdir / 'pretrain/checkpoints')
  # That command works up to the missing rows, and so does the command that prepares them.
  shutil.rmtree(workdir / 'rows/pretrain')
  line = refused(shared, workdir, shlex.split(advice[2]))
  advice = re.fullmatch(r'rows: .*/rows/pretrain/manifest.json is missing; prepare the rows with python (.*)', line)
  assert shared.run(['-m', 'tests.programs.parsed', *shlex.split(advice[1])]).stdout == 'pretrain\n'


def test_an_unfinished_parent_is_refused(shared, workdir):
  shutil.rmtree(workdir / 'pretrain')
  shared.run(killed_at('iquest_jax.train.metrics:Reporter.note', 5, train('pretrain', workdir), 1.5), status=-9)
  line = refused(shared, workdir, train('anneal', workdir))
  assert 'which is not finished (its newest checkpoint is step 3); train it with python -m launch.tpu' in line


def test_a_stage_of_another_size_in_the_same_folder_is_refused(shared, workdir):
  for change in ({'model.d_model': 64}, {'model.loops': 2}):
    for more in ({}, {'train.steps': 4}):  # finished, and to be resumed
      line = refused(shared, workdir, train('pretrain', workdir, **change, **more))
      assert line.startswith(f'{workdir}/pretrain: has model.{next(iter(change)).removeprefix("model.")} = ')
      assert line.endswith('or name the right size in --exp')


def test_a_finished_stage_is_checked_like_any_other(shared, workdir):
  assert 'log.every must be at least 1, got 0' in refused(shared, workdir, train('pretrain', workdir, **{'log.every': 0}))


def test_a_stage_that_was_refused_leaves_no_folder(shared, workdir):
  refused(shared, workdir, train('midtrain_128k', workdir))
  assert not (workdir / 'midtrain_128k').exists()


def test_fewer_steps_than_a_stage_has_taken_are_refused(shared, workdir):
  line = refused(shared, workdir, train('pretrain', workdir, **{'train.steps': 2}))
  assert 'pretrain: is at step 3, beyond train.steps 2; raise it or use a new --workdir' in line


@pytest.mark.parametrize('stage', ['anneal', 'pretrain'])
def test_a_checkpoint_with_a_changed_byte_is_named(shared, workdir, stage):
  """Whether it is the parent's or the stage's own."""
  folder = workdir / 'pretrain/checkpoints/3'
  changed = max((folder / 'params').rglob('d/*'), key=lambda path: path.stat().st_size)
  content = bytearray(changed.read_bytes())
  content[len(content) // 2] ^= 1
  changed.write_bytes(content)
  line = refused(shared, workdir, train(stage, workdir))
  assert line == f'{folder}: {changed.relative_to(folder)} has changed since it was saved; remove this folder to start ' \
                 'the stage again'  # fmt: skip


def test_rows_of_another_tokenizer_are_refused(shared, workdir):
  run_helpers.write_tokenizer(workdir, 'another text to learn merges from\n' * 3)
  line = refused(shared, workdir, train('anneal', workdir))
  assert re.search(r'rows/anneal were made with another tokenizer \(\w{12}, the run has \w{12}\); prepare them again with '
                   rf'python -m launch.prepare --exp=anneal:size=tiny --workdir={workdir}$', line)  # fmt: skip


@pytest.mark.parametrize('damage', ['manifest', 'row'])
def test_damaged_rows_are_refused(shared, workdir, damage):
  file = workdir / 'rows/anneal/manifest.json'
  if damage == 'row':
    file = next((workdir / 'rows/anneal/code').rglob('*held_out.array_record*'))
    content = bytearray(file.read_bytes())
    content[200] ^= 1  # within the first rows
    file.write_bytes(content)
  else:
    file.write_text('{}')
  line = refusal(shared.run(train('anneal', workdir), status=2))
  assert line.startswith(f'rows: {file} ') and line.endswith(
      f'with python -m launch.prepare --exp=anneal:size=tiny --workdir={workdir}')  # fmt: skip


def test_a_workdir_without_tokenizer_or_rows_is_refused(shared, workdir):
  manifest = workdir / 'rows/anneal/manifest.json'
  manifest.unlink()
  assert 'rows/anneal/manifest.json is missing; prepare the rows with' in refused(shared, workdir, train('anneal', workdir))
  shutil.rmtree(workdir / 'tokenizer')
  line = refused(shared, workdir, train('anneal', workdir))
  assert line.endswith('tokenizer/tokenizer.json is missing; prepare it and the rows with python -m launch.prepare '
                       f'--exp=anneal:size=tiny --workdir={workdir}')  # fmt: skip


def test_an_empty_source_is_refused_and_prepared_rows_stay(shared, workdir):
  (workdir / 'raw').mkdir()
  (workdir / 'raw' / 'some.jsonl').write_text('')
  sources = workdir / 'sources.toml'
  sources.write_text('[[input]]\nname = "raw"\nread = "documents"\npath = "raw"\nsources = ["code", "web_text"]\n')
  mixture = ((0, (('code', 1.0), ('web_text', 1.0))),)
  command = ['-m', 'launch.prepare', '--exp=midtrain_32k:tiny', f'--workdir={workdir}', f'--sources={sources}',
             f'--exp.data.mixture={mixture}', '--exp.model.vocab=320', f'--exp.data.context={CONTEXT}']  # fmt: skip
  line = refusal(shared.run(command, status=2))
  assert re.match(r'documents: .* has none for "code"; name it in an \[\[input\]\] of --sources', line)
  assert not (workdir / 'rows/midtrain_32k/manifest.json').exists() and (workdir / 'rows/anneal/manifest.json').exists()


def test_a_refusal_in_the_middle_of_a_run_leaves_its_checkpoints(shared, workdir):
  """A killed run is refused with settings that do not fit and resumes with the right ones."""
  command = train('anneal', workdir)
  shared.run(killed_at('iquest_jax.train.metrics:Reporter.note', 8, command, 1.5), status=-9)
  refused(shared, workdir, train('anneal', workdir, **{'model.layers': 3}))
  refused(shared, workdir, train('anneal', workdir, **{'train.batch_rows': 6}), devices=4)
  assert Checkpoints(StageFolder(workdir / 'anneal')).steps() == [3, 6]
  shared.run(command)
  run_helpers.assert_same_run(workdir / 'anneal', shared.straight / 'anneal')
