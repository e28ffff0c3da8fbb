"""Lineage: where a checkpoint came from, how it was trained, and whether the files on disk still agree.

A stage's lineage is a dictionary of JSON values, stored inside each of its checkpoints and so committed with it;
`<workdir>/<stage>/lineage.json` is a copy of the newest one. `begin` or `resume` states what is fixed when a run
starts, `progress` adds what changes from checkpoint to checkpoint, and `Checkpoints.save` adds the fingerprint. `runs` has
an entry per stretch of steps that was trained in one way; the fields of the last one also stand beside it.
"""

import importlib.metadata
import json
import pathlib
import subprocess
from typing import Any

import jax
from ml_collections import ConfigDict

import iquest_jax
from iquest_jax.checkpoint import fingerprint, refold, restore
from iquest_jax.checkpoint.start import Start
from iquest_jax.checkpoint.store import Checkpoints
from iquest_jax.config import FOLD_RULES, TRANSFORMS, config_hash
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder, StageFolder, write_whole


def begin(start: Start, config: ConfigDict, rows_manifest_hash: str, leaves: dict[str, str]) -> dict[str, Any]:
  """Lineage of a stage that does not resume; `leaves` are the fingerprints of its first parameters, after the transform."""
  parent, fold = None, {}
  if start.kind == 'parent':
    ended = start.lineage['end_fingerprint']
    parent = {'stage': start.checkpoints.stage.name, 'step': start.step, 'fingerprint': ended}
    if config.init.transform:
      fold = {'rule': config.init.fold, 'seed': config.seed, 'leaves': leaves}
  present = _present(config, rows_manifest_hash)
  return {
      'stage': config.stage,
      'size': config.size,
      'model': config.model.to_dict(),
      'parent': parent,
      'imported': start.lineage['imported'] if start.kind == 'imported' else '',
      'transform': config.init.transform if parent else '',
      'fold': fold,
      'carry': list(start.carried(config.init.carry)),
      'start_fingerprint': fingerprint.combine(leaves),
      'tokens_seen': 0,
      'wall_seconds': 0.0,
      'runs': [_run(0, config, present)],
  } | present


def resume(start: Start, config: ConfigDict, rows_manifest_hash: str) -> dict[str, Any]:
  """Lineage of a stage that resumes: how it began stays, and `runs` gets an entry if anything has changed."""
  present, runs = _present(config, rows_manifest_hash), start.lineage.get('runs')
  if runs is None:  # saved before runs were recorded, as if it had been trained in one way
    runs = [{'from_step': 0, **{name: start.lineage[name] for name in _OF_A_RUN}, 'skip_steps': []}]
  run = _run(start.step, config, present)
  if run | {'from_step': runs[-1]['from_step']} != runs[-1]:
    runs = [*runs, run]
  return start.lineage | present | {'runs': runs}


def progress(
    lineage: dict[str, Any], *, steps: int, tokens_seen: int, wall_seconds: float, finished: bool
) -> dict[str, Any]:
  """Lineage to save with a checkpoint. It holds no losses, since a step is evaluated after it is saved.

  Args:
    lineage: of `begin` or `resume`, unchanged since.
    steps, tokens_seen: of the stage, over all its runs.
    wall_seconds: of this run alone; earlier runs are added.
    finished: whether the stage has taken all its steps, so that another may start from here.
  """
  passed = lineage['wall_seconds'] + wall_seconds
  return lineage | {'steps': steps, 'tokens_seen': tokens_seen, 'wall_seconds': passed, 'finished': finished}


def imported(stage: str, size: str, source: str, model: dict[str, Any]) -> dict[str, Any]:
  """Lineage of a model imported at step 0: the name of its folder, and the fields of its ModelConfig. It has no runs."""
  start = {'stage': stage, 'size': size, 'model': model, 'parent': None, 'imported': source, 'transform': '', 'carry': []}
  return progress(start | {'wall_seconds': 0.0} | _code(), steps=0, tokens_seen=0, wall_seconds=0.0, finished=True)


_OF_A_RUN = ('config_hash', 'rows_manifest_hash', 'code_version', 'devices')


def _run(from_step: int, config: ConfigDict, present: dict[str, Any]) -> dict[str, Any]:
  """An entry of `runs`: how the steps after `from_step` were trained."""
  skipped = [list(interval) for interval in config.train.skip_steps]
  return {'from_step': from_step, **{name: present[name] for name in _OF_A_RUN}, 'skip_steps': skipped}


def _present(config: ConfigDict, rows_manifest_hash: str) -> dict[str, Any]:
  """What a run may change when it resumes."""
  return {
      'config_hash': config_hash(config),
      'rows_manifest_hash': rows_manifest_hash,
      'devices': {'kind': jax.devices()[0].device_kind, 'count': jax.device_count(), 'processes': jax.process_count()},
  } | _code()


def _code() -> dict[str, Any]:
  versions = {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'orbax-checkpoint')}
  return {'code_version': code_version(), 'versions': versions}


def code_version() -> str:
  """`git describe` of the checkout that holds this package, else the package's version."""
  root = pathlib.Path(iquest_jax.__file__).resolve().parents[1]
  if (root / '.git').exists():  # a virtual environment inside another repository must not report that one's version
    command = ['git', '-C', root, 'describe', '--always', '--dirty', '--tags']
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    if git.returncode == 0:
      return git.stdout.strip()
  return iquest_jax.__version__


def write(folder: StageFolder, lineage: dict[str, Any]) -> None:
  """Writes the stage's lineage.json, the lineage of its newest checkpoint, on the primary process.

  Raises:
    UserError: the disk is full or refuses.
  """
  if jax.process_index():
    return
  try:
    write_whole(folder.lineage, _text(lineage))
  except OSError as error:
    raise UserError(f'{folder.lineage}: not written: {error.strerror}; fix this, then rerun the same command') from error


def is_copied(folder: StageFolder, lineage: dict[str, Any]) -> bool:
  """Whether the stage's lineage.json is this lineage."""
  return folder.lineage.exists() and folder.lineage.read_text() == _text(lineage)


def _text(lineage: dict[str, Any]) -> str:
  return json.dumps(lineage, indent=1, sort_keys=True) + '\n'


def tree(run_folder: RunFolder, stages: list[str]) -> dict[str, dict[str, Any]]:
  """{stage: lineage of its newest checkpoint}, in the order of `stages`, of those that have one."""
  checkpoints = {stage: Checkpoints(run_folder.stage(stage)) for stage in stages}
  return {stage: saved.lineage() for stage, saved in checkpoints.items() if saved.steps()}


def verify(run_folder: RunFolder, stages: list[str]) -> list[str]:
  """Reads all checkpoints of a chain and returns one line per problem; [] when everything is as written.

  Files are hashed and all leaves of the state fingerprinted again. Every stage must have begun with the parameters that its
  parent ended with, or with what the fold makes of them, which is computed again. Memory: two pieces of a leaf (see
  Checkpoints.pieces), and the layers that the fold joins.
  """
  problems = []
  for stage in stages:
    checkpoints = Checkpoints(run_folder.stage(stage))
    own = _check_files(checkpoints) + _check_copy(checkpoints) + _check_parent(run_folder, checkpoints)
    problems += [f'{stage}: {problem}' for problem in own]
  return problems


def _check_files(checkpoints: Checkpoints) -> list[str]:
  problems = []
  for step in checkpoints.steps():
    try:
      checkpoints.verify(step)
      checkpoints.verify_leaves(step)
    except UserError as error:
      problems.append(str(error))
  return problems


def _check_copy(checkpoints: Checkpoints) -> list[str]:
  file, step = checkpoints.stage.lineage, checkpoints.latest_step()
  if step is None:
    return [f'{file}: belongs to no checkpoint; run the stage again'] if file.exists() else []
  stored = _readable(checkpoints, step)
  if stored and (not file.exists() or file.read_bytes() != _text(stored).encode()):
    return [f'{file}: is not the lineage in checkpoint {step}; start the stage again to rewrite it']
  return []


def _check_parent(run_folder: RunFolder, checkpoints: Checkpoints) -> list[str]:
  step = checkpoints.latest_step()
  lineage = _readable(checkpoints, step) if step is not None else None
  parent = lineage and lineage['parent']
  if not parent:
    return []
  before = Checkpoints(run_folder.stage(parent['stage']))
  origin = f'{checkpoints.folder / str(step)}: starts from step {parent["step"]} of {parent["stage"]}'
  if parent['step'] not in before.steps():
    return [f'{origin}, which no longer exists']
  problems, origin = [], f'{origin} with fingerprint {parent["fingerprint"]}'
  ended = (_readable(before, parent['step']) or {}).get('end_fingerprint')
  if ended not in (None, parent['fingerprint']):
    problems.append(f'{origin}, which now has {ended}')
  if lineage['transform'] not in TRANSFORMS:
    problems.append(f'{origin} by transform "{lineage["transform"]}", which does not exist')
  elif lineage['transform']:
    problems += [f'{origin}, but {problem}' for problem in _check_fold(before, lineage)]
  if not lineage['transform'] and lineage['start_fingerprint'] != parent['fingerprint']:
    problems.append(f'{origin}, but began with {lineage["start_fingerprint"]} and names no transform')
  return problems


def _check_fold(parent: Checkpoints, lineage: dict[str, Any]) -> list[str]:
  """Whether a looped stage began with what the fold makes of its parent."""
  if not (fold := lineage.get('fold')):
    return ['was saved before folds were recorded, so that its beginning cannot be verified']
  rule, seed, leaves = (fold[name] for name in ('rule', 'seed', 'leaves'))
  if rule not in FOLD_RULES:
    return [f'names the fold "{rule}", which does not exist']
  if fingerprint.combine(leaves) != lineage['start_fingerprint']:
    return [f'began with {lineage["start_fingerprint"]}, which is not the fingerprint of its leaves']
  try:
    folded = refold.fingerprints(parent, lineage['parent']['step'], restore.trained_as(lineage), rule, seed)
  except UserError:
    return []  # `_check_files` reports it, with the parent
  different = [path for path in sorted(folded.keys() | leaves.keys()) if folded.get(path) != leaves.get(path)]
  return [f'did not begin with its fold by "{rule}": {", ".join(different)} differ'] if different else []


def _readable(checkpoints: Checkpoints, step: int) -> dict[str, Any] | None:
  """Lineage of a step; None if it cannot be read, which `_check_files` reports."""
  try:
    return checkpoints.lineage(step)
  except UserError:
    return None


def render(lineages: dict[str, dict[str, Any]], held_out: dict[str, str]) -> str:
  """The result of `tree` as text of at most 110 columns: a stage hangs below the one it starts from.

  Args:
    held_out: by stage, what was measured on held-out data, as text.
  """
  children = {stage: [] for stage in lineages}
  roots = []
  for stage, lineage in lineages.items():
    parent = (lineage['parent'] or {}).get('stage')
    children.get(parent, roots).append(stage)
  lines = [_row('stage', 'steps', 'tokens', 'held out', 'parameters', 'comes from')]

  def draw(stage: str, stem: str, branch: str):
    lines.append(_row(stem + branch + stage, *_cells(lineages[stage], held_out.get(stage, '-'))))
    stem += {'': '', '├─ ': '│  ', '└─ ': '   '}[branch]
    for child in children[stage]:
      draw(child, stem, '└─ ' if child == children[stage][-1] else '├─ ')

  for root in roots:
    draw(root, '', '')
  return '\n'.join(lines)


def render_runs(lineages: dict[str, dict[str, Any]]) -> str:
  """What the result of `tree` says of stages that were not trained in one way, a line per run; '' if all were."""
  lines = []
  for stage, lineage in lineages.items():
    runs = lineage.get('runs', [])
    for run in runs if len(runs) > 1 else []:
      devices = run['devices']
      hashes = f'config {run["config_hash"][:8]}, rows {run["rows_manifest_hash"][:8]}, code {run["code_version"]}'
      where = f'{devices["count"]} x {devices["kind"]}, {devices["processes"]} processes'
      skips = ''.join(f', without {first}-{last}' for first, last in run['skip_steps'])
      lines.append(f'{stage} from step {run["from_step"]:,}: {hashes}, {where}{skips}')
  return '\n'.join(lines)


def _cells(lineage: dict[str, Any], held_out: str) -> tuple[str, ...]:
  source = lineage['transform'] or (lineage['parent'] or {}).get('stage') or lineage['imported'] or 'random'
  steps = f'{lineage["steps"]:,}' + ('' if lineage['finished'] else ' …')
  return steps, f'{lineage["tokens_seen"]:,}', held_out, lineage['end_fingerprint'], str(source)


def _row(stage: str, steps: str, tokens: str, held_out: str, parameters: str, source: str) -> str:
  return f'{stage:<29} {steps:>11} {tokens:>18} {held_out:>13} {parameters:<16} {source}'[:110].rstrip()
