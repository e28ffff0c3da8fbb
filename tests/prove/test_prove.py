"""The proofs that run outside of `make test` read their results right."""

import json

import pytest

from tests.prove import drill, rl

# A chain of one stage with a record every few milliseconds, which obeys SIGTERM in all of its processes. FORGETS is whether
# it repeats a record when it is started again.
STUB = """
import os, pathlib, signal, sys, time
stage, forgets = pathlib.Path(sys.argv[1]) / 'pretrain', sys.argv[2] == 'True'
asked = stage / os.environ.get('JAX_COORDINATOR_ADDRESS', str(os.getpid()))
stage.mkdir(exist_ok=True)
signal.signal(signal.SIGTERM, lambda *_: asked.touch())
path = stage / 'metrics.jsonl'
done = lambda: len(path.read_text().splitlines()) if path.exists() else 0
first, address = os.environ.get('JAX_PROCESS_ID', '0') == '0', os.environ.get('JAX_COORDINATOR_ADDRESS')
if address:
  (stage / f'{address}.{first}').touch()
  while not (stage / f'{address}.{not first}').exists():
    time.sleep(0.005)
began = max(done() - forgets, 0)
for step in range(began, 20):
  while not first and done() <= step and not asked.exists():
    time.sleep(0.005)
  if asked.exists():
    sys.exit(75)
  if first:
    with open(path, 'a') as file:
      file.write(f'{step}\\n')
    time.sleep(0.02)
"""


def write_stage(workdir, before, after):
  """What rl_thinking leaves behind, as far as the proof reads it."""
  evaluated = [
      {'kind': 'eval', 'step': step, 'pass_rate': rate, 'solved': rate / 2}
      for step, rate in ((0, before), (10, 0.9), (20, after))
  ]
  train = [{'kind': 'train', 'step': step, 'step_seconds': 3.0} for step in range(1, 21)]
  (workdir / 'rl_thinking').mkdir(parents=True, exist_ok=True)
  lines = ''.join(json.dumps(record) + '\n' for record in [evaluated[0], *train, *evaluated[1:]])
  (workdir / 'rl_thinking' / 'metrics.jsonl').write_text(lines)


@pytest.mark.parametrize('last, status', [(0.5, 0), (0.25, 1)])
def test_the_proof_of_rl_fails_unless_every_pass_rate_rises(tmp_path, monkeypatch, capsys, last, status):
  commands = []

  def run(module, *flags):
    commands.append((module, flags[0]))
    given = dict(flag.removeprefix('--').split('=', 1) for flag in flags)
    if given.get('exp', '').startswith('rl_thinking'):
      size, seed = given['exp'].partition('=')[2], int(given['exp.seed'])
      write_stage(rl.pathlib.Path(given['workdir']), 0.25, last if (size, seed) == ('tiny_loop', 3) else 0.3 + seed / 20)

  monkeypatch.setattr(rl, '_run', run)
  assert rl.main(tmp_path) == status
  assert [flag for module, flag in commands if module == 'launch.tpu' and 'sft' in flag] == [
      '--exp=sft_thinking:size=tiny', '--exp=sft_thinking:size=tiny_loop'
  ]
  assert ('launch.tpu', '--exp=loop_adapt:size=tiny_loop') in commands
  assert not any('instruct' in flag for _, flag in commands)
  *_, rows, counts = capsys.readouterr().out.split('\n\n')
  assert '| tiny | 2 | 25.0 | 40.0 | +15.0 | 12.5 -> 20.0 | 20 | 1.0 |' in rows
  assert counts.strip() == f'{6 - status} of 6 rose, {4 - status} of them by at least 15 points.'


@pytest.mark.parametrize('forgets', [False, True])
def test_the_drill_kills_chains_and_sees_one_that_ends_otherwise(tmp_path, monkeypatch, capsys, forgets):
  monkeypatch.setattr(drill, 'CHAINS', 4)
  monkeypatch.setattr(drill, 'KILLS', 2)
  monkeypatch.setattr(drill, 'START_S', 0.1)
  monkeypatch.setattr(drill.chains, 'write', lambda folder: (folder.mkdir(parents=True), folder)[1])
  monkeypatch.setattr(drill.chains, 'chain', lambda name, folder, size, steps: ['-c', STUB, str(folder), str(forgets)])

  def assert_same_chain(folder, other, steps):
    left, right = ((path / 'pretrain/metrics.jsonl').read_text() for path in (folder, other))
    assert left == right

  monkeypatch.setattr(drill.chains, 'assert_same_chain', assert_same_chain)
  assert drill.main(tmp_path) == forgets
  *_, rows, counts = capsys.readouterr().out.split('\n\n')
  assert counts.strip() == f'{0 if forgets else 4} of 4 chains ended bit-equal after 8 kills.'
  assert ('differs: ' in rows) == forgets and [row.split('|')[2:4] for row in rows.splitlines()[2:]] == [
      [' tiny ', ' 1 '], [' tiny_loop ', ' 1 '], [' tiny ', ' 2 '], [' tiny_loop ', ' 2 ']
  ]  # fmt: skip
  assert (tmp_path / '0').exists() == forgets  # what went wrong remains to be looked at
  monkeypatch.setattr(drill, '_drilled', None)  # a finished chain is not run again
  assert drill.main(tmp_path) == forgets
