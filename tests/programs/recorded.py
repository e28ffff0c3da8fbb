"""`recorded FILE -m MODULE FLAGS`: writes the hash of every row that the process reads, one line per step."""

import hashlib
import json
import sys

from tests.programs import wrap

if __name__ == '__main__':
  path, *command = sys.argv[1:]

  def recording(inner):
    def wrapped(self, start_step, end_step, rows):
      with open(path, 'a') as file:
        for step, batch in enumerate(inner(self, start_step, end_step, rows), start_step):
          text = [b''.join(batch[name][i].tobytes() for name in sorted(batch)) for i in range(len(rows))]
          hashes = {int(row): hashlib.sha256(part).hexdigest() for row, part in zip(rows, text)}
          file.write(json.dumps([step, hashes]) + '\n')
          file.flush()
          yield batch

    return wrapped

  wrap.replace('iquest_jax.data.loader:Loader.numpy_batches', recording)
  wrap.run(command)
