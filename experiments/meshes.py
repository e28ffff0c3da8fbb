"""(size, context, topology) -> mesh shape and how it is used. Rows are over data x fsdp, positions over context.

Cloud names: v5p-256 is 128 chips (4x4x8), v5p-512 is 256 chips (8x8x4), v6e-256 is 256 chips (16x16). The shapes are
arithmetic on memory per chip; one row per device and micro-batch is what long contexts leave room for.
"""

from iquest_jax.errors import UserError, nearest

CHIPS = {'v5p-256': 128, 'v5p-512': 256, 'v6e-256': 256}


def _context_ways(context: int, topology: str) -> int:
  if context <= 8192:
    return 1
  if context <= 32768:
    return 16 if topology == 'v6e-256' else 4
  return 16


def _tensor_ways(size: str, context: int, topology: str) -> int:
  # 32 GiB chips: 40b needs its heads split as well, except where the context axis already shards the parameters.
  if topology == 'v6e-256' and size in ('40b', '40b_loop'):
    return 1 if 8192 < context <= 32768 else 4
  return 1


def _data_ways(context_ways: int, topology: str) -> int:
  # libtpu lowers a gather over all three axes of a v5p torus to an all-reduce of whole weights (experiments/LOG.md). With
  # replicas the fsdp axis lies on two torus axes (8x8, 4x8), and 40b's state of 16 bytes a parameter still takes only 10
  # and 20 GB a chip. A context axis parts the torus by itself.
  return 4 if context_ways == 1 and topology.startswith('v5p') else 1


def place(config, size: str, topology: str) -> None:
  """Sets config.mesh and train's accumulation, remat, context_transport; tiny sizes take whatever devices there are."""
  # A ring hides the travel of keys and values behind attention, which at 128k is long enough; at 32k one launch over
  # gathered keys is the shorter way, and they are small.
  config.train.context_transport = 'all_gather' if config.data.context <= 32768 else 'ring'
  if size.startswith('tiny'):
    config.mesh = {'data': 1, 'fsdp': -1, 'context': 1, 'tensor': 1}
    config.train.accumulation, config.train.remat = 1, 'none'
    return
  if topology not in CHIPS:
    raise UserError(f'topology "{topology}" does not exist{nearest(topology, CHIPS)}')
  context = _context_ways(config.data.context, topology)
  tensor = _tensor_ways(size, config.data.context, topology)
  data = _data_ways(context, topology)
  fsdp = CHIPS[topology] // (data * context * tensor)
  config.mesh = {'data': data, 'fsdp': fsdp, 'context': context, 'tensor': tensor}
  config.train.accumulation = max(1, config.train.batch_rows // (data * fsdp))
  config.train.remat = 'attention'
