"""Runs a command, `-m MODULE FLAGS`, and writes the names of the top modules it has imported to the file argv[1]."""

import atexit
import pathlib
import runpy
import sys

if __name__ == '__main__':
  _, file, _, module, *flags = sys.argv
  atexit.register(lambda: pathlib.Path(file).write_text('\n'.join({name.partition('.')[0] for name in sys.modules})))
  sys.argv = [module, *flags]
  runpy.run_module(module, run_name='__main__', alter_sys=True)
