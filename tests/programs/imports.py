"""`imports -m MODULE FLAGS`: prints, as JSON on the last line, the modules that a successful command has imported."""

import json
import sys

from tests.programs import wrap

if __name__ == '__main__':
  try:
    wrap.run(sys.argv[1:])
  except SystemExit as ended:
    assert not ended.code
  print(json.dumps(sorted(sys.modules)))
