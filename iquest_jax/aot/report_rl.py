"""The report on a step of reinforcement learning on one slice."""

from ml_collections import ConfigDict

from iquest_jax.aot import decode
from iquest_jax.aot.rl import Memory, Step, rollouts_of_a_host
from iquest_jax.aot.topology import Slice

_GIB = 2**30


def render(
    name: str, config: ConfigDict, slice_: Slice, measures: dict[str, dict], plan: decode.Plan, memory: Memory,
    steps: tuple[Step, ...],
) -> str:  # fmt: skip
  """The report on one stage; `steps` are empty if it does not fit."""
  rl, chip, mesh, hosts = config.rl, slice_.chip, config.mesh, slice_.hosts
  slots, everything = plan.groups * plan.slots, rl.prompts_per_step * rl.group_size
  per_host, mine = memory.slots, rollouts_of_a_host(config, slice_)
  versions = measures['update']
  lines = [
      f'{name} on {slice_.name}, {slice_.chips} chips, {hosts} hosts: {"FITS" if memory.fits else "DOES NOT FIT"}',
      f'  compiled by jax {versions["jax"]}, libtpu {versions["libtpu"]}, not run: memory and cycles are reported by the '
      'compiler,',
      '  times are estimates, and what is marked "calculated" is arithmetic',
      f'  update              data {mesh.data} fsdp {mesh.fsdp} context {mesh.context}; packed rows of '
      f'{config.data.context}, in multiples of {config.train.batch_rows}',
      f'  sampler             on each host, tensor {plan.tensor}; {slots} slots of {plan.size} tokens (rl.slots), '
      f'{hosts * slots} in all; prompts up to {plan.row}',
  ]
  for program, measure in measures.items():
    if 'refused' in measure:
      lines.append(f'  the compiler says   {program}: {measure["refused"]}')
  lines.append(f'  HBM per chip        of {chip.hbm_bytes / _GIB:.1f} GiB; both programs stay in memory')
  lines += [f'    {phase:18}{size / _GIB:7.1f} GiB' for phase, size in memory.phases.items()]
  lines += [
      f'  slots that fit      {per_host} per host, {hosts * per_host} in all, calculated; a host has {mine} roll-outs',
      f'    with the training state on the hosts: {memory.offloaded} per host, calculated. Not implemented: it would take '
      f'{2 * memory.state_bytes / chip.host_bandwidth:.1f} s per step',
      f'    and {memory.host_bytes / 1e9:.0f} of {plan.slice_.chips * chip.host_memory / 1e9:.0f} GB of a host, and the '
      'sampler would make room for the update',
      f'  roll-outs           {everything} ({rl.prompts_per_step} prompts x {rl.group_size}), if no group is dropped; at '
      f'most {rl.max_groups * rl.group_size}',
  ]
  if idle := max(0, hosts - rl.prompts_per_step):
    lines.append(f'    {idle} hosts have none, since a group is sampled on one host; raise rl.prompts_per_step')
  for step in steps:
    rate = step.lengths.answer * everything / step.seconds / slice_.chips
    lines += [
        f'  a step, estimated   {_time(step.seconds)} if all have {step.lengths.prompt} + {step.lengths.answer} tokens; '
        f'{rate:.1f} sampled tokens/s/chip',
        f'    roll-out          {_time(step.rollout)}, {step.waves} waves of {hosts * slots}; grading keeps up',
        f'    prefill           {_time(step.prefill)}',
        f'    update            {_time(step.update)}, {step.rows} rows; {step.flops:.3g} FLOPs, counted by documents: MFU '
        f'{100 * step.mfu:.0f} %',
        f'    sync              {_time(step.sync)}, calculated',
    ]
  return '\n'.join(lines)


def _time(seconds: float) -> str:
  if seconds >= 3600:
    return f'{seconds / 3600:.1f} h'
  return f'{seconds / 60:.1f} min' if seconds >= 120 else f'{seconds:.1f} s'
