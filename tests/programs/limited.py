"""`limited BYTES -m MODULE FLAGS`: no file may grow beyond BYTES."""

import resource
import sys

from tests.programs import wrap

if __name__ == '__main__':
  limit, *command = sys.argv[1:]
  resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
  wrap.run(command)
