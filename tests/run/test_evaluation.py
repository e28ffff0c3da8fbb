"""A stage is evaluated by all processes of a run, which resume together what one of them began."""

import json

import pytest

from iquest_jax.errors import UserError
from iquest_jax.sandbox import runner

from tests import processes
from tests.eval.test_small_programs import written


def loaded(folder, suite):
  """results.json without the seconds that programs took."""
  results = json.loads((folder / suite / 'results.json').read_text())
  for result in results.get('results', {}).values():
    for sample in result['samples']:
      del sample['seconds']
  return results


def test_two_processes_resume_and_end_with_the_results_of_one(shared, tmp_path, unused_port):
  try:
    runner.choose('')
  except UserError as error:
    pytest.skip(str(error))
  workdir = shared.copy(tmp_path)
  written(workdir / 'corpus', count=6)

  def command(out):
    line = ['-m', 'launch.evaluate', f'--workdir={workdir}', '--stage=pretrain', '--suite=bits_per_byte,small_programs']
    return [*line, '--tokens=5', '--samples=2', '--temperature=1', f'--out={tmp_path / out}']

  shared.run(command('one'))
  begun = (tmp_path / 'one/small_programs/records.jsonl').read_text().splitlines(True)
  (tmp_path / 'two/small_programs').mkdir(parents=True)
  (tmp_path / 'two/small_programs/records.jsonl').write_text(''.join(begun[:5]))
  several = {'JAX_COORDINATOR_ADDRESS': f'localhost:{unused_port}', 'JAX_NUM_PROCESSES': '2'}
  pair = [shared.start(command('two'), **several, JAX_PROCESS_ID=str(process)) for process in (0, 1)]
  first, second = (processes.finish(process) for process in pair)
  assert 'solved' in first.stdout and 'solved' not in second.stdout and '4 of 12 were graded before' in first.stderr
  one, two = (loaded(tmp_path / out, 'small_programs') for out in ('one', 'two'))
  assert one == two and one['scored'] == 6
  answers = [sample['answers'] for result in one['results'].values() for sample in result['samples']]
  assert len(answers) == 12 and len({text for texts in answers for text in texts}) > 2
  bits = [loaded(tmp_path / out, 'bits_per_byte')['figures'] for out in ('one', 'two')]
  assert bits[0] == pytest.approx(bits[1], rel=1e-5) and set(bits[0]) == {'code', 'facts', 'web_text'}
