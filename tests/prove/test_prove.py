"""The proofs that run outside of `make test` read their results right."""

import json

import pytest

from tests.prove import rl


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
