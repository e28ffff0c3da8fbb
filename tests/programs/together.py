"""`together WHAT WORKDIR`: a process of a run of two, which does nothing but what tests/run/test_together.py asks for."""

import os
import signal
import sys
import threading
import time

import jax

from iquest_jax import ending, hosts
from iquest_jax.checkpoint import start
from iquest_jax.checkpoint.store import Checkpoints, Damaged
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder
from launch import command, devices

from tests.programs.small_chain import MODEL


def main(argv):
  _, what, workdir = argv
  ending.GRACE_S = 1.0
  devices.JOIN_LIMIT_S = 60.0
  devices.join_hosts()
  {name.removeprefix('_'): value for name, value in globals().items()}[what](RunFolder(workdir))


def _talk():
  """Every way to tell something, in turn, with pauses on one side or the other."""
  first = jax.process_index() == 0
  for size in (0, 1, 1 << 20):
    time.sleep(0.3 * first)
    assert hosts.from_first('talk', 'x' * size if first else None) == 'x' * size
    time.sleep(0.3 * (not first))
    assert hosts.gather('talk', ['x' * size, jax.process_index()]) == [['x' * size, 0], ['x' * size, 1]]
  order = []
  with hosts.after_first('talk') as is_first:
    time.sleep(0.5 * first)
    order.append(time.time())
  assert is_first == first
  ended = hosts.gather('talk', order[0])
  assert ended[0] <= ended[1]
  hosts.barrier('talk')
  hosts.agree('talk', 'same')
  print('talked')


def _first_fails(_):
  """While the other waits for it."""
  with hosts.after_first('fails') as first:
    if first:
      raise UserError('rows: none; make some')


def _other_crashes(_):
  if jax.process_index() == 1:
    raise ValueError('no such thing')
  time.sleep(1000)


def _disagree(_):
  hosts.agree('rows', ['a', 'b'][jax.process_index()])


def _elsewhere(_):
  """The other has taken another way."""
  hosts.gather(['here', 'there'][jax.process_index()], {'any': 'thing'})


def _refused(_):
  """One process alone refuses; both hear of it, and are in step afterwards."""

  def act():
    if jax.process_index() == 1:
      raise UserError('no sandbox on this host')

  try:
    hosts.refuse_together('act', act)
  except UserError as error:
    print(hosts.gather('what', str(error)))


def _interrupted(_):
  if jax.process_index() == 1:
    os.kill(os.getpid(), signal.SIGINT)
  time.sleep(1000)


def _stalls(_):
  """While a main thread waits, a thread ends the run."""
  if jax.process_index() == 1:
    threading.Thread(target=ending.leave, args=(77, 'no step')).start()
  time.sleep(1000)


def _damaged(run_folder):
  """The first process alone looks; both hear of the damage, and are in step afterwards."""

  def find():
    assert jax.process_index() == 0
    raise Damaged(Checkpoints(run_folder.stage('anneal')), 12, 'is damaged')

  try:
    start.found_by_first('damage', run_folder, find)
  except Damaged as damaged:
    assert hosts.gather('what', str(damaged))[0] == str(damaged)
    print(damaged.checkpoints.stage.name, damaged.step, damaged.what)


def _late(_):
  if jax.process_index() == 0:
    hosts.barrier('late', limit_s=1.5)
  time.sleep(1000)


def _asked(_):
  """The other is asked to end, while the first waits for something that never comes."""
  if jax.process_index() == 1:
    os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(1000)


def _stale(run_folder):
  """The other process sees an older list of checkpoints: it must start from what the first one chose."""
  _choose(run_folder, lambda steps: steps[:-1])


def _ahead(run_folder):
  """The other process sees a checkpoint that the first one does not."""
  _choose(run_folder, lambda steps: [*steps, 99])


def _different(run_folder):
  """The other process sees the same step with other files."""
  hosts.VISIBLE_S = 2.0
  if jax.process_index():
    Checkpoints.seal_hash = lambda self, step: 'other'
  _choose(run_folder, lambda steps: steps)


def _choose(run_folder, seen):
  _talk()
  config = command.experiment('anneal:size=tiny')
  config.model.update(MODEL)
  if jax.process_index():
    steps = Checkpoints.steps
    Checkpoints.steps = lambda self: seen(steps(self))
  checkpoints = Checkpoints(run_folder.stage('anneal'))
  chosen = start.choose(config, run_folder, checkpoints)
  assert start.newest(checkpoints) == chosen.step
  print(chosen.kind, chosen.step, chosen.lineage['end_fingerprint'])


if __name__ == '__main__':
  assert sys.argv[1:]
  command.run(main, operands=True)
