"""A stage that resumes says whether its rows are the same, more, or others."""

import types

import pytest
from absl import logging
from ml_collections import ConfigDict

from iquest_jax.checkpoint.start import Start
from iquest_jax.train import loop


@pytest.mark.parametrize(
    ('before', 'line'),
    [
        ('a' * 64, None),
        ('b' * 64, 'anneal: rows were appended since it last ran; what it has drawn is unchanged'),
        ('c' * 64, f'anneal resumes with other rows: {"c" * 12} -> {"a" * 12}'),
    ],
)
def test_rows_that_were_appended_to_are_not_other_rows(monkeypatch, before, line):
  said = []
  for level in ('info', 'warning'):
    monkeypatch.setattr(logging, level, lambda text, *values, level=level: said.append((level, text % values)))
  loader = types.SimpleNamespace(manifest_hash='a' * 64, extends=lambda earlier: earlier == 'b' * 64)
  loop._log_other_rows(ConfigDict({'stage': 'anneal'}), Start('resume', lineage={'rows_manifest_hash': before}), loader)
  assert said == ([] if line is None else [('warning' if 'other' in line else 'info', line)])
