"""Reinforcement learning on a bucket: what it stores is found again, and killed it ends bit-equal."""

import shutil
import signal

from tests.emulator import download, upload
from tests.rl.small_stage import STAGE, lines, records, train
from tests.run import helpers as run_helpers
from tests.run.helpers import killed_at

RUN = 'gs://bucket/run'


def test_killed_in_a_roll_out_it_resumes_bit_equal_and_samples_no_group_again(straight, emulator, commands, tmp_path):
  workdir = shutil.copytree(straight, tmp_path / 'begun', ignore=shutil.ignore_patterns(STAGE))
  upload(workdir, RUN)
  place, groups = 'iquest_jax.rl.store:Store.append', sum(map(len, lines(straight).values()))
  commands.run(killed_at(place, groups, train(RUN), delay=1.0), status=-signal.SIGKILL)
  kept = lines(download(RUN, tmp_path / 'killed'))
  assert sum(map(len, kept.values())) == groups - 1
  commands.run(train(RUN))
  ended = download(RUN, tmp_path / 'run')
  now = lines(ended)
  assert all(set(kept[name]) <= set(now[name]) for name in kept) and now == lines(straight)
  run_helpers.assert_same_state(ended / STAGE, straight / STAGE, 3)
  assert records(ended) == records(straight)
  measured = [(folder / STAGE / 'measured.jsonl').read_text() for folder in (ended, straight)]
  assert measured[0] == measured[1] and measured[0].count('\n') == 3
