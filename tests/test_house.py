"""The house keeps its rules: imports flow one way, files have one subject, commands answer at once."""

import ast
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(path for room in ('iquest_jax', 'experiments', 'launch') for path in (ROOT / room).rglob('*.py'))
COMMANDS = sorted(path.stem for path in (ROOT / 'launch').glob('*.py') if "__name__ == '__main__'" in path.read_text())

# Who may import whom, by room; a room may always import itself. Anything not said is a way back.
BASE = {'errors', 'config', 'batch', 'hardware'}
MAY_IMPORT = {
    'errors': set(),
    'hardware': set(),
    'config': {'errors'},
    'batch': set(),
    'sharding': {'errors', 'batch'},
    'kernels': BASE | {'sharding'},
    'parallel': BASE | {'sharding', 'kernels'},
    'model': BASE | {'sharding', 'kernels', 'parallel'},
    'data': {'errors', 'batch', 'config'},
    'train': BASE | {'sharding', 'kernels', 'parallel', 'model', 'data.loader'},
    'aot': BASE | {'sharding', 'kernels', 'model', 'train', 'data.mixture'},
    'infer': BASE | {'sharding', 'model', 'data.tokenizer', 'data.chat', 'data.example'},
    'convert': BASE | {'model', 'data.tokenizer', 'data.chat'},
    'experiments': {'config', 'errors', 'model.sizes'},
}


def imports(path: pathlib.Path, root: pathlib.Path = ROOT) -> set[str]:
  """Dotted names a file imports, wherever in it, `from a import b` as a.b, relative ones as what they mean."""
  names, package = set(), path.relative_to(root).parent.parts
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      above = package[: len(package) + 1 - node.level] if node.level else ()
      module = '.'.join([*above, *filter(None, [node.module])])
      names |= {f'{module}.{alias.name}' for alias in node.names}
  return names


def room_of(path: pathlib.Path, root: pathlib.Path = ROOT) -> str:
  parts = path.relative_to(root).with_suffix('').parts
  return parts[1] if parts[0] == 'iquest_jax' and len(parts) > 1 else parts[0]


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_one_way(path):
  check_imports(path)


def check_imports(path, root=ROOT):
  room = room_of(path, root)
  if room == 'launch' or room == '__init__':
    return
  for name in imports(path, root):
    assert not name.startswith(('launch', 'tests')), f'{path} imports {name}'
    if name.startswith('experiments'):
      assert room == 'experiments', f'{path} imports {name}'
    if name.startswith('iquest_jax.'):
      inner = name.removeprefix('iquest_jax.')
      allowed = MAY_IMPORT[room] | {room}
      assert any(inner == other or inner.startswith(other + '.') for other in allowed), f'{path} imports {name}'
    if room == 'experiments':
      assert not name.startswith(('jax', 'flax')), f'{path} imports {name}: experiments hold numbers only'


@pytest.mark.parametrize(
    'line', ['from iquest_jax.train import loop', 'import iquest_jax.train.loop', 'from ..train import loop']
)
def test_the_layering_test_sees_a_way_back(tmp_path, line):
  file = tmp_path / 'iquest_jax/model/x.py'
  file.parent.mkdir(parents=True)
  file.write_text('from iquest_jax.kernels import bundles\nfrom ..errors import UserError\n')
  check_imports(file, tmp_path)
  file.write_text(f'def f():\n  {line}\n')
  with pytest.raises(AssertionError, match='imports iquest_jax.train.loop'):
    check_imports(file, tmp_path)


@pytest.mark.parametrize('path', sorted(ROOT.glob('tests/**/*.py')) + SOURCES, ids=lambda path: path.name)
def test_no_file_is_longer_than_450_lines(path):
  assert len(path.read_text().splitlines()) <= 450


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_its_subject_first(path):
  text = path.read_text()
  assert not text.strip() or ast.get_docstring(ast.parse(text)), f'{path} has no docstring'


def test_every_package_that_is_imported_is_declared():
  declared = (ROOT / 'setup.py').read_text()
  pypi = {'absl': 'absl-py', 'ml_collections': 'ml-collections', 'orbax': 'orbax-checkpoint', 'etils': 'etils',
          'tensorflow_datasets': 'tensorflow-datasets', 'tensorflow': 'seqio', 'jaxlib': 'jax'}  # fmt: skip
  ours = {'iquest_jax', 'experiments', 'launch'}
  for path in SOURCES:
    for name in {name.split('.')[0] for name in imports(path)} - ours - sys.stdlib_module_names:
      assert f"'{pypi.get(name, name)}" in declared, f'{path} imports {name}'


@pytest.mark.parametrize('command', COMMANDS)
def test_help_answers_in_under_two_seconds_with_an_example(command):
  start = time.monotonic()
  done = subprocess.run([sys.executable, '-m', f'launch.{command}', '--help'], capture_output=True, text=True, cwd=ROOT)
  seconds = time.monotonic() - start
  assert done.returncode == 0 and f'python -m launch.{command}' in done.stdout
  assert seconds < 2, f'{seconds:.1f} s'
