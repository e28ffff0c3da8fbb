"""The files of a small chain, and how they are read."""

import pytest

from iquest_jax.report import chain
from iquest_jax.run_folder import RunFolder

from tests.report import small_chain


@pytest.fixture(name='files')
def _files():
  return small_chain.files()


@pytest.fixture(name='read')
def _read(tmp_path):
  """Writes files into a run folder and reads its chain."""

  def read(files):
    for path, text in files.items():
      (tmp_path / 'run' / path).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / 'run' / path).write_bytes(text if isinstance(text, bytes) else text.encode(errors='surrogatepass'))
    return chain.read(RunFolder(tmp_path / 'run'), lambda size: small_chain.PARENTS)

  return read
