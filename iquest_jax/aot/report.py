"""What a person reads: the report of one stage, and the table of all."""

from ml_collections import ConfigDict

from iquest_jax.aot.estimate import Estimate, held
from iquest_jax.aot.topology import Slice

_PARTS = {'matrix': 'matrix units', 'memory': 'memory', 'kernels': 'kernels', 'links': 'links',
          'links_hidden': 'links, hidden'}  # fmt: skip


def _gib(size: float | None) -> str:
  return 'unknown' if size is None else f'{size / 2**30:.2f} GiB'


def _mesh(config: ConfigDict) -> str:
  return ' '.join(f'{axis} {ways}' for axis, ways in config.mesh.items() if ways > 1)


def render(name: str, config: ConfigDict, slice_: Slice, measure: dict, found: Estimate) -> str:
  """The report of one stage on one slice."""
  train = config.train
  lines = [
      f'{name} on {slice_.name}, {slice_.chips} chips: {"FITS" if found.fits else "DOES NOT FIT"}',
      f'  compiled by jax {measure["jax"]}, libtpu {measure["libtpu"]}; no chip was used: memory and cycles are the '
      "compiler's, times and rates are estimates",
      f'  mesh                {_mesh(config)}; {train.batch_rows} rows of {config.data.context} in {train.accumulation} '
      f'micro-batches, {train.dtype}, remat {train.remat}',
      f'  peak HBM per chip   {_gib(found.peak_bytes)} of {_gib(found.hbm_bytes)}',
  ]
  if 'refused' in measure:
    return '\n'.join([*lines, f'  the compiler         {measure["refused"]}'])
  lines += [
      f'  of it state, batch  {_gib(measure["argument_bytes"])}; on the host {_gib(measure["host_bytes"])}',
      '  kept of a micro-batch for the backward pass, by arithmetic',
      *(f'    {_gib(size):>12}  {what}' for what, size in held(config).items()),
      '  largest allocations (not all live at the peak)',
      *(f'    {_gib(size):>12}  {shape.partition("{")[0]:32} {source}' for size, shape, source in measure['allocations']),
      f'  useful FLOPs        {found.useful_flops:.4g} a step',
      '  collectives         GB that leave a chip in a step, and how many',
  ]
  for kind in sorted(found.moved, key=found.moved.get, reverse=True):
    times = sum(each['times'] for each in measure['collectives'] if each['kind'] == kind)
    lines.append(f'    {kind:18} {found.moved[kind] / 1e9:10.3f} GB  {times:8d}')
  lines.append(f'  step, estimated     {found.step_seconds:.2f} s; {_PARTS[found.dominant]} dominate')
  for part, spent in found.seconds.items():
    lines.append(f'    {_PARTS[part]:18} {spent:10.3f} s')
  lines.append(
      f'  rate, estimated     {found.tokens_per_chip_second:.0f} tokens/s/chip, MFU {100 * found.mfu:.1f} %'
  )
  return '\n'.join(lines)


def table(found: dict[tuple[str, str], dict[str, Estimate]], versions: str) -> str:
  """Markdown of (size, stages that compile to one program) -> slice as Cloud names it -> estimate."""
  slices = list(next(iter(found.values())))
  lines = [
      f'Compiled ahead of time by {versions}, 4 Mi tokens a step: peak HBM of a chip as the compiler says it, then '
      'seconds a',
      'step and MFU, estimated from its cycle counts, declared kernel costs and published link rates. Nothing here ran '
      'on a TPU.',
      '',
      f'| size | stages | {" | ".join(slices)} |',
      '|---|---|' + '---|' * len(slices),
  ]
  for (size, stages), row in found.items():
    lines.append(f'| {size} | {stages} | {" | ".join(_cell(row[name]) for name in slices)} |')
  return '\n'.join(lines) + '\n'


def _cell(found: Estimate) -> str:
  peak = '?' if found.peak_bytes is None else f'{found.peak_bytes / 2**30:.1f}'
  if not found.fits:
    return f'**does not fit**: {peak} of {found.hbm_bytes / 2**30:.1f} GiB'
  return f'{peak} GiB, {found.step_seconds:.1f} s, {100 * found.mfu:.0f} %'
