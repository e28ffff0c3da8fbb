"""Serves sandbox requests as JSON lines, so that tests can have the sandbox started by a user without privileges.

  python sandbox_driver.py bubblewrap|landlock [ABI of Landlock, at most the kernel's]
"""

import dataclasses
import json
import os
import sys

from iquest_jax.sandbox import landlock, languages, verdict
from iquest_jax.sandbox.limits import Limits
from iquest_jax.sandbox.pool import Pool


def serve(pool: Pool, request: dict) -> object:
  limits = Limits(**request['limits'])
  if request['do'] == 'run':
    steps = languages.steps('python', ('',), limits, pool.backend)
    with pool.runner() as runner:
      return dataclasses.asdict(runner.run(steps, request['files'])[0])
  arguments = {**request['arguments'], 'limits': limits}
  if request['do'] == 'grade_calls':
    arguments['calls'] = [verdict.Call(name, tuple(args), expected) for name, args, expected in arguments['calls']]
  return dataclasses.asdict(getattr(verdict, request['do'])(pool, **arguments))


def main() -> None:
  if len(sys.argv) > 2:
    landlock.abi = lambda: int(sys.argv[2])
  with Pool(1, sys.argv[1]) as pool:
    print(json.dumps({'pid': os.getpid(), 'uid': os.getuid()}), flush=True)
    for line in sys.stdin:
      try:
        reply = {'reply': serve(pool, json.loads(line))}
      except Exception as error:
        reply = {'error': type(error).__name__, 'text': str(error)}
      print(json.dumps(reply), flush=True)


if __name__ == '__main__':
  main()
