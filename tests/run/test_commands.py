"""What commands refuse before they read or start anything, and that they print nothing but their own lines."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LOOP_ADAPT, ANNEAL = '--exp=loop_adapt:size=tiny_loop', '--exp=anneal:tiny'
REFUSED = {
    'a fold that does not exist': (['tpu', LOOP_ADAPT, '--exp.init.fold=foo'], 'config: init.fold "foo" does not exist'),
    'a fold of a stage that has none': (
        ['tpu', '--exp=midtrain_32k:tiny', '--exp.init.transform=dense_to_loop'],
        'config: init.transform must be "" except in loop_adapt, got "dense_to_loop"'),
    'a fold with moments': (['tpu', ANNEAL, '--exp.init.transform=dense_to_loop'], 'config: init.carry must be '),
    'rows of a start that does not exist': (
        ['prepare', ANNEAL, "--exp.init.carry=('paramz',)"], 'config: init.carry must be '),
    'a stage beside --exp': (['tpu', ANNEAL, '--exp.stage=pretrain'], '--exp.stage follows from --exp'),
    'a parent beside --exp': (['tpu', ANNEAL, '-exp.init.stage=pretrain'], '--exp.init.stage follows from --exp'),
    'an experiment behind one dash': (['tpu', '-exp=aneal:tiny'], '--exp: experiment "aneal" does not exist'),
    'a word that is no flag': (['sample', '--stage=anneal', 'hello'], '"hello" is no flag'),
    'a temperature that is no number': (
        ['sample', '--stage=anneal', '--temperature=nan'], '--temperature is nan; it is a number'),
}  # fmt: skip


def run(command: str, *arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run([sys.executable, '-m', f'launch.{command}', *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize('mistake', REFUSED)
def test_a_mistake_is_one_line_and_nothing_is_made(tmp_path, mistake):
  arguments, says = REFUSED[mistake]
  done = run(*arguments, f'--workdir={tmp_path}')
  assert done.returncode == 2 and done.stderr.startswith(f'error: {says}') and done.stderr.count('\n') == 1, done.stderr
  assert not list(tmp_path.iterdir())


def test_the_bench_prints_its_measurements_and_no_greetings():
  done = run('bench', '--what=loader')
  assert (done.returncode, done.stderr) == (0, '')
  assert [json.loads(line)['context'] for line in done.stdout.splitlines()] == [512, 8192]
