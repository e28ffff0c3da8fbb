"""`hanging PLACE COUNT SECONDS -m MODULE FLAGS`: sleeps for SECONDS, as if it hung, at call COUNT of PLACE."""

import itertools
import sys
import time

from tests.programs import wrap

if __name__ == '__main__':
  place, count, seconds, *command = sys.argv[1:]

  def hangs(inner):
    calls = itertools.count(1)

    def wrapped(*args, **kwargs):
      if next(calls) == int(count):
        time.sleep(float(seconds))
      return inner(*args, **kwargs)

    return wrapped

  wrap.replace(place, hangs)
  wrap.run(command)
