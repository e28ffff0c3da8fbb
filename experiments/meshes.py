"""(size, context, topology) -> mesh shape and how it is used. Rows are split over data x fsdp, positions over context.

Cloud names: v5p-256 is 128 chips (4x4x8), v5p-512 is 256 chips (8x8x4), v6e-256 is 256 chips (16x16); v5p-512x2 is two
slices of v5p-512, which repeat the mesh of one along the data axis. All shapes follow one rule: a chip holds at most 8192
tokens of a micro-batch (one row, or its part of a longer one), and parameters are split over all chips of a replica. Every
chip is used, or the plan is refused. Peak memory and estimated speed: experiments/aot/table.md.
"""

from iquest_jax.errors import UserError, check_name

CHIPS = {'v5p-256': 128, 'v5p-512': 256, 'v6e-256': 256}

# Large enough for gathering weights to pay off: with 2048 a v6e waits for links. With 8192, 40b_loop fills its memory.
TOKENS_PER_CHIP = 8192


def slices(topology: str) -> int:
  """How many slices a name stands for: 2 for v5p-512x2, else 1."""
  count = topology.partition('x')[2]
  return int(count) if count.isdecimal() and int(count) else 1


def place(config, size: str, topology: str) -> None:
  """Sets config.mesh and, in config.train, accumulation, remat and context_transport; tiny sizes use all devices."""
  # A ring hides the transfer of keys but merges a float32 output at every hop, which costs more cycles at these lengths
  # (experiments/LOG.md). Beyond 16 chips per row, gathered keys get large.
  config.train.context_transport = 'all_gather'
  if size.startswith('tiny'):
    config.mesh = {'data': 1, 'fsdp': -1, 'context': 1, 'tensor': 1}
    config.train.accumulation, config.train.remat = 1, 'none'
    return
  one = topology.removesuffix(f'x{slices(topology)}')
  check_name('topology', one, CHIPS)
  chips = CHIPS[one]
  # A power of two divides the chips: 96k takes 16 chips of 6144 tokens, since 12 would leave some of the slice unused.
  context = 1 << (-(-config.data.context // TOKENS_PER_CHIP) - 1).bit_length()
  if context > chips:
    raise UserError(
        f'config: data.context must be at most {chips * TOKENS_PER_CHIP} on {topology}, {TOKENS_PER_CHIP} tokens on each '
        f'of its {chips} chips, got {config.data.context}; choose a larger slice'
    )
  # libtpu lowers a gather over all three axes of a v5p torus to an all-reduce of whole weights (experiments/LOG.md). With
  # replicas, fsdp covers two torus axes (8x8, 4x8), and the state of 40b, 16 bytes per parameter, still takes only 10 and
  # 20 GB per chip. A context axis divides the torus anyway.
  data = 4 if context == 1 and topology.startswith('v5p') else 1
  fsdp = chips // (data * context)
  data *= slices(topology)
  if config.train.batch_rows % (data * fsdp):
    raise UserError(
        f'config: train.batch_rows must be a multiple of data x fsdp = {data} x {fsdp}, so that no chip of {topology} '
        f'idles, got {config.train.batch_rows}; change it, or the context'
    )
  config.mesh = {'data': data, 'fsdp': fsdp, 'context': context, 'tensor': 1}
  config.train.accumulation = config.train.batch_rows // (data * fsdp)
  # Layer inputs and attention outputs of 80 layers and two passes take 25 of the 31 GiB of a v6e: offload the inputs.
  config.train.remat = 'offload' if one == 'v6e-256' and size == '40b_loop' else 'attention'
