"""One of two processes (argv: its index, a port, a folder) that save and restore checkpoints together."""

import pathlib
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from iquest_jax.checkpoint import fingerprint, seal
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder

process, port, run_dir = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
jax.distributed.initialize(f'localhost:{port}', 2, process)
sharding = NamedSharding(Mesh(np.array(jax.devices()), ('fsdp',)), P('fsdp'))
values = np.arange(16 * 24, dtype=np.float32).reshape(16, 24)
w = jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
checkpoints = Checkpoints(StageFolder(run_dir))
checkpoints.clear_leftovers()
hashing, hashed = seal.file_hashes, []
seal.file_hashes = lambda folder, names: hashed.extend(names) or hashing(folder, names)
for step in (1, 2, 3):
  checkpoints.save(step, {'w': w}, {'m': w}, {'size': 'tiny'})
checkpoints.wait()
seal.file_hashes = hashing
print('hashed', *hashed, flush=True)
abstract = {'w': jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=sharding)}
assert fingerprint.fingerprints(checkpoints.restore_params(abstract)) == fingerprint.fingerprints({'w': values})
damaged = checkpoints.folder / '2/params/manifest.ocdbt'
multihost_utils.sync_global_devices('verified')
if process == 0:
  content = damaged.read_bytes()
  damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
multihost_utils.sync_global_devices('damaged')
try:
  checkpoints.restore_params(abstract, 2)
except UserError as error:
  print(error, flush=True)
print('set aside:', checkpoints.set_aside(2).name, checkpoints.steps(), flush=True)
