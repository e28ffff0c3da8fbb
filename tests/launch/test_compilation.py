"""Where compiled programs are kept, and where not."""

import jax
import pytest

from iquest_jax.run_folder import RunFolder
from launch import compilation


@pytest.fixture(name='folder_of')
def _folder_of(monkeypatch, tmp_path):
  """Gives the folder in which a backend would keep its programs, restored afterwards; nothing is compiled."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)

  def folder_of(backend, chosen=None):
    jax.config.update('jax_compilation_cache_dir', chosen)
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    compilation.keep(RunFolder(tmp_path))
    return jax.config.jax_compilation_cache_dir

  yield folder_of
  jax.config.update('jax_compilation_cache_dir', before)


def test_accelerators_keep_programs_in_the_run_folder_and_a_cpu_keeps_none(folder_of, tmp_path):
  assert folder_of('tpu') == folder_of('gpu') == str(tmp_path / 'compiled')
  assert folder_of('cpu') is None


def test_a_folder_chosen_in_the_environment_wins(folder_of):
  assert folder_of('tpu', chosen='/elsewhere') == folder_of('cpu', chosen='/elsewhere') == '/elsewhere'
