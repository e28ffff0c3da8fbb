"""Stages of reinforcement learning that cannot run here are left out, with the reason, and nothing else is."""

import pytest
from absl import logging

from iquest_jax.eval import stage
from iquest_jax.run_folder import RunFolder
from launch import chain, command


@pytest.fixture(name='left')
def _left(tmp_path, monkeypatch):
  """Function of (why programs cannot be isolated, which files of problems are there) -> (stages that run, warnings)."""
  configs = [command.experiment(f'{name}:size=tiny') for name in ('sft_thinking', 'rl_thinking', 'rl_instruct')]

  def left(isolation, files):
    for name in files:
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name).touch()
    said = []
    monkeypatch.setattr(stage, 'no_isolation', lambda: isolation)
    monkeypatch.setattr(logging, 'warning', lambda text, *values: said.append(text % values))
    return [config.stage for config in chain._possible(configs, RunFolder(tmp_path))], said

  return left


def test_a_stage_without_its_problems_is_left_out(left, tmp_path):
  folder = tmp_path / 'corpus/small_programs'
  stages, said = left('', ['corpus/small_programs/rl.jsonl'])
  assert stages == ['sft_thinking']
  assert said[0] == f'rl_thinking is left out: {folder / "held_out.jsonl"} is missing'
  assert said[1].startswith('rl_instruct is left out: ') and said[1].endswith('instructions/rl.jsonl is missing')
  stages, said = left('', ['corpus/small_programs/held_out.jsonl'])
  assert stages == ['sft_thinking', 'rl_thinking'] and len(said) == 1


def test_without_isolation_only_reinforcement_learning_is_left_out(left):
  files = [f'corpus/{kind}/{name}.jsonl' for kind in ('small_programs', 'instructions') for name in ('rl', 'held_out')]
  assert left('', files) == (['sft_thinking', 'rl_thinking', 'rl_instruct'], [])
  stages, said = left('no sandbox', files)
  assert stages == ['sft_thinking']
  assert said == ['rl_thinking is left out: no sandbox', 'rl_instruct is left out: no sandbox']
