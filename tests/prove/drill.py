"""The drill: small chains through to reinforcement learning, each killed ten times at random moments, end bit-equal.

  python -m tests.prove.drill runs/drill        (make drill)

Twenty chains, dense and looped, half of them on two processes. A kill is SIGKILL of one process, and of the others within a
second, or SIGTERM of one process, upon which all must save and exit with status 75. Every end is compared with that of a
chain that nothing interrupted: parameters, optimizer, fingerprints, roll-outs, and metrics without times. Prints the table,
and exits with 1 unless all are equal. Started again, it resumes with the first chain that is not finished.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback

from iquest_jax.errors import Preempted

from tests.processes import ROOT, Commands
from tests.programs.small_chain import STAGES
from tests.run import chains

CHAINS, KILLS, STEPS = 20, 10, 40
SIZES, PROCESSES = ('tiny', 'tiny_loop'), (1, 2)
# Seconds until a chain has restored its state, those that others have to end once one was told to, and those after which a
# chain counts as hanging: two processes take three minutes undisturbed.
START_S, GRACE_S, LIMIT_S = 4.0, 60.0, 600.0


@dataclasses.dataclass(frozen=True)
class Result:
  """What a chain went through.

  Attributes:
    stages: how many kills struck while each stage was the newest.
    killed: kills by SIGKILL.
    saved: kills by SIGTERM upon which all processes saved and exited with status 75.
    ended: kills by SIGTERM before the processes trained, upon which some may not have been told.
    problem: what is wrong with its end, '' if nothing is.
  """

  size: str
  processes: int
  stages: dict[str, int]
  killed: int
  saved: int
  ended: int
  minutes: float
  problem: str


def main(folder: pathlib.Path) -> int:
  folder.mkdir(parents=True, exist_ok=True)
  results, commands = [], Commands(folder / 'compiled')
  for number in range(CHAINS):
    size, processes = SIZES[number % 2], PROCESSES[number // 2 % 2]
    path = folder / f'{number}.json'
    if not path.exists():
      straight = folder / f'straight_{size}_{processes}'
      if not straight.exists():
        _undisturbed(commands, straight, size, processes)
      result = _drilled(commands, folder / str(number), straight, size, processes, random.Random(number))
      path.write_text(json.dumps(dataclasses.asdict(result)))
    results.append(Result(**json.loads(path.read_text())))
    print(table(results), flush=True)
  return 1 if any(one.problem for one in results) else 0


def _undisturbed(commands: Commands, folder: pathlib.Path, size: str, processes: int) -> None:
  """A finished chain in `folder`, which is there once it is whole."""
  partial = folder.with_name(folder.name + '.partial')
  shutil.rmtree(partial, ignore_errors=True)
  running = _start(commands, chains.write(partial), size, processes)
  if set(statuses := _ended(running)) != {0}:
    sys.exit(f'{partial}: an undisturbed chain ended with {statuses}; see {_log(partial)}')
  partial.rename(folder)


def _drilled(
    commands: Commands, folder: pathlib.Path, straight: pathlib.Path, size: str, processes: int, draw: random.Random
) -> Result:
  """Runs a chain in `folder`, kills it, lets it finish, and compares it; the folder remains if something is wrong."""
  shutil.rmtree(folder, ignore_errors=True)
  began, counts, struck, problem = time.monotonic(), collections.Counter(), collections.Counter(), ''
  chains.write(folder)
  # A kill waits for a number of records and for an age, but not until the chain ends.
  whole = _records(straight)
  for least in sorted(draw.uniform(0, whole - 2) for _ in range(KILLS)):
    running = _start(commands, folder, size, processes)
    age, term, now = draw.uniform(0, START_S), draw.random() < 0.5, time.time()
    moment = time.monotonic() + age
    while _records(folder) < whole - 2 and (_records(folder) < least or time.monotonic() < moment):
      if any(process.poll() is not None for process in running) or time.monotonic() > moment + LIMIT_S:
        problem = problem or f'ended before it was killed, or hangs: statuses {[process.poll() for process in running]}'
        break
      time.sleep(0.01)
    stage = next((stage for stage in reversed(STAGES) if (folder / stage).exists()), 'start')
    trains = stage != 'start' and any(path.stat().st_mtime > now for path in folder.glob('*/metrics.jsonl'))
    draw.choice(running).send_signal(signal.SIGTERM if term else signal.SIGKILL)
    statuses = _ended(running, GRACE_S if term else draw.uniform(0, 1))
    kind = 'killed' if not term else 'saved' if set(statuses) == {Preempted.status} else 'ended'
    if kind == 'ended' and trains:
      problem = problem or f'SIGTERM in {stage} led to statuses {statuses}'
    struck[stage] += 1
    counts[kind] += 1
  if set(statuses := _ended(_start(commands, folder, size, processes))) != {0}:
    problem = problem or f'ended with statuses {statuses}'
  else:
    try:
      chains.assert_same_chain(folder, straight, STEPS)
    except AssertionError as error:
      asserted = traceback.extract_tb(error.__traceback__)[-1].line  # without pytest an assertion says nothing
      problem = problem or f'differs: {asserted} {" ".join(str(error).split())[:200]}'
  if not problem:
    shutil.rmtree(folder)
  minutes = (time.monotonic() - began) / 60
  return Result(size, processes, dict(struck), counts['killed'], counts['saved'], counts['ended'], minutes, problem)


def _start(commands: Commands, workdir: pathlib.Path, size: str, processes: int) -> list[subprocess.Popen]:
  """The processes of a chain; their output is appended to its log."""
  several = [{}]
  if processes > 1:
    with socket.socket() as listener:
      listener.bind(('localhost', 0))
      port = listener.getsockname()[1]
    several = [
        {
            'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
            'JAX_NUM_PROCESSES': str(processes),
            'JAX_PROCESS_ID': str(process),
        }
        for process in range(processes)
    ]
  arguments = chains.chain('run', workdir, size, STEPS)
  with open(_log(workdir), 'a') as log:
    return [
        subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=commands.environment(1, **more), stdout=log, stderr=log
        )
        for more in several
    ]


def _ended(running: list[subprocess.Popen], grace: float = GRACE_S) -> list[int]:
  """Statuses of all processes. Once one has ended, the others are killed after `grace` seconds, as by a scheduler."""
  deadline = time.monotonic() + LIMIT_S
  while any(process.poll() is None for process in running):
    if any(process.poll() is not None for process in running):
      deadline = min(deadline, time.monotonic() + grace)
    for process in running:
      if time.monotonic() > deadline:
        process.kill()
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.05)
  return [process.wait() for process in running]


def _records(workdir: pathlib.Path) -> int:
  """How far a chain is: lines of its metrics and of its roll-outs."""
  count = 0
  for path in (*workdir.glob('*/metrics.jsonl'), *workdir.glob('*/rollouts/*.jsonl')):
    with contextlib.suppress(FileNotFoundError):
      count += path.read_bytes().count(b'\n')
  return count


def _log(workdir: pathlib.Path) -> pathlib.Path:
  return workdir.with_name(workdir.name + '.log')


def table(results: list[Result]) -> str:
  """The results in Markdown, with a last line that counts them."""
  lines = [
      '',
      '| chain | size | processes | SIGKILL | SIGTERM, saved | SIGTERM before training | kills by stage | minutes | end |',
      '|--:|---|--:|--:|--:|--:|---|--:|---|',
  ]
  for number, one in enumerate(results, 1):
    stages = ', '.join(f'{stage} {count}' for stage, count in one.stages.items())
    lines.append(
        f'| {number} | {one.size} | {one.processes} | {one.killed} | {one.saved} | {one.ended} | {stages} | '
        f'{one.minutes:.1f} | {one.problem or "bit-equal"} |'
    )
  kills = sum(one.killed + one.saved + one.ended for one in results)
  equal = sum(not one.problem for one in results)
  lines += ['', f'{equal} of {len(results)} chains ended bit-equal after {kills} kills.']
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main(pathlib.Path(sys.argv[1]).absolute()))
