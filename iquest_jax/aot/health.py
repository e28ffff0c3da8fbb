"""What the checks of train/health cost on a slice that is not attached: programs compiled, seconds estimated."""

from ml_collections import ConfigDict

from iquest_jax.aot import estimate
from iquest_jax.aot.topology import Slice

# A comparison computes the rows at two places.
_PLACES = 2


def lower(config: ConfigDict, slice_: Slice) -> dict:
  """{name: lowered program} of the checks between steps, as far as the mesh has something to compare."""
  import jax
  import jax.numpy as jnp

  from iquest_jax import sharding
  from iquest_jax.kernels import gated_attention
  from iquest_jax.train import step
  from iquest_jax.train.health.recompute import Recompute
  from iquest_jax.train.health.replicas import Replicas

  mesh, lowered = sharding.make_mesh(config.mesh, slice_.devices()), {}
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), gated_attention.kernels_for('tpu'):
    stage = step.of_stage(config, mesh, num_sources=1)
    replicas, recompute = Replicas(mesh, stage.abstract), Recompute(config, stage.model, mesh)
    if replicas.names:
      lowered['replicas'] = replicas.hashes.lower(replicas.chosen(stage.abstract))
    if recompute.places > 1:
      number = jax.ShapeDtypeStruct((), jnp.int32, sharding=jax.NamedSharding(mesh, jax.P()))
      lowered['recompute'] = recompute.hashes.lower(stage.abstract.params, number, number)
  return lowered


def shares(measures: dict, config: ConfigDict, slice_: Slice, bundles: dict) -> dict[str, tuple[float, float]]:
  """{check: (its seconds, its share of the time of training)} from the measures of aot.program."""
  seconds = {name: sum(estimate.parts(each, slice_, bundles)[0].values()) for name, each in measures.items()}
  health, found = config.health, {}
  for name, runs, every in (('replicas', 1, health.replicas_every), ('recompute', _PLACES, health.recompute_every)):
    if name in measures and every and seconds['step']:
      found[name] = runs * seconds[name], runs * seconds[name] / every / seconds['step']
  return found


def render(name: str, measures: dict, config: ConfigDict, slice_: Slice, bundles: dict) -> tuple[bool, str]:
  """(whether the step and its checks fit, the report on what the checks add to it)."""
  step = estimate.estimate(measures['step'], config, slice_, bundles)
  found = shares(measures, config, slice_, bundles)
  # A check between steps runs while the whole state is in memory, whatever it reads of it.
  state = measures['step'].get('argument_bytes', 0)
  beside = {name: state - measures[name].get('argument_bytes', 0) for name in found}
  gib = {name: (_peak(measure) + beside.get(name, 0)) / 2**30 for name, measure in measures.items()}
  fits = {name: 'refused' not in measures[name] and each * 2**30 <= slice_.chip.hbm_bytes for name, each in gib.items()}

  def line(name: str, every: int) -> str:
    if name not in found:
      return 'left out, or nothing to compare on this mesh'
    seconds, share = found[name]
    if not fits[name]:
      return f'DOES NOT FIT: peak {gib[name]:.2f} GiB'
    return f'{seconds:.6f} s every {every} steps, {100 * share:.5f} %; peak {gib[name]:.2f} GiB'

  checker = 'FITS' if fits['checked step'] else 'DOES NOT FIT'
  return all(fits.values()), '\n'.join([
      f'{name} on {slice_.name}: checks of hardware; compiled, not run: seconds are estimates',
      f'  step                {step.step_seconds:.2f} s; peak {gib["step"]:.2f} of {slice_.chip.hbm_bytes / 2**30:.2f} GiB',
      f'  replicas            {line("replicas", config.health.replicas_every)}',
      f'  rows recomputed     {line("recompute", config.health.recompute_every)}',
      f'  together            {100 * sum(share for _, share in found.values()):.4f} % of the time of training',
      f"  libtpu's checker    a step per start; peak {gib['checked step']:.2f} GiB, {checker}",
  ])  # fmt: skip


def _peak(measure: dict) -> int:
  return (measure['needed_bytes'] if 'refused' in measure else measure['peak_bytes']) or 0
