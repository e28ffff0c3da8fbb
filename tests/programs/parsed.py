"""`parsed -m MODULE FLAGS`: parses the flags of a command without running it and prints the stage that --exp names."""

import importlib
import sys

from launch import command

if __name__ == '__main__':
  _, module, *flags = sys.argv[1:]
  importlib.import_module(module)
  sys.argv = [module, *flags]
  command.run(lambda argv: print(command.config().stage))
