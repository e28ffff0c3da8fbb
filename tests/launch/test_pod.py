"""launch/pod.sh: what it runs, when it runs that again, and that no value of a variable is shown."""

import os
import pathlib
import stat
import subprocess
import sys
import time

import pytest

POD = pathlib.Path(__file__).parents[2] / 'launch/pod.sh'
SETTINGS = {
    'NAME': 'run', 'PROJECT': 'p', 'ZONE': 'z', 'TOPOLOGY': 'v5p-512x2', 'RUNTIME': 'v2-alpha-tpuv5', 'CLUSTER': 'c',
    'IMAGE': 'i', 'NODES': '4', 'PASS': 'HF_TOKEN OTHER', 'HF_TOKEN': 'do-not-show', 'OTHER': 'neither',
}  # fmt: skip
STAGE = ['--exp=midtrain_128k:size=40b_loop', '--workdir=gs://b/run']
ACTIONS = [[name] for name in ('tpu-create', 'tpu-install', 'tpu-stop', 'tpu-delete')]
ACTIONS += [[name, *STAGE] for name in ('tpu-run', 'xpk', 'slurm')]


def pod(*args, path='', **settings):
  """Runs it with `path` before PATH; a setting of None is not set."""
  environment = {key: value for key, value in (os.environ | SETTINGS | settings).items() if value is not None}
  environment['PATH'] = f'{path}:{os.environ["PATH"]}'
  where = dict(env=environment, cwd=POD.parents[1], timeout=60)
  return subprocess.run(['bash', POD, *args], capture_output=True, text=True, **where)


def program(folder, name, script):
  path = folder / name
  path.write_text(f'#!/bin/bash\n{script}\n')
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize('action', ACTIONS, ids=lambda action: action[0])
def test_a_dry_run_prints_its_commands_runs_none_and_shows_no_value(action, tmp_path):
  for name in ('gcloud', 'xpk', 'sbatch'):
    program(tmp_path, name, f'touch {tmp_path}/ran')
  done = pod('--dry-run', *action, path=tmp_path)
  assert done.returncode == 0 and not (tmp_path / 'ran').exists(), done.stderr
  assert done.stdout.splitlines()[0].split()[0] == {'xpk': 'xpk', 'slurm': 'sbatch'}.get(action[0], 'gcloud')
  assert 'do-not-show' not in done.stdout + done.stderr and 'neither' not in done.stdout + done.stderr


def test_slices_are_nodes_of_one_queued_resource():
  assert '--accelerator-type=v5p-512 ' in (several := pod('--dry-run', 'tpu-create').stdout)
  assert '--node-count=2 --node-prefix=run' in several and '--spot' not in several
  one = pod('--dry-run', 'tpu-create', TOPOLOGY='v6e-256', SPOT='1').stdout
  assert '--accelerator-type=v6e-256 ' in one and '--node-id=run --spot' in one
  asked = pod('--dry-run', 'tpu-stop').stdout
  assert 'ssh run-0 ' in asked and 'ssh run-1 ' in asked and '--worker=all' in asked
  assert '--tpu-type=v5p-512 --num-slices=2' in pod('--dry-run', 'xpk', *STAGE).stdout


@pytest.mark.parametrize(
    ('args', 'settings', 'says'),
    [
        ([], {}, 'name what to do: tpu-create'),
        (['start'], {}, 'name what to do: tpu-create'),
        (['tpu-create', 'now'], {}, 'unexpected argument "now" after "tpu-create"'),
        (['xpk', '--exp=anneal'], {}, 'xpk needs --exp=STAGE:size=SIZE and --workdir=DIR'),
        (['tpu-create'], {'RUNTIME': None}, 'RUNTIME is not set; export it'),
        (['tpu-create'], {'TOPOLOGY': 'v5p:8x8x4'}, 'must be a slice, such as v5p-512 or v5p-512x2, got "v5p:8x8x4"'),
        (['slurm', *STAGE], {'NODES': None}, 'NODES is not set'),
    ],
)
def test_bad_input_is_one_line(args, settings, says):
  done = pod('--dry-run', *args, **settings)
  assert done.returncode == 2 and says in done.stderr and done.stderr.count('\n') == 1, done.stderr


# A host's python, which ends with the statuses of a file, one per call, and counts its calls.
PYTHON = '''
echo "$@" >> {0}/calls
status=$(head -1 {0}/statuses); sed -i 1d {0}/statuses
exit "$status"'''


def on_a_host(folder, action, statuses, before=''):
  """Runs an action of one slice with this machine as its only host; returns (calls of launch.tpu, log)."""
  home = folder / 'home'
  (home / 'iquest/.venv/bin').mkdir(parents=True)
  (home / 'iquest/.venv/bin/activate').touch()
  (folder / 'statuses').write_text('\n'.join(map(str, statuses)) + '\n')
  program(folder, 'python', before + PYTHON.format(folder))
  # The remote shell gets the command as ssh passes it on.
  program(folder, 'gcloud', f'for a in "$@"; do [[ $a == --command=* ]] && HOME={home} bash -c "${{a#--command=}}"; done')
  program(folder, 'srun', 'shift; exec "$@"')
  program(folder, 'scontrol', f'echo "$@" >> {folder}/requeued')
  program(folder, 'sbatch', f'SLURM_JOB_ID=7 bash > {home}/iquest.log')
  done = pod(action, *STAGE, path=folder, TOPOLOGY='v5p-512')
  return done, home / 'iquest.log'


def calls(folder):
  return (folder / 'calls').read_text().splitlines() if (folder / 'calls').exists() else []


@pytest.mark.parametrize(('statuses', 'times'), [([75, 77, 0, 0], 3), ([76, 0], 1), ([2, 0], 1), ([139, 0], 1)])
def test_a_host_runs_again_after_a_preemption_and_a_stall_and_after_nothing_else(statuses, times, tmp_path):
  done, log = on_a_host(tmp_path, 'tpu-run', statuses)
  assert done.returncode == 0, done.stderr
  deadline = time.monotonic() + 30
  while f'exit status {statuses[times - 1]}' not in (log.read_text() if log.exists() else ''):
    assert time.monotonic() < deadline
    time.sleep(0.02)
  time.sleep(0.2)
  assert calls(tmp_path) == [f'-m launch.tpu --resume=newest_whole {" ".join(STAGE)}'] * times


def test_the_connection_ends_while_the_run_goes_on(tmp_path):
  """ssh waits for whatever still has its streams."""
  program(tmp_path, 'wait_for_end', f'for ((i = 0; i < 200; i++)); do [[ -e {tmp_path}/end ]] && exit; sleep 0.1; done')
  done, log = on_a_host(tmp_path, 'tpu-run', [0], before='wait_for_end')
  assert done.returncode == 0 and 'exit status' not in (log.read_text() if log.exists() else '')
  (tmp_path / 'end').touch()
  deadline = time.monotonic() + 30
  while not (log.exists() and 'exit status 0' in log.read_text()):
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.mark.parametrize(('status', 'requeued'), [(75, True), (77, True), (76, False), (1, False), (0, False)])
def test_slurm_requeues_after_a_preemption_and_a_stall_and_after_nothing_else(status, requeued, tmp_path):
  done, log = on_a_host(tmp_path, 'slurm', [status])
  assert done.returncode == status and f'exit status {status}' in log.read_text()
  assert (tmp_path / 'requeued').exists() == requeued


def test_what_is_handed_on_is_handed_on_by_name(tmp_path):
  """xpk and sbatch take the values from the environment, so they are in no command line that others may list."""
  copied = f'[[ $a == --env-file=* ]] && cp "${{a#--env-file=}}" {tmp_path}/names'
  program(tmp_path, 'xpk', f'for a in "$@"; do {copied}; done; exit 0')
  assert pod('xpk', *STAGE, path=tmp_path).returncode == 0
  assert (tmp_path / 'names').read_text().split() == ['HF_TOKEN', 'OTHER']
  assert '--export=PATH\\,HOME\\,VIRTUAL_ENV\\,HF_TOKEN\\,OTHER' in pod('--dry-run', 'slurm', *STAGE).stdout


def test_shellcheck_finds_nothing():
  shellcheck = pathlib.Path(sys.executable).parent / 'shellcheck'
  done = subprocess.run([shellcheck, POD], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
