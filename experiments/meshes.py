"""(size, context, topology) -> mesh shape and how it is used. Rows are over data x fsdp, positions over context.

Cloud names: v5p-256 is 128 chips (4x4x8), v5p-512 is 256 chips (8x8x4), v6e-256 is 256 chips (16x16). One rule makes all
shapes: a chip holds 8192 tokens of a micro-batch, a whole row or its part of a longer one, and parameters are split over
everything that is not a replica. Peaks and estimates of each: experiments/aot/table.md.
"""

from iquest_jax.errors import UserError, nearest

CHIPS = {'v5p-256': 128, 'v5p-512': 256, 'v6e-256': 256}

# Enough for weights to be worth gathering: at 2048 a v6e waits for links, and 8192 of 40b_loop fill its memory.
TOKENS_PER_CHIP = 8192


def _data_ways(context_ways: int, topology: str) -> int:
  # libtpu lowers a gather over all three axes of a v5p torus to an all-reduce of whole weights (experiments/LOG.md). With
  # replicas the fsdp axis lies on two torus axes (8x8, 4x8), and 40b's state of 16 bytes a parameter still takes only 10
  # and 20 GB a chip. A context axis parts the torus by itself.
  return 4 if context_ways == 1 and topology.startswith('v5p') else 1


def _remat(size: str, topology: str) -> str:
  # Inputs and attention outputs of 80 layers in two passes are 25 GiB a chip, of a v6e's 31: the inputs wait on the host.
  return 'offload' if topology == 'v6e-256' and size == '40b_loop' else 'attention'


def place(config, size: str, topology: str) -> None:
  """Sets config.mesh and train's accumulation, remat, context_transport; tiny sizes take all devices there are."""
  # One launch over gathered keys: a ring hides their travel, but merges a float32 output at every hop, which at these
  # lengths the compiler's cycles show to be dearer (experiments/LOG.md). Beyond 16 chips a row, gathered keys get large.
  config.train.context_transport = 'all_gather'
  if size.startswith('tiny'):
    config.mesh = {'data': 1, 'fsdp': -1, 'context': 1, 'tensor': 1}
    config.train.accumulation, config.train.remat = 1, 'none'
    return
  if topology not in CHIPS:
    raise UserError(f'topology "{topology}" does not exist{nearest(topology, CHIPS)}')
  context = max(1, config.data.context // TOKENS_PER_CHIP)
  data = _data_ways(context, topology)
  fsdp = CHIPS[topology] // (data * context)
  config.mesh = {'data': data, 'fsdp': fsdp, 'context': context, 'tensor': 1}
  config.train.accumulation = max(1, config.train.batch_rows // (data * fsdp))
  config.train.remat = _remat(size, topology)
