"""`killed SIGNAL PLACE COUNT DELAY -m MODULE FLAGS`: sends itself a signal, DELAY seconds after call COUNT of PLACE."""

import itertools
import os
import sys
import time

from tests.programs import wrap

if __name__ == '__main__':
  number, place, count, delay, *command = sys.argv[1:]

  def deadly(inner):
    calls = itertools.count(1)

    def wrapped(*args, **kwargs):
      if next(calls) == int(count):
        time.sleep(float(delay))
        os.kill(os.getpid(), int(number))
      return inner(*args, **kwargs)

    return wrapped

  wrap.replace(place, deadly)
  wrap.run(command)
