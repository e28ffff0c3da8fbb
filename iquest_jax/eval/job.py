"""Runs what a family brings itself in the sandbox: its own steps, where no verdict of the sandbox fits."""

from collections.abc import Mapping, Sequence

from iquest_jax.eval.suite import Outcome
from iquest_jax.sandbox.pool import Pool
from iquest_jax.sandbox.runner import Done, SandboxDied, Step
from iquest_jax.sandbox.verdict import CRASHED, MEMORY, TIMEOUT

_OF_LIMIT = {'wall': TIMEOUT, 'cpu': TIMEOUT, 'memory': MEMORY}


def run(
    pool: Pool, steps: Sequence[Step], files: Mapping[str, str], fds: Sequence[int] = ()
) -> tuple[list[Done], Outcome | None]:
  """The records of the steps that ran, and the outcome if the sandbox ended or the last of them exceeded a limit.

  Args:
    files: contents by path in the job's folder.
    fds: file descriptors that the steps get as 3, 4, ...
  """
  try:
    with pool.runner() as runner:
      runner.start(steps, files, fds)
      done = runner.finish()
  except SandboxDied as error:
    return [], Outcome(CRASHED, f'the sandbox ended: {error}')
  last = done[-1]
  if last.limit:
    return done, Outcome(_OF_LIMIT.get(last.limit, CRASHED), f'more than the limit {last.limit} allows', last.seconds)
  return done, None
