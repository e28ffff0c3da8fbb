"""The cost of the attention kernels on a TPU, without having one: instruction bundles per block pair, scheduled by libtpu.

  python -m iquest_jax.aot.bundles v5p:2x2x1 >> experiments/aot/bundles.jsonl

compiles gated attention, forward and backward, at full shape (8192 tokens, 40 query and 8 key/value heads of 128, bfloat16)
and prints one line of JSON: for each kernel, the bundles for a pair of 512 queries and 1024 keys, fully visible and masked,
and those around it (`count`); and the peak bytes of the program. A bundle takes at least one cycle, so the count is a lower
bound on time. Estimates read the file above. Needs libtpu.
"""

import glob
import importlib.metadata
import json
import os
import re
import sys
import tempfile

T, H, G, K = 8192, 40, 8, 128
# Exponentials of 512 x 1024 scores, 1024 per instruction: only the code for a block pair has that many.
PAIR_EXPONENTIALS = 512 * 1024 // 1024


def compile_gated_attention(topology: str):
  """Gated attention with its gradients, T queries on T keys, compiled for one chip of the slice."""
  import jax
  import jax.numpy as jnp
  from jax.experimental import topologies

  from iquest_jax.kernels.gated_attention import Ids, Keys, gated_attention, kernels_for

  chip = topologies.get_topology_desc(platform='tpu', topology_name=topology).devices[0]
  sharding = jax.sharding.SingleDeviceSharding(chip)
  array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct((1, *shape), dtype, sharding=sharding)
  ids_of = lambda length: Ids(array(length, dtype=jnp.int32), array(length, dtype=jnp.int32))
  q, k1, k2, logits = array(T, H, K), array(T, G, K), array(T, G, K), array(T, H, dtype=jnp.float32)

  def run(d_out, q_ids, k1_ids, *arrays):
    def call(q, k1, v1, k2, v2, logits):
      return gated_attention(q, q_ids, Keys(k1, v1, k1_ids), Keys(k2, v2, q_ids), logits, 64)

    out, pull = jax.vjp(call, *arrays)
    return out, pull(d_out)

  with kernels_for('tpu'):
    return jax.jit(run).lower(q, ids_of(T), ids_of(T), q, k1, k1, k2, k2, logits).compile()


def count(folder: str) -> dict[str, list[int] | dict[str, int]]:
  """Bundles by kernel, from libtpu's dump in `folder`.

  Returns:
    {'forward': [visible, masked]} for the basic blocks that handle a block pair, and {'forward_step': {'step', 'local'}}:
    the other bundles that every step of the grid runs, which index and start its copies, and those of the block that
    handles the local stream, once per 512 queries and head. 'backward' likewise.
  """
  counts = {}
  for path in sorted(glob.glob(os.path.join(folder, '*attention*final_bundles.txt'))):
    if 'schedule-analysis' in path:
      continue
    with open(path) as file:
      lines = [line for line in file if _BUNDLE.match(line)]
    kernel = 'backward' if 'backward' in os.path.basename(path) else 'forward'
    blocks = _blocks(lines)
    pairs = [block for block in blocks if _exponentials(lines, block) >= PAIR_EXPONENTIALS]
    local = [len(block) for block in blocks if 0 < _exponentials(lines, block) < PAIR_EXPONENTIALS]
    counts[kernel] = [len(block) for block in pairs]
    counts[f'{kernel}_step'] = {'step': _step(lines, pairs), 'local': sum(local)}
  return counts


_BUNDLE = re.compile(r'\s*0x[0-9a-f]+\s')
# Branches and their targets separate basic blocks.
_EDGE = re.compile(r'\bsbr\.|^\s*0x[0-9a-f]+\s+(LB|LH|LE|PB|PF)\b')


def _blocks(lines: list[str]) -> list[range]:
  edges = [0, *(i for i, line in enumerate(lines) if _EDGE.search(line)), len(lines)]
  return [range(start, stop) for start, stop in zip(edges, edges[1:])]


def _exponentials(lines: list[str], block: range) -> int:
  # vpow2; vexp2 since libtpu 0.0.50.
  return sum(len(re.findall(r'\bv(?:pow|exp)2\b', lines[i])) for i in block)


def _step(lines: list[str], pairs: list[range]) -> int:
  """Bundles of the loop over the grid outside the pairs that no branch skips, other than branches around all pairs."""
  # The target of a branch is the end of what it skips, marked as an empty region of the same number.
  ends = {name: i for i, line in enumerate(lines) for name in re.findall(r'empty region (\d+)', line)}
  starts = {name: i for i, line in enumerate(lines) for name in re.findall(r'Start region (\d+)', line)}
  branches = [(i, target) for i, line in enumerate(lines) for target in re.findall(r'sbr\.rel.*region(\d+)', line)]
  skipped, loop = set(), range(0)
  for at, target in branches:
    if target in ends:
      inside = range(at + 1, ends[target])
      if not all(pair.start in inside for pair in pairs):
        skipped |= set(inside)
    elif starts.get(target, at) < pairs[0].start < at:
      loop = range(starts[target], at + 1)
  return len(set(loop) - skipped - {i for pair in pairs for i in pair})


def load(path: str | os.PathLike) -> dict[str, dict]:
  """The latest line of each generation of chips in a file of such lines."""
  with open(path) as file:
    return {record['topology'].partition(':')[0]: record for record in map(json.loads, file)}


def main(topology: str) -> None:
  with tempfile.TemporaryDirectory() as folder:
    # libtpu reads its flags when it is loaded. Several processes may compile at the same time.
    os.environ['LIBTPU_INIT_ARGS'] = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
    os.environ.update(JAX_PLATFORMS='cpu', ALLOW_MULTIPLE_LIBTPU_LOAD='1', TPU_SKIP_MDS_QUERY='1')
    compiled = compile_gated_attention(topology)
    peak = compiled.memory_analysis().peak_memory_in_bytes
    libtpu = importlib.metadata.version('libtpu')
    print(json.dumps({'topology': topology, 'libtpu': libtpu, **count(folder), 'peak_bytes': peak}))


if __name__ == '__main__':
  main(*sys.argv[1:])
