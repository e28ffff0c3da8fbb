"""The report on one stage, and the table of all stages."""

import textwrap

from ml_collections import ConfigDict

from iquest_jax.aot import decode
from iquest_jax.aot.estimate import PUBLISHED_ATTENTION, Estimate, kept_for_backward
from iquest_jax.aot.topology import Slice

_PARTS = {name: name for name in ('memory', 'kernels', 'links', 'host', 'network')} | {'matrix': 'matrix units'}


def _gib(size: float | None) -> str:
  return 'unknown' if size is None else f'{size / 2**30:.2f} GiB'


def _mesh(config: ConfigDict) -> str:
  return ' '.join(f'{axis} {ways}' for axis, ways in config.mesh.items() if ways > 1)


def render(name: str, config: ConfigDict, slice_: Slice, measure: dict, estimate: Estimate) -> str:
  """The report on one stage on one slice."""
  train = config.train
  lines = [
      f'{name} on {slice_.name}, {slice_.chips} chips: {"FITS" if estimate.fits else "DOES NOT FIT"}',
      f'  compiled by jax {measure["jax"]}, libtpu {measure["libtpu"]}, not run: memory and cycles are reported by '
      'the compiler, times and rates are estimates',
      f'  mesh                {_mesh(config)}; {train.batch_rows} rows of {config.data.context} in {train.accumulation} '
      f'micro-batches, {train.dtype}, remat {train.remat}',
      f'  peak HBM per chip   {_gib(estimate.peak_bytes)} of {_gib(slice_.chip.hbm_bytes)}',
  ]
  if 'refused' in measure:
    return '\n'.join([*lines, f'  the compiler says   {measure["refused"]}'])
  lines += [
      f'    state and batch   {_gib(measure["argument_bytes"])}; on the host {_gib(measure["host_bytes"])}',
      '  kept for the backward pass per micro-batch, calculated',
      *(f'    {_gib(size):>12}  {what}' for what, size in kept_for_backward(config).items()),
      '  largest buffers, not all live at the peak',
      *(f'    {_gib(size):>12}  {shape.partition("{")[0]:32} {source}' for size, shape, source in measure['allocations']),
      f'  useful FLOPs        {estimate.useful_flops:.4g} per step',
      '  transfers           GB that leave a chip per step or travel to or from its host, and how many',
  ]
  for kind in sorted(estimate.moved, key=estimate.moved.get, reverse=True):
    times = sum(each['times'] for each in measure['transfers'] if each['kind'] == kind)
    times += sum(window['times'] * each['times'] for window in measure['windows'] for each in window['transfers']
                 if each['kind'] == kind)  # fmt: skip
    lines.append(f'    {kind:18} {estimate.moved[kind] / 1e9:10.3f} GB  {times:8d}')
  lines.append(f'  step, estimated     {estimate.step_seconds:.2f} s, most of it {_PARTS[estimate.dominant]}')
  if slice_.slices > 1:
    rate = slice_.chip.network_bandwidth / 1e9
    lines.append(f'  network             joins {slice_.slices} slices; {rate:g} GB/s per chip and direction, as published')
  for part, seconds in estimate.seconds.items():
    hidden = f', and {estimate.hidden[part]:.3f} s behind other work' if estimate.hidden.get(part) else ''
    lines.append(f'    {_PARTS[part]:18} {seconds:10.3f} s{hidden}')
  lines.append(
      f'  rate, estimated     {estimate.tokens_per_chip_second:.0f} tokens/s/chip, MFU {100 * estimate.mfu:.1f} %'
  )
  return '\n'.join(lines)


def render_decode(name: str, measures: dict[str, dict], estimate: decode.Estimate) -> str:
  """The report on decoding with a stage's model on one slice."""
  plan, versions = estimate.plan, measures['decode']
  chip, slots = plan.slice_.chip, plan.groups * plan.slots
  lines = [
      f'{name}, decoding on {plan.slice_.name}, {plan.slice_.chips} chips: {"FITS" if estimate.fits else "DOES NOT FIT"}',
      f'  compiled by jax {versions["jax"]}, libtpu {versions["libtpu"]}, not run: memory and cycles are reported by '
      'the compiler, times and rates are estimates',
      f'  mesh                data {plan.groups} tensor {plan.tensor}: {plan.groups} groups of {plan.tensor} chips, each '
      'with all parameters in bfloat16',
      f'  slots               {slots} of {plan.size} tokens, {plan.slots} per group; the rest of the HBM would hold '
      f'{estimate.more} more per group',
      f'  cache per slot      {_gib(plan.slot_bytes)} over the chips of a group',
  ]
  for program in ('decode', 'prefill'):
    measure = measures[program]
    peak = measure['needed_bytes' if 'refused' in measure else 'peak_bytes']
    lines.append(f'  peak HBM, {program:9} {_gib(peak)} of {_gib(chip.hbm_bytes)} per chip')
    if 'refused' in measure:
      lines.append(f'  the compiler says   {measure["refused"]}')
    for size, shape, source in measure.get('allocations', ()):
      lines.append(f'    {_gib(size):>12}  {shape.partition("{")[0]:32} {source}')
  if not estimate.fits:
    return '\n'.join(lines)
  lines += [
      f'  a step, estimated   {1000 * estimate.step_seconds:.1f} ms, most of it {_PARTS[estimate.dominant]}',
      *(f'    {_PARTS[part]:18} {1000 * seconds:10.2f} ms' for part, seconds in estimate.step.items()),
      f'  rate, estimated     {estimate.tokens_per_second:.0f} tokens/s with full slots, '
      f'{estimate.tokens_per_second / plan.slice_.chips:.1f} per chip',
      f'  bytes per token     {plan.token_bytes / 1e9:.2f} GB read by a group, calculated; '
      f'{1000 * plan.token_bytes * plan.slots / plan.tensor / chip.hbm_bandwidth:.1f} ms per step at full bandwidth',
      f'  a prefill           {sum(estimate.prefill.values()):.2f} s for {plan.groups} rows of {plan.row}, one per group',
  ]
  return '\n'.join(lines)


def decode_table(estimates: dict[tuple[str, int], dict[str, decode.Estimate]]) -> str:
  """Markdown table of (size, tokens per slot) -> Cloud name of the slice -> estimate."""
  slices = list(next(iter(estimates.values())))
  text = (
      'Decoding, compiled and calculated in the same way. Each cell: slots of that many tokens; peak HBM per chip; '
      'milliseconds per token with all slots full; tokens per second of the slice.'
  )
  lines = [
      textwrap.fill(text, 120),
      '',
      f'| size | tokens per slot | {" | ".join(slices)} |',
      '|---|---|' + '---|' * len(slices),
  ]
  for (size, length), row in estimates.items():
    lines.append(f'| {size} | {length} | {" | ".join(_decode_cell(row[name]) for name in slices)} |')
  return '\n'.join(lines) + '\n'


def _decode_cell(estimate: decode.Estimate) -> str:
  plan = estimate.plan
  slots = plan.groups * plan.slots
  peak = '?' if estimate.peak_bytes is None else f'{estimate.peak_bytes / 2**30:.1f}'
  if not estimate.fits:
    return f'{slots} slots: **do not fit**, {peak} of {plan.slice_.chip.hbm_bytes / 2**30:.1f} GiB'
  return f'{slots} slots, {peak} GiB, {1000 * estimate.step_seconds:.0f} ms, {estimate.tokens_per_second:.0f} tokens/s'


def table(
    estimates: dict[tuple[str, str], dict[str, Estimate]], published: dict[tuple[str, str], Estimate], versions: str
) -> str:
  """Markdown table of train steps.

  Args:
    estimates: (size, stages that share a program) -> Cloud name of the slice -> estimate.
    published: the same for the first slice, with attention at the rate that is published for its chips.
    versions: of the compiler.
  """
  slices = list(next(iter(estimates.values())))
  rate = PUBLISHED_ATTENTION[next(iter(published.values())).slice_.generation]
  text = (
      f'Compiled ahead of time by {versions}, at 4 Mi tokens per step; nothing was run on a TPU. Each cell: peak HBM per '
      "chip, reported by the compiler; seconds per step and MFU, calculated from the compiler's cycles, published link "
      'rates, copies to the host at an assumed 15 GB/s and, for attention, the larger of its scheduled instructions and '
      'the time of its products on the matrix units. A row is one document, which is the most attention it can cost. The '
      f'last column is {slices[0]} with attention at {100 * rate:.0f} % of peak instead, about what is published.'
  )
  lines = [
      textwrap.fill(text, 120),
      '',
      f'| size | stages | {" | ".join(slices)} | {slices[0]}, attention at {100 * rate:.0f} % |',
      '|---|---|' + '---|' * (len(slices) + 1),
  ]
  for (size, stages), row in estimates.items():
    cells = [_cell(row[name]) for name in slices] + [_speed(published[size, stages])]
    lines.append(f'| {size} | {stages} | {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'


def _speed(estimate: Estimate) -> str:
  return f'{estimate.step_seconds:.1f} s, {100 * estimate.mfu:.0f} %'


def _cell(estimate: Estimate) -> str:
  peak = '?' if estimate.peak_bytes is None else f'{estimate.peak_bytes / 2**30:.1f}'
  if not estimate.fits:
    return f'**does not fit**: {peak} of {estimate.slice_.chip.hbm_bytes / 2**30:.1f} GiB'
  return f'{peak} GiB, {_speed(estimate)}'
