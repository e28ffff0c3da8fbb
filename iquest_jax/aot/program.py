"""Compiles what a stage runs for a TPU slice without having one, and measures the compiled programs.

Run as a module, it reads {"config", "topology", "program", "slots", "row"} from stdin and writes the measure to stdout:
that of the train step or, of decoding and of the checks of hardware, those of all programs by name. Every request has its
own process, which frees the memory afterwards and isolates libtpu's global state.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import re
import sys

from ml_collections import ConfigDict

from iquest_jax.aot import decode, health, hlo, topology
from iquest_jax.aot.topology import Slice
from iquest_jax.errors import UserError

# A topology is described, not opened: libtpu must not look for chips, here or on a metadata server, and two processes may
# use it at the same time. It wants the last three to be set, whatever their values.
ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
}

# The fields of a measure that are recorded: what estimate.estimate reads, and the versions.
_RECORDED = ('jax', 'libtpu', 'refused', 'needed_bytes', 'peak_bytes', 'cycles', 'transfers', 'windows', 'kernels')
# Fields that add up when equal transfers, windows or kernels are merged.
_SUMMED = ('times', 'moved', 'channels')


def lower(config: ConfigDict, slice_: Slice, checked: bool = False):
  """The stage's train step on its mesh, lowered for the chips of a slice; of reinforcement learning, the update.

  Args:
    checked: with libtpu's checker for silent errors.

  Raises:
    UserError: mesh, batch, context or heads do not fit the slice or each other. Raised before anything is compiled.
  """
  import jax
  import jax.numpy as jnp

  from iquest_jax import sharding
  from iquest_jax.aot import rl
  from iquest_jax.batch import Batch
  from iquest_jax.data.rows import mixture
  from iquest_jax.kernels import gated_attention
  from iquest_jax.train import loop, losses, step
  from iquest_jax.train.health import checker

  mesh = sharding.make_mesh(config.mesh, slice_.devices())
  loop.check(config, mesh)
  if 'rl' in config:
    (dtypes, rows, objective), sources = rl.update_batch(config), 1
  else:
    dtypes, rows = Batch(jnp.int32, jnp.int32, jnp.float32, jnp.int32, jnp.int32, jnp.int32), config.train.batch_rows
    objective, sources = losses.next_token_sums, len(mixture.source_names(config.data.mixture))
  placed = sharding.batch_shardings(mesh)

  def field(path, dtype):
    by_row = path[-1].name in ('source_ids', 'row_weights')
    shape = (rows,) if by_row else (rows, config.data.context)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=placed.source_ids if by_row else placed.tokens)

  batch = jax.tree_util.tree_map_with_path(field, dtypes)
  # With the mesh itself, constants of the trace would be placed on chips that do not exist.
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), gated_attention.kernels_for('tpu'):
    stage = step.of_stage(config, mesh, sources, objective)
    train_step = checker.checked_step(stage, mesh.devices.flat[0].device_kind) if checked else stage.train_step
    return train_step.lower(stage.abstract, batch)


def measure(lowered) -> dict:
  """What the compiler reports about a lowered program, as plain data: bytes and cycles per chip.

  If the program needs too much memory, `refused` has the compiler's message and `needed_bytes` is all that is known.
  """
  import jax

  versions = {'jax': jax.__version__, 'libtpu': importlib.metadata.version('libtpu')}
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return versions | {'refused': str(error).splitlines()[0], 'needed_bytes': _needed_bytes(str(error))}
  memory, module = compiled.memory_analysis(), hlo.Module(compiled.as_text())
  alone, windows = module.transfers()
  return versions | {
      'peak_bytes': memory.peak_memory_in_bytes,
      'argument_bytes': memory.argument_size_in_bytes,
      'code_bytes': memory.generated_code_size_in_bytes,
      'host_bytes': memory.host_temp_size_in_bytes,
      'allocations': module.allocations()[:5],
      'transfers': _merged([_moved(each) for each in alone]),
      'windows': [_window(window) for window in windows],
      'kernels': _merged([dataclasses.asdict(kernel) for kernel in module.kernels()]),
      'cycles': module.cycles(),
  }


def _moved(transfer: hlo.Transfer) -> dict:
  return dataclasses.asdict(transfer) | {'moved': transfer.moved}


def _window(window: hlo.Window) -> dict:
  """Its transfers, with what each moves in one run; the cycles and kernels of one run of what hides them."""
  transfers = [_moved(dataclasses.replace(each, times=1)) for each in window.transfers]
  kernels = [dataclasses.asdict(kernel) for kernel in window.behind.kernels]
  return {'transfers': _merged(transfers), 'cycles': window.behind.cycles, 'kernels': kernels, 'times': window.times}


def for_estimate(measure: dict) -> dict:
  """The part of a measure that an estimate needs, and so a table: no buffers, and of transfers no shapes."""
  recorded = {name: value for name, value in measure.items() if name in _RECORDED}
  slim = lambda transfers: _merged(transfers, without=('shape', 'size', 'group', 'channels'))
  if 'windows' in recorded:
    recorded['transfers'] = slim(recorded['transfers'])
    recorded['windows'] = _merged([each | {'transfers': slim(each['transfers'])} for each in recorded['windows']])
  return recorded


def _merged(records: list[dict], without: tuple[str, ...] = ()) -> list[dict]:
  """Merges records that differ only in _SUMMED, after dropping the fields named in `without`."""
  merged = {}
  for record in records:
    kept = {name: value for name, value in record.items() if name not in without}
    same = {name: value for name, value in kept.items() if name not in _SUMMED}
    total = merged.setdefault(json.dumps(same), same)
    total |= {name: total[name] + kept[name] if name in total else kept[name] for name in _SUMMED if name in kept}
  return list(merged.values())


def _needed_bytes(message: str) -> int | None:
  """Bytes in 'Used 120.5G of 95.7G hbm' or 'memory required for HLO temporaries (131.50G) exceeds'."""
  size = re.search(r'(?:Used |\()([\d.]+)([KMG])', message)
  return math.ceil(float(size[1]) * 2 ** {'K': 10, 'M': 20, 'G': 30}[size[2]]) if size else None


def main() -> None:
  request = json.load(sys.stdin)
  config, slice_ = ConfigDict(request['config']), topology.find(request['topology'])
  try:
    if request['program'] == 'decode':
      programs = decode.lower(decode.plan(config, slice_, request['slots'], request['row']))
      print(json.dumps({name: measure(lowered) for name, lowered in programs.items()}))
    elif request['program'] == 'health':
      programs = {'step': lower(config, slice_), 'checked step': lower(config, slice_, checked=True)}
      programs |= health.lower(config, slice_)
      print(json.dumps({name: measure(lowered) for name, lowered in programs.items()}))
    else:
      print(json.dumps(measure(lower(config, slice_))))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  os.environ.update(ENVIRONMENT)
  main()
