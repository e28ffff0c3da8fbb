"""The house keeps its rules: imports flow one way, files have one subject, commands answer at once."""

import ast
import graphlib
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(path for room in ('iquest_jax', 'experiments', 'launch') for path in (ROOT / room).rglob('*.py'))
COMMANDS = sorted(path.stem for path in (ROOT / 'launch').glob('*.py') if "__name__ == '__main__'" in path.read_text())

# Who may import whom, at the grain of sub-folders; a room may always import itself. Anything not listed is a way back.
GROUND = {'errors', 'config', 'batch', 'hardware', 'hosts', 'bucket', 'run_folder', 'journal', 'lease', 'ending'}
DATA_GROUND = {'data.documents', 'data.funnel', 'data.languages', 'data.imports', 'data.syntax', 'data.split'}
LIBRARY = GROUND | {
    'sharding', 'text', 'sandbox', 'kernels', 'parallel', 'model', 'checkpoint', 'data', 'train', 'infer', 'convert',
    'eval', 'endpoint', 'serve', 'rl', 'report',
}  # fmt: skip
MAY_IMPORT = {
    'errors': set(),
    'hardware': set(),
    'hosts': {'errors'},
    'ending': {'errors', 'hosts'},
    'batch': set(),
    'config': {'errors'},
    'bucket': {'errors'},
    'run_folder': {'errors', 'bucket'},
    'journal': {'errors', 'bucket', 'run_folder'},
    'lease': {'errors', 'bucket', 'run_folder'},
    'sharding': {'errors', 'batch'},
    'text': {'errors', 'run_folder'},
    'sandbox': {'errors'},
    'endpoint': {'errors', 'run_folder', 'text'},
    'serve': {'errors', 'run_folder', 'text', 'infer', 'model', 'checkpoint', 'sharding'},
    'kernels': GROUND | {'sharding'},
    'parallel': GROUND | {'sharding', 'kernels'},
    'model': GROUND | {'sharding', 'kernels', 'parallel'},
    'checkpoint': GROUND | {'sharding', 'model'},
    'train': GROUND | {'sharding', 'kernels', 'parallel', 'model', 'checkpoint', 'data.loader'},
    'infer': GROUND | {'sharding', 'model', 'checkpoint', 'text'},
    'rl': GROUND | {
        'sharding', 'kernels', 'model', 'checkpoint', 'train', 'infer', 'text', 'sandbox', 'data.documents', 'data.loader',
        'data.read.problems',
        'data.read.records', 'data.synthesis.cases', 'data.synthesis.execution', 'data.synthesis.schemas',
    },
    'report': GROUND | {'checkpoint.lineage'},
    'convert': GROUND | {'model', 'checkpoint', 'text'},
    'eval': GROUND | {
        'sharding', 'kernels', 'infer', 'model', 'checkpoint', 'sandbox', 'text', 'data.documents', 'data.loader',
        'endpoint',
    },
    # The ground of data, then its steps, none of which imports another, then what joins them.
    'data.documents': {'errors'},
    'data.funnel': {'data.documents'},
    'data.languages': {'errors'},
    'data.imports': {'data.languages'},
    'data.syntax': {'errors', 'data.languages'},
    'data.grammars': {'data.languages'},
    'data.split': {'errors', 'data.documents'},
    'data.read': {'errors', 'text'} | DATA_GROUND,
    'data.clean': {'errors', 'text', 'run_folder', 'endpoint'} | DATA_GROUND,
    'data.build': {'errors', 'text', 'sandbox'} | DATA_GROUND,
    # A fact is checked in one place, whoever made it.
    'data.synthesis': {'errors', 'text', 'run_folder', 'journal', 'sandbox', 'endpoint', 'data.build.facts'} | DATA_GROUND,
    'data.plan': {'errors', 'run_folder'},
    'data.format': {'errors', 'data.documents', 'text'},
    'data.rows': GROUND | {'text', 'data.documents', 'data.funnel'},
    'data.tiny': GROUND | {
        'data.documents', 'data.funnel', 'data.produced', 'data.read', 'data.split', 'sandbox', 'text',
    },
    # What is made of documents, and the check of what carries tests.
    'data.makers': {'errors', 'data.documents', 'data.build', 'data.synthesis', 'sandbox'},
    'data.sources': {'errors', 'data.documents', 'data.build', 'data.format', 'text'},
    'data.executors': GROUND | {'data.funnel'},
    'data.shards': {'data.documents'},
    'data.produced': {'errors', 'data.funnel'},
    'data.inputs': {'errors', 'data.documents', 'data.clean', 'data.makers', 'data.sources'},
    'data.deal': {'data.documents'},
    # Half one: what a task collects, what there is to collect, and all of it.
    'data.evaluation': {'data.clean', 'data.inputs', 'data.read'},
    'data.collect': {'run_folder'} | DATA_GROUND | {
        'data.evaluation', 'data.inputs', 'data.read', 'data.clean', 'data.build', 'data.shards', 'data.makers', 'sandbox',
        'data.produced',
    },
    'data.scan': {
        'errors', 'data.collect', 'data.evaluation', 'data.clean', 'data.executors', 'data.inputs', 'data.produced',
        'data.read',
    },
    'data.corpus': GROUND | DATA_GROUND | {
        'data.collect', 'data.scan', 'data.deal', 'data.inputs', 'data.executors', 'data.sources', 'data.clean',
        'data.produced',
        'data.read',
    },
    # Half two: what a task packs, and the rows of a stage.
    'data.pack': GROUND | DATA_GROUND | {'data.sources', 'data.read', 'data.rows', 'text'},
    'data.prepare': GROUND | DATA_GROUND | {
        'data.executors', 'data.corpus', 'data.sources', 'data.pack', 'data.rows', 'text',
    },
    'data.tasks': GROUND | DATA_GROUND | {
        'data.sources', 'data.corpus', 'data.prepare', 'data.rows', 'data.loader', 'text',
    },
    'data.export': GROUND | {'data.documents', 'data.corpus', 'data.executors', 'data.read'},
    'data.page': {'run_folder', 'data.funnel', 'data.inspect', 'text'},
    'data.inspect': GROUND | DATA_GROUND | {'data.prepare', 'data.corpus', 'data.rows', 'data.sources', 'text'},
    'data.loader': GROUND | {'data.rows', 'text'},
    # These measure whatever they like, and nothing but launch imports them.
    'aot': LIBRARY,
    'bench': LIBRARY,
    'experiments': {'config', 'errors', 'model.sizes'},
}  # fmt: skip


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
  """The entry of MAY_IMPORT that a file belongs to, or its top folder."""
  parts = path.relative_to(root).with_suffix('').parts
  parts = parts[1:] if parts[0] == 'iquest_jax' else parts
  return next(('.'.join(parts[:n]) for n in (2, 1) if '.'.join(parts[:n]) in MAY_IMPORT), parts[0])


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_one_way(path):
  check_imports(path)


def check_imports(path, root=ROOT):
  room = room_of(path, root)
  if room == 'launch' or path.name == '__init__.py':
    return
  for name in imports(path, root):
    assert not name.startswith(('launch', 'tests')), f'{path} imports {name}'
    if name.startswith('experiments'):
      assert room == 'experiments', f'{path} imports {name}'
    if name.startswith('iquest_jax.') and name != 'iquest_jax.__version__':
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
  file.write_text('from iquest_jax.kernels import gated_attention\nfrom ..errors import UserError\n')
  check_imports(file, tmp_path)
  file.write_text(f'def f():\n  {line}\n')
  with pytest.raises(AssertionError, match='imports iquest_jax.train.loop'):
    check_imports(file, tmp_path)


@pytest.mark.parametrize(
    ('room', 'line'),
    [
        ('data/build', 'from iquest_jax.data.format import text'),
        ('data/read', 'from iquest_jax.data import sources'),
        ('data/rows', 'from iquest_jax.data.rows import write\nfrom iquest_jax.data import prepare'),
        ('checkpoint', 'from iquest_jax.train import state'),
        ('infer', 'from iquest_jax.data import documents'),
        ('train', 'from iquest_jax.data.rows import mixture'),
        ('model', 'from iquest_jax import bench'),
    ],
)
def test_the_layering_test_knows_rooms_within_rooms(tmp_path, room, line):
  file = tmp_path / 'iquest_jax' / room / 'x.py'
  file.parent.mkdir(parents=True)
  file.write_text(line + '\n')
  with pytest.raises(AssertionError, match='imports iquest_jax'):
    check_imports(file, tmp_path)


def test_no_rooms_import_each_other_in_a_circle():
  # A room that may be imported whole stands for all of its parts.
  parts = lambda name: {room for room in MAY_IMPORT if room == name or room.startswith(name + '.')}
  graph = {room: set().union(*map(parts, names)) for room, names in MAY_IMPORT.items()}
  graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


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
          'tensorflow_datasets': 'tensorflow-datasets', 'tensorflow': 'seqio', 'jaxlib': 'jax',
          'mlx_lm': 'mlx-lm', 'reasoning_gym': 'reasoning-gym', 'sklearn': 'scikit-learn',
          'math_verify': 'math-verify', 'tree_sitter': 'tree-sitter'}  # fmt: skip
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
