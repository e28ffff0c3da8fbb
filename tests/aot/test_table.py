"""The table of all stages: one row per program, and no row older than the configurations. Needs no libtpu."""

import pathlib

from experiments import chain, meshes
from iquest_jax.aot import estimate, report, sweep, topology
from launch import aot, command

ROOT = pathlib.Path(__file__).parents[2]


def test_stages_with_the_same_program_are_compiled_once(tmp_path):
  slice_, other = topology.find('v5p-512'), topology.find('v5p-256')
  first, same = command.experiment('midtrain_128k:size=7b'), command.experiment('sft_thinking:size=7b')
  results = sweep.Results(tmp_path / 'measures.jsonl')
  results.add(first, slice_, {'peak_bytes': 1})
  assert sweep.Results(tmp_path / 'measures.jsonl').get(same, slice_) == {'peak_bytes': 1}
  assert results.get(same, other) is None
  same.train.accumulation = 4
  assert results.get(same, slice_) is None


def test_the_table_has_every_stage_of_every_size_in_one_row_per_program():
  programs = aot.programs()
  assert set(aot.SLICES) == set(meshes.CHIPS)
  listed = [(size, stage) for size, stages in programs for stage in stages]
  everything = {(size, stage) for size in aot.SIZES for stage in chain.stages(size)} - {('40b_loop', 'pretrain')}
  assert len(listed) == len(everything) and set(listed) == everything and len(programs) == 12
  for size, stages in programs:
    for cloud in meshes.CHIPS:
      configs = [command.experiment(f'{stage}:size={size},topology={cloud}') for stage in stages]
      assert len({sweep.key(config, topology.find(cloud)) for config in configs}) == 1


def test_the_table_is_generated_from_the_records_of_todays_configurations():
  results, estimates = sweep.Results(ROOT / 'experiments/aot/measures.jsonl'), {}
  for size, stages in aot.programs():
    for cloud in aot.SLICES:
      config, slice_ = command.experiment(f'{stages[0]}:size={size},topology={cloud}'), topology.find(cloud)
      measure = results.get(config, slice_)
      assert measure is not None, f'{stages[0]} {size} {cloud}: run python -m launch.aot --all and update the README'
      estimates.setdefault((size, ', '.join(stages)), {})[cloud] = estimate.estimate(measure, config, slice_)
  assert all(each.fits for row in estimates.values() for each in row.values())
  table = report.table(estimates, '; '.join(results.versions()))
  assert (ROOT / 'experiments/aot/table.md').read_text() == table
  _, rows = table.split('\n\n')
  assert rows in (ROOT / 'README.md').read_text()
