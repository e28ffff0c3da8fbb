"""Checkpoints of a run: saved while training goes on, committed whole or not at all, checked before they are used.

A step's folder holds four items: `params` and `optimizer` (Orbax, OCDBT), `lineage` and `integrity` (JSON). Orbax
writes them below a temporary name, from every process; when all files are final (its merge of what the processes wrote
included), and only then, it asks its TemporaryPath to finalize. There, on the primary process, the SHA-256 of every
file is written as the last file, `integrity/files.json`, and the folder is renamed: data, lineage and integrity become
visible in one step. On object stores, which cannot rename, that last file is itself the commit.
"""

import collections
import contextlib
import dataclasses
import errno
import gc
import json
import logging as std_logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from iquest_jax.checkpoint import fingerprint
from iquest_jax.errors import UserError

_LINEAGE = 'lineage/lineage.json'
_FINGERPRINTS = 'integrity/fingerprints.json'
_FILES = 'integrity/files.json'
_LEFTOVER = ocp.path.atomicity.TMP_DIR_SUFFIX
_SAVE_TIMEOUT_S = 2 * 60 * 60  # until all processes have written and the primary has hashed all of it


def _silence_orbax():
  """Keeps what is raised here as one line from being told in many more."""
  # Orbax logs thirty lines a save, and every error with its traceback.
  logging.get_absl_logger().addFilter(lambda record: f'{os.sep}orbax{os.sep}' not in record.pathname)
  # When one of its writers fails it abandons the others, which then complain that nobody waits for them, here or there.
  std_logging.getLogger('asyncio').addFilter(lambda record: not _is_of_orbax(record))
  tell = sys.unraisablehook
  abandoned = ('Event loop is closed', 'sys.meta_path is None, Python is likely shutting down')
  sys.unraisablehook = lambda raised: None if str(raised.exc_value) in abandoned else tell(raised)


def _is_of_orbax(record: std_logging.LogRecord) -> bool:
  """Whether a complaint of asyncio names a task of Orbax, or an exception that went through one."""
  passed = traceback.walk_tb(record.exc_info[2]) if record.exc_info else ()
  names = [record.getMessage(), *(frame.f_code.co_filename for frame, _ in passed)]
  return any(f'{os.sep}orbax{os.sep}' in name for name in names)


_silence_orbax()


@dataclasses.dataclass(frozen=True)
class Start:
  """Where a stage starts; see `start`.

  Attributes:
    kind: 'resume', 'parent', 'imported' or 'random'.
    checkpoints: what to restore from, the stage's own or its parent's; None when random.
    step: the step to restore; 0 when random. Training goes on from it when kind is 'resume', else from 0.
    lineage: stored with that step; {} when random.
  """

  kind: str
  checkpoints: 'Checkpoints | None' = None
  step: int = 0
  lineage: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def told(self) -> str:
    """The start in words."""
    if self.kind == 'random':
      return 'starts from random parameters'
    if self.kind == 'resume':
      return 'goes on'
    return f'starts from {self.checkpoints.run_dir.name}' + (', imported' if self.kind == 'imported' else '')


def start(config: ConfigDict, workdir: epath.PathLike, checkpoints: 'Checkpoints') -> Start:
  """Decides what a stage starts from. The order is the contract of the chain; it is said here and nowhere else.

  Removes leftovers of killed saves of this stage first. Changing the parameters on the way (init.transform) and
  choosing what to carry (init.carry) is left to the caller, who knows the models.

  Args:
    config: of the stage; `init` says its parent (config.from_stage), `size` goes into the command that makes it.
    workdir: holds the run folders of the chain.
    checkpoints: of this stage.

  Raises:
    UserError: the parent has no finished checkpoint, and no imported one stands in for it.
  """
  checkpoints.clear_leftovers()
  own, parent = checkpoints.latest_step(), config.init.stage
  # 1. The stage's own newest checkpoint: parameters, optimizer and place in the data.
  if own is not None and not checkpoints.is_import(own):
    return Start('resume', checkpoints, own, checkpoints.lineage(own))
  # 2. The final checkpoint of its parent; an imported model is as good as a finished stage.
  before = Checkpoints(epath.Path(workdir) / parent) if parent else None
  final = before.latest_step() if before else None
  if final is not None and (before.is_import(final) or before.lineage(final).get('finished')):
    return Start('parent', before, final, before.lineage(final))
  # 3. A model imported from Hugging Face into the stage's own folder.
  if own is not None:
    return Start('imported', checkpoints, own, checkpoints.lineage(own))
  if parent:
    state = 'has no checkpoint' if final is None else f'is not finished (its newest checkpoint is step {final})'
    raise UserError(
        f'{before.folder}: {config.stage} starts from {parent}, which {state}; make it with '
        f'python -m launch.tpu --exp={parent}:size={config.size} --workdir={workdir}')
  # 4. Nothing to start from.
  return Start('random')


class Checkpoints:
  """The checkpoints of one stage; every process of a run makes its own and calls the same methods in the same order."""

  def __init__(self, run_dir: epath.PathLike, keep: int = 2):
    """Makes and changes nothing on disk.

    Args:
      run_dir: `<workdir>/<stage>`, local or in the cloud; checkpoints lie in `<run_dir>/checkpoints/<step>/`.
      keep: newest checkpoints to keep, at least 1; older ones are removed once a newer one is committed.
    """
    if keep < 1:
      raise UserError(f'config: checkpoint.keep is {keep}; at least 1')
    self.run_dir = epath.Path(run_dir)
    self.folder = self.run_dir / 'checkpoints'
    self._keep = keep
    path_class = ocp.path.atomicity_defaults.get_default_temporary_path_class(self.folder)
    self._renames = issubclass(path_class, ocp.path.atomicity.AtomicRenameTemporaryPath)
    self._trees = ocp.StandardCheckpointHandler()
    # Folders are made before `save` returns: made later and refused, they leave the writers waiting for minutes.
    options = ocp.AsyncOptions(timeout_secs=_SAVE_TIMEOUT_S, create_directories_asynchronously=False)
    composite = ocp.CompositeOptions(async_options=options)
    self._saver = ocp.AsyncCheckpointer(
        ocp.CompositeCheckpointHandler(composite_options=composite, handler_registry=_handlers(self._trees)),
        async_options=options,
        # Orbax would stamp the commit time into a file after it is hashed.
        checkpoint_metadata_store=ocp.metadata.metadata_store(enable_write=False),
        temporary_path_class=_sealing(path_class, self._remove_old),
    )
    self._saving = None  # step on its way to disk

  def steps(self) -> list[int]:
    """Steps with a committed checkpoint, ascending."""
    if not self.folder.exists():
      return []
    found = [int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal()]
    # A renamed folder without its last file is damaged and must be told; one written in place is not committed yet.
    return sorted(step for step in found if self._renames or (self._of(step) / _FILES).exists())

  def latest_step(self) -> int | None:
    """Newest committed step; None when there is none."""
    return max(self.steps(), default=None)

  def save(self, step: int, params: Any, optimizer: Any | None, lineage: dict[str, Any]):
    """Starts to save and returns when the arrays are copied to the host; they may be donated from then on.

    Waits for the save before, if it is still being written. `end_fingerprint` of the params is added to the lineage.

    Args:
      step: optimizer steps done.
      params: tree of arrays, sharded in any way.
      optimizer: tree of what else training needs to go on; None for parameters alone (an imported model).
      lineage: JSON values; see train/lineage.py.

    Raises:
      UserError: this or the earlier save met a full disk, a missing permission or the like, or the step exists.
    """
    self.wait()
    if step in self.steps():
      raise UserError(f'{self._of(step)}: exists already; remove it, or choose another --workdir')
    leaves = fingerprint.fingerprints(params)
    items = {
        'params': ocp.args.StandardSave(params),
        'lineage': ocp.args.JsonSave(lineage | {'end_fingerprint': fingerprint.combine(leaves)}),
        'integrity': ocp.args.JsonSave(leaves),
    }
    if optimizer is not None:
      items['optimizer'] = ocp.args.StandardSave(optimizer)
    self._saving = step
    self._attempt(lambda: self._saver.save(self._of(step), args=ocp.args.Composite(**items)))

  def wait(self):
    """Returns when the save on its way is committed; raises its UserError when it failed."""
    self._attempt(self._saver.wait_until_finished)
    self._saving = None

  def close(self):
    """Waits, and ends the threads of this object."""
    self.wait()
    self._saver.close()

  def lineage(self, step: int | None = None) -> dict[str, Any]:
    """The lineage stored in a checkpoint, the newest by default."""
    return self._json(self._step(step), _LINEAGE)

  def has_optimizer(self, step: int) -> bool:
    """Whether the checkpoint holds an optimizer state (an imported model has none)."""
    return (self._of(step) / 'optimizer').exists()

  def is_import(self, step: int) -> bool:
    """Whether the checkpoint is a model imported at step 0, and not a stage's own training."""
    return step == 0 and not self.has_optimizer(step) and bool(self.lineage(step).get('imported'))

  def restore_params(self, abstract_params: Any, step: int | None = None) -> Any:
    """The parameters of a checkpoint, the newest by default, after its files are checked; then the numbers are checked.

    Args:
      abstract_params: tree of jax.ShapeDtypeStruct; a leaf goes where its sharding says, however it was saved, or to
        the first device of this process where it has none.
      step: one of `steps()`.

    Raises:
      UserError: no checkpoint, damaged, or of another shape; names the folder, the file or leaf, and the way out.
    """
    step = self._step(step)
    self.verify(step)
    params = self._tree(step, 'params', abstract_params)
    self._compare(step, fingerprint.fingerprints(params), self._json(step, _FINGERPRINTS))
    return params

  def restore(self, abstract_params: Any, abstract_optimizer: Any, step: int | None = None) -> tuple[Any, Any]:
    """(params, optimizer) of a checkpoint; as `restore_params`."""
    step = self._step(step)
    params = self.restore_params(abstract_params, step)  # checks all files: an optimizer that was there is there
    if not self.has_optimizer(step):
      raise UserError(f'{self._of(step)}: holds no optimizer state; carry only "params" from it')
    return params, self._tree(step, 'optimizer', abstract_optimizer)

  def leaves(self, step: int | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of the parameters in order of path, each read, and its numbers checked, when it is asked for.

    Raises:
      UserError: at the first leaf that is not as trained; `verify` is for the files they lie in.
    """
    step = self._step(step)
    folder, stored = self._of(step) / 'params', self._json(step, _FINGERPRINTS)
    reader = ocp.PyTreeCheckpointHandler()
    tree = reader.metadata(folder).tree
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
      keys = [key.key for key in path]
      args = ocp.args.PyTreeRestore(
          item=_branch(keys, ocp.PLACEHOLDER), restore_args=_branch(keys, ocp.RestoreArgs(restore_type=np.ndarray)),
          partial_restore=True)
      name, leaf = fingerprint.leaf_path(path), jax.tree.leaves(reader.restore(folder, args=args))[0]
      self._compare(step, fingerprint.fingerprints({name: leaf}), {name: stored.pop(name, None)})
      yield name, leaf
      del leaf
      gc.collect()  # orbax leaves cycles around what it has read, which would stay beside the next
    self._compare(step, {}, stored)  # those that are not there

  def verify(self, step: int):
    """Reads every file of a checkpoint, each process its share; UserError names the first that is not as written."""
    folder = self._of(step)
    try:
      hashes = fingerprint.unseal((folder / _FILES).read_text())
    except (OSError, ValueError) as error:
      raise self._damage(step, f'{_FILES} is missing or has changed') from error
    found = set(fingerprint.files(folder)) - {_FILES}
    for name in sorted(hashes.keys() - found):
      raise self._damage(step, f'{name} is missing')
    for name in sorted(found - hashes.keys()):
      raise self._damage(step, f'{name} is not of this checkpoint')
    names = sorted(hashes)
    share = names[jax.process_index()::jax.process_count()]
    actual = fingerprint.file_hashes(folder, share)
    bad = min((names.index(name) for name in share if actual[name] != hashes[name]), default=len(names))
    if jax.process_count() > 1:  # all processes stop together
      bad = int(np.min(multihost_utils.process_allgather(np.int32(bad))))
    if bad < len(names):
      raise self._damage(step, f'{names[bad]} has changed since it was saved')

  def verify_leaves(self, step: int):
    """Fingerprints the parameters anew, leaf by leaf; UserError names the first that is not as trained."""
    collections.deque(self.leaves(step), maxlen=0)  # reads all and holds none
    if self.lineage(step).get('end_fingerprint') != fingerprint.combine(self._json(step, _FINGERPRINTS)):
      raise self._damage(step, f'end_fingerprint in {_LINEAGE} is not that of the parameters')

  def clear_leftovers(self):
    """Removes what killed saves and removals left in this folder; only for the run that writes here."""
    if jax.process_index() == 0 and self.folder.exists():
      steps = self.steps()
      for entry in self.folder.iterdir():
        unfinished = entry.name.isdecimal() and int(entry.name) not in steps
        if unfinished or re.fullmatch(rf'\d+{re.escape(_LEFTOVER)}.*', entry.name):
          entry.rmtree()
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('checkpoints.clear_leftovers')

  def _of(self, step: int) -> epath.Path:
    return self.folder / str(step)

  def _step(self, step: int | None) -> int:
    if step is None:
      step = self.latest_step()
    if step is None or not self._of(step).exists():
      raise UserError(f'{self.folder}: there is no checkpoint{"" if step is None else f" of step {step}"}')
    return step

  def _json(self, step: int, name: str) -> dict[str, Any]:
    try:
      return json.loads((self._of(step) / name).read_text())
    except (OSError, ValueError) as error:
      raise self._damage(step, f'{name} is missing or has changed') from error

  def _tree(self, step: int, item: str, abstract: Any) -> Any:
    folder = self._of(step) / item
    self._check_shapes(step, item, self._trees.metadata(folder).tree, abstract)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), abstract)
    return self._trees.restore(folder, args=ocp.args.StandardRestore(target))

  def _check_shapes(self, step: int, item: str, saved: Any, wanted: Any):
    saved, wanted = _shapes(saved), _shapes(wanted)
    for path in sorted(saved.keys() | wanted.keys()):
      if saved.get(path) != wanted.get(path):
        sizes = [sum(int(np.prod(shape)) for shape, _ in tree.values()) for tree in (saved, wanted)]
        raise UserError(
            f'{self._of(step)}: {item}/{path} is {_shape_text(saved.get(path))} there and '
            f'{_shape_text(wanted.get(path))} here: a checkpoint of size "{self.lineage(step).get("size")}" '
            f'({sizes[0]:,} numbers in {item}) for a run with {sizes[1]:,}; name its size in --exp, or choose another '
            f'--workdir')

  def _compare(self, step: int, actual: dict[str, str], stored: dict[str, str | None]):
    for path in sorted(stored.keys() | actual.keys()):
      if stored.get(path) != actual.get(path):
        raise self._damage(step, f'params/{path} has fingerprint {actual.get(path)}, saved was {stored.get(path)}')

  def _damage(self, step: int, what: str) -> UserError:
    earlier = max((other for other in self.steps() if other < step), default=None)
    then = 'start the stage anew' if earlier is None else f'go on from step {earlier}'
    return UserError(f'{self._of(step)}: {what}; remove this folder to {then}')

  def _remove_old(self):
    """Removes all but the newest; a removal that is killed halfway leaves no half checkpoint behind."""
    for step in self.steps()[:-self._keep]:
      folder = self._of(step)
      if self._renames:
        leftover = folder.with_name(folder.name + _LEFTOVER)
        if leftover.exists():
          leftover.rmtree()
        folder = folder.rename(leftover)
      else:
        (folder / _FILES).unlink()
      folder.rmtree()

  def _attempt(self, action: Callable[[], None]):
    """Runs a part of a save; what the disk refuses becomes one line."""
    try:
      action()
    except Exception as error:
      reason = _refusal(error)
      if reason is None:
        raise
      step, self._saving = self._saving, None
      if jax.process_index() == 0:
        _remove_soon(self._of(step).with_name(f'{step}{_LEFTOVER}'))
      newest = self.latest_step()
      kept = 'there is no earlier one' if newest is None else f'step {newest} and earlier ones are intact'
      raise UserError(
          f'{self._of(step)}: this checkpoint was not saved: {reason}; {kept}; mend this and run the same command '
          f'again') from error


def _remove_soon(folder: epath.Path):
  """Makes room on a full disk; cannot on one that is read-only, and then the next start clears it.

  Writers of the failed save may still be busy in the folder, and put a file into it while it is being emptied.
  """
  for _ in range(20):
    with contextlib.suppress(OSError):
      folder.rmtree()
    time.sleep(0.05)
    if not folder.exists():
      return


def _handlers(trees: ocp.StandardCheckpointHandler) -> ocp.CheckpointHandlerRegistry:
  registry = ocp.DefaultCheckpointHandlerRegistry()
  for item in ('params', 'optimizer'):
    registry.add(item, ocp.args.StandardSave, trees)
  for file in (_LINEAGE, _FINGERPRINTS):
    item, name = file.split('/')
    registry.add(item, ocp.args.JsonSave, ocp.JsonCheckpointHandler(name))
  return registry


def _sealing(path_class: type, after: Callable[[], None]) -> type:
  """`path_class` of Orbax with a commit of ours; finalize runs on the primary process, in the background."""

  class Sealing(path_class):

    async def finalize(self):
      folder = self.get()
      hashes = fingerprint.file_hashes(folder, fingerprint.files(folder))
      (folder / _FILES).write_text(fingerprint.seal(hashes))
      if folder != self.get_final():
        folder.rename(self.get_final())
      after()

  return Sealing


def _branch(keys: list[str], leaf: Any) -> Any:
  for key in reversed(keys):
    leaf = {key: leaf}
  return leaf


def _shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {fingerprint.leaf_path(path): (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for path, leaf in leaves}


def _shape_text(shape: tuple[tuple[int, ...], str] | None) -> str:
  return 'absent' if shape is None else f'{shape[1]}{list(shape[0])}'


def _refusal(error: BaseException | None) -> str | None:
  """What the operating system said, if it was the disk that refused; TensorStore tells errno only in its text."""
  while error is not None:
    if isinstance(error, OSError) and error.errno:
      return os.strerror(error.errno)
    told = re.search(r"os_error_code='(\d+)'", str(error))
    if told and int(told[1]) in errno.errorcode:
      return os.strerror(int(told[1]))
    error = error.__cause__ or error.__context__
  return None
