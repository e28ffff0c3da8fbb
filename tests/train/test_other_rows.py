"""A stage resumes with the rows it has learned from, with more of them, or with others only if that is accepted."""

import types

import pytest
from absl import logging

from iquest_jax.checkpoint.start import Start
from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder
from iquest_jax.train import loop


@pytest.fixture
def said(monkeypatch):
  lines = []
  for level in ('info', 'warning'):
    monkeypatch.setattr(logging, level, lambda text, *values, level=level: lines.append((level, text % values)))
  return lines


def check(folder, before, accept=False):
  loader = types.SimpleNamespace(manifest_hash='a' * 64, extends=lambda earlier: earlier == 'b' * 64)
  checkpoints = types.SimpleNamespace(stage=StageFolder(folder / 'anneal'))
  loop.check_rows(Start('resume', checkpoints, 40, {'rows_manifest_hash': before}), loader, accept)


def test_the_same_rows_are_not_worth_a_word(tmp_path, said):
  check(tmp_path, 'a' * 64)
  assert said == []


def test_rows_that_were_appended_to_are_not_other_rows(tmp_path, said):
  check(tmp_path, 'b' * 64)
  assert said == [('info', 'anneal: rows were appended since it last ran; what it has drawn is unchanged')]


def test_other_rows_are_refused_in_one_line_unless_accepted(tmp_path, said):
  with pytest.raises(UserError) as caught:
    check(tmp_path, 'c' * 64)
  changed = f'learned from other rows up to step 40 ({"c" * 12}, now {"a" * 12})'
  way_out = 'restore those, use a new --workdir, or accept these with --accept_new_rows'
  assert str(caught.value) == f'{tmp_path}/anneal: {changed}; {way_out}'
  check(tmp_path, 'c' * 64, accept=True)
  assert said == [('warning', f'anneal: {changed}, which is accepted and recorded in its lineage')]
