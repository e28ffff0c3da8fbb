"""What the attention kernels cost on a TPU, without one: instruction bundles per pair of blocks, as libtpu schedules them.

  python -m iquest_jax.aot.bundles v5p:2x2x1

compiles gated attention, forward and backward, at full shape (8192 tokens, 40 query and 8 key/value heads of 128, bfloat16)
and prints one line of JSON: bundles of each kernel's two ways of taking a pair of 512 queries and 1024 keys (all visible,
or masked), and bytes of the compiled program. A bundle takes at least one cycle, so this is a floor on time, good for
comparing two versions under one libtpu. Needs libtpu.
"""

import glob
import json
import os
import re
import sys
import tempfile

T, H, G, K = 8192, 40, 8, 128
# Exponentials of 512 x 1024 scores, at 1024 an instruction: what tells a pair of blocks from everything around it.
PAIR_EXPONENTIALS = 512 * 1024 // 1024


def compile_gated_attention(topology: str, keys: int = T):
  """Gated attention and its gradients for one chip of the slice, T queries on `keys` keys; compiled."""
  import jax
  import jax.numpy as jnp
  from jax.experimental import topologies

  from iquest_jax.kernels.gated_attention import Ids, Keys, gated_attention, kernels_for

  chip = topologies.get_topology_desc(platform='tpu', topology_name=topology).devices[0]
  sharding = jax.sharding.SingleDeviceSharding(chip)
  array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct((1, *shape), dtype, sharding=sharding)
  ids_of = lambda length: Ids(array(length, dtype=jnp.int32), array(length, dtype=jnp.int32))
  q, k1, k2, logits = array(T, H, K), array(keys, G, K), array(T, G, K), array(T, H, dtype=jnp.float32)

  def run(d_out, *args):
    *arrays, q_ids, k1_ids = args

    def call(q, k1, v1, k2, v2, logits):
      return gated_attention(q, q_ids, Keys(k1, v1, k1_ids), Keys(k2, v2, q_ids), logits, 64)

    out, pull = jax.vjp(call, *arrays)
    return out, pull(d_out)

  with kernels_for('tpu'):
    return jax.jit(run).lower(q, q, k1, k1, k2, k2, logits, ids_of(T), ids_of(keys)).compile()


def count(folder: str) -> dict[str, list[int]]:
  """Bundles of each straight piece of code that handles a pair of blocks, by kernel, from libtpu's dump in `folder`."""
  counts = {}
  for path in sorted(glob.glob(os.path.join(folder, '*attention*final_bundles.txt'))):
    if 'schedule-analysis' in path:
      continue
    with open(path) as file:
      lines = [line for line in file if re.match(r'\s*0x[0-9a-f]+\s', line)]
    # Branches, and the labels that they lead to, part one piece from the next.
    edge = re.compile(r'\bsbr\.|^\s*0x[0-9a-f]+\s+(LB|LH|LE|PB|PF)\b')
    edges = [0, *(i for i, line in enumerate(lines) if edge.search(line)), len(lines)]
    pieces = [lines[start:stop] for start, stop in zip(edges, edges[1:])]
    # vexp2 since libtpu 0.0.50.
    exponentials = lambda piece: sum(len(re.findall(r'\bv(?:pow|exp)2\b', line)) for line in piece)
    kernel = 'backward' if 'backward' in os.path.basename(path) else 'forward'
    counts[kernel] = [len(piece) for piece in pieces if exponentials(piece) >= PAIR_EXPONENTIALS]
  return counts


def main(topology: str) -> None:
  with tempfile.TemporaryDirectory() as folder:
    # libtpu reads its flags once, when it is loaded; two processes may compile at once.
    os.environ['LIBTPU_INIT_ARGS'] = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
    os.environ.update(JAX_PLATFORMS='cpu', ALLOW_MULTIPLE_LIBTPU_LOAD='1', TPU_SKIP_MDS_QUERY='1')
    compiled = compile_gated_attention(topology)
    peak = compiled.memory_analysis().peak_memory_in_bytes
    print(json.dumps({'topology': topology, **count(folder), 'peak_bytes': peak}))


if __name__ == '__main__':
  main(*sys.argv[1:])
