"""The decode kernel compiles at full shape for every TPU generation, copies no cache, and is bound by memory.

  python -m tests.kernels.test_decode_attention_compile v5p:2x2x1

compiles both kinds of decode attention inside a scan over layers (8 slots of 98304 places, 40 query and 8 key/value heads
of 128, bfloat16) and prints one line of JSON. It runs in a process of its own, because libtpu reads the flag that dumps its
schedule only when it is loaded.
"""

import glob
import json
import os
import re
import subprocess
import sys
import tempfile

import pytest

from iquest_jax import hardware

pytestmark = pytest.mark.tpu

L, B, H, G, K, S, W = 2, 8, 40, 8, 128, 98304, 64
# Cores that share the memory of a chip; each runs its own half of the kernel's grid.
CORES = {'v5p:2x2x1': 2, 'v6e:2x2': 1, 'v5e:2x2': 1}


@pytest.mark.parametrize(
    'topology', [name if name.startswith('v5p') else pytest.param(name, marks=pytest.mark.long) for name in CORES]
)
def test_a_block_has_fewer_bundles_than_its_delivery_takes_cycles(topology):
  done = subprocess.run([sys.executable, '-m', __spec__.name, topology], capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads(done.stdout)
  chip, rows = hardware.CHIPS[topology.partition(':')[0]], report['block']
  # Cycles of one core while memory delivers the keys and values of a block to each core.
  floor = CORES[topology] * 2 * rows * K * 2 / chip.hbm_bandwidth * chip.clock_hz
  for kernel in ('decode_attention', 'gated_decode_attention'):
    bundles, vmem = (report[kernel][name] for name in ('bundles', 'vmem'))
    assert 0.2 * floor < bundles < 0.8 * floor, (kernel, report, floor)
    # Two blocks of keys and two of values, and what is not much beside them.
    assert 4 * rows * K * 2 < vmem < 1.25 * 4 * rows * K * 2, (kernel, report)
  # A layer's slice of the cache would be a copy of 1.6 GB.
  assert report['temporary'] < 0.01 * report['cache'], report


def compile_for(topology: str) -> dict:
  import jax
  import jax.numpy as jnp
  from jax.experimental import topologies

  from iquest_jax.kernels.decode_attention import attention, gated_attention, tpu
  from iquest_jax.kernels.gated_attention import Ids, Keys, kernels_for

  chip = topologies.get_topology_desc(platform='tpu', topology_name=topology).devices[0]
  placed = jax.sharding.SingleDeviceSharding(chip)
  array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=placed)
  ids = lambda length: Ids(*[array(B, length, dtype=jnp.int32)] * 2)
  new = Keys(*[array(B, 1, G, K)] * 2, ids(1))
  cached = lambda length: Keys(*[array(L, B, length, G, K)] * 2, ids(length))
  far, near = cached(S), cached(W)

  def run(q, own_far, own_near, past_far, past_near, logits):
    def layer(q, index):
      plain = attention(q, own_far, past_far, index)
      return gated_attention(plain, own_far, own_near, past_far, past_near, index, logits, W), None

    return jax.lax.scan(layer, q, jnp.arange(L))[0]

  with kernels_for('tpu'):
    compiled = jax.jit(run).lower(array(B, 1, H, K), new, new, far, near, array(B, 1, H, dtype=jnp.float32)).compile()
  report = {
      'block': tpu.DEFAULT.fitted(S, G).block,
      'chunk': tpu.DEFAULT.fitted(S, G).chunk,
      'temporary': compiled.memory_analysis().temp_size_in_bytes,
      'cache': 2 * far.k.size * 2,
  }
  for line in compiled.as_text().splitlines():
    if call := re.search(r'%(\w+)\S* = .* custom-call\(.*"tpu_custom_call"', line):
      used = re.search(r'"used_scoped_memory_configs":\[\{[^]]*"size":"(\d+)"', line)
      report[call[1]] = {'vmem': int(used[1])}
  return report


def bundles(path: str, chunks: int) -> dict:
  """Instruction bundles of a step whose block is full, at most, and of the folding of one of its chunks.

  The dump holds two loops over a chunk, one of them for the last tokens of a slot, and what mixes in the local stream: the
  blocks with most exponentials. Everything else is counted as if every step went through all of it.
  """
  with open(path) as file:
    lines = [line for line in file if re.match(r'\s*0x[0-9a-f]+\s', line)]
  edge = re.compile(r'\bsbr\.|^\s*0x[0-9a-f]+\s+(LB|LH|LE|PB|PF)\b')
  edges = [0, *(i for i, line in enumerate(lines) if edge.search(line)), len(lines)]
  blocks = [lines[start:stop] for start, stop in zip(edges, edges[1:])]
  exponentials = lambda block: sum(len(re.findall(r'\bv(?:pow|exp)2\b', line)) for line in block)
  whole, last = (block for block in blocks if exponentials(block) >= max(map(exponentials, blocks)))
  others = sum(len(block) for block in blocks if not exponentials(block))
  return {'bundles': chunks * len(whole) + others, 'chunk': len(whole), 'last chunk': len(last), 'others': others}


def main(topology: str) -> None:
  with tempfile.TemporaryDirectory() as folder:
    os.environ['LIBTPU_INIT_ARGS'] = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
    os.environ.update(JAX_PLATFORMS='cpu', ALLOW_MULTIPLE_LIBTPU_LOAD='1', TPU_SKIP_MDS_QUERY='1')
    report = compile_for(topology)
    for path in glob.glob(os.path.join(folder, '*decode_attention*final_bundles.txt')):
      kernel = re.search(r'-(\w+)\.', os.path.basename(path))
      if kernel and 'schedule-analysis' not in path:
        report[kernel[1]] |= bundles(path, report['block'] // report['chunk'])
  print(json.dumps(report))


if __name__ == '__main__':
  main(*sys.argv[1:])
