"""The table of all stages: one row per program, and no row older than the configurations. Needs no libtpu."""

import pathlib

from experiments import chain, meshes
from iquest_jax.aot import decode, sweep, topology
from launch import aot, command

ROOT = pathlib.Path(__file__).parents[2]


def test_stages_with_the_same_program_are_compiled_once(tmp_path):
  slice_, other = topology.find('v5p-512'), topology.find('v5p-256')
  first, same = command.experiment('midtrain_128k:size=7b'), command.experiment('sft_thinking:size=7b')
  results = sweep.Results(tmp_path / 'measures.jsonl')
  measure = {'jax': '0', 'libtpu': '0', 'peak_bytes': 1}
  results.add(sweep.key(first, slice_), slice_, measure)
  assert sweep.Results(tmp_path / 'measures.jsonl').get(sweep.key(same, slice_)) == measure
  assert results.get(sweep.key(same, other)) is None
  same.train.accumulation = 4
  assert results.get(sweep.key(same, slice_)) is None


def test_decoding_is_compiled_again_when_slots_or_their_length_change(tmp_path):
  slice_, config = topology.find('v5p-512'), command.experiment('sft_thinking:size=7b')
  results, plan = sweep.Results(tmp_path / 'measures.jsonl'), decode.plan(config, slice_, 4)
  measures = {name: {'jax': '0', 'libtpu': '0', 'peak_bytes': 1} for name in ('decode', 'prefill')}
  results.add(sweep.decode_key(plan), slice_, measures)
  assert sweep.Results(tmp_path / 'measures.jsonl').get(sweep.decode_key(decode.plan(config, slice_, 4))) == measures
  assert results.get(sweep.decode_key(decode.plan(config, slice_, 5))) is None
  assert results.versions() == ['jax 0, libtpu 0']


def test_the_table_has_every_stage_of_every_size_in_one_row_per_program():
  programs = aot.programs()
  assert set(aot.SLICES) == set(meshes.CHIPS)
  listed = [(size, stage) for size, stages in programs for stage in stages]
  everything = {(size, stage) for size in aot.SIZES for stage in chain.stages_on_rows(size)} - {('40b_loop', 'pretrain')}
  assert len(listed) == len(everything) and set(listed) == everything and len(programs) == 12
  for size, stages in programs:
    for cloud in meshes.CHIPS:
      configs = [command.experiment(f'{stage}:size={size},topology={cloud}') for stage in stages]
      assert len({sweep.key(config, topology.find(cloud)) for config in configs}) == 1


def test_the_tables_are_generated_from_the_records_of_todays_configurations():
  results = sweep.Results(ROOT / 'experiments/aot/measures.jsonl')
  again = 'run python -m launch.aot --all and update the README'
  for size, stages in aot.programs():
    for cloud in aot.SLICES:
      config, slice_ = command.experiment(f'{stages[0]}:size={size},topology={cloud}'), topology.find(cloud)
      assert results.get(sweep.key(config, slice_)) is not None, f'{stages[0]} {size} {cloud}: {again}'
  for (size, length), row in aot.decoded().items():
    for cloud, config in row.items():
      plan = decode.plan(config, topology.find(cloud))
      assert results.get(sweep.decode_key(plan)) is not None, f'decoding with {size}, {length}, {cloud}: {again}'
  text, fits = aot.tables(results)
  assert fits and (ROOT / 'experiments/aot/table.md').read_text() == text
  readme = (ROOT / 'README.md').read_text()
  assert all(rows.strip() in readme for rows in text.split('\n\n') if rows.startswith('|'))
