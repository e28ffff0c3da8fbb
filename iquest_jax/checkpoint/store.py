"""Checkpoints of a stage: written while training continues, committed atomically, verified before they are used.

  <step>/params/                           parameters (Orbax, OCDBT)
  <step>/optimizer/                        whatever else training needs to resume; not in an imported model
  <step>/lineage/lineage.json              where the parameters come from (lineage.py)
  <step>/integrity/fingerprints.json       one fingerprint per leaf of both (fingerprint.py)
  <step>/integrity/files.json              SHA-256 of every other file, written last (seal.py)

A folder with a number for its name is a committed checkpoint; everything unfinished has a temporary name.
"""

import collections
import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import math
import os
import re
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from iquest_jax import bucket, hosts
from iquest_jax.checkpoint import fingerprint, seal, shares, stream
from iquest_jax.errors import UserError
from iquest_jax.run_folder import StageFolder

_LINEAGE = 'lineage/lineage.json'
_FINGERPRINTS = 'integrity/fingerprints.json'
_SEAL = 'integrity/files.json'
_ITEMS = ('params', 'optimizer')
_LEFTOVER = ocp.path.atomicity.TMP_DIR_SUFFIX
_SAVE_TIMEOUT_S = 2 * 60 * 60  # until all processes have written and hashed their parts


@dataclasses.dataclass
class _Save:
  """A save in progress; `cost` says what it took."""

  step: int
  handler: shares.Handler
  lineage: dict[str, Any]
  fingerprints: Callable[[], dict[str, dict[str, str]]]
  began: float = dataclasses.field(default_factory=time.monotonic)
  cost: str = ''


class Damaged(UserError):
  """A checkpoint that is not as it was saved.

  Attributes:
    checkpoints, step: which one.
  """

  def __init__(self, checkpoints: 'Checkpoints', step: int, what: str):
    earlier = max((other for other in checkpoints.steps() if other < step), default=None)
    then = 'start the stage again' if earlier is None else f'resume from step {earlier}'
    super().__init__(f'{checkpoints.folder / str(step)}: {what}; remove this folder to {then}')
    self.checkpoints, self.step, self.what = checkpoints, step, what


class Checkpoints:
  """The checkpoints of one stage; every process of a run creates its own and calls the same methods in the same order.

  Attributes:
    check: is called right before a commit, on the first process; if it raises, nothing is committed.
  """

  def __init__(self, stage: StageFolder, keep: int = 2, milestones: Sequence[int] = ()):
    """Changes nothing on disk. Once a checkpoint is committed, all are removed but the newest `keep` and the milestones."""
    if keep < 1:
      raise UserError(f'config: checkpoint.keep must be at least 1, got {keep}')
    self.stage, self.folder, self._keep, self._milestones = stage, epath.Path(stage.checkpoints), keep, milestones
    path_class = ocp.path.atomicity_defaults.get_default_temporary_path_class(self.folder)
    self._renames = issubclass(path_class, ocp.path.atomicity.AtomicRenameTemporaryPath)
    self._trees = ocp.StandardCheckpointHandler()
    self._sealing = seal.sealing(path_class, _SEAL, self._complete, then=self._committed)
    self._saver = self._new_saver(params=self._trees, optimizer=self._trees)
    self._saving = None  # the save in progress
    self.check: Callable[[], None] = lambda: None

  def _new_saver(self, **handlers: ocp.CheckpointHandler) -> ocp.AsyncCheckpointer:
    # Folders are created before `save` returns: if one is refused later, the writers wait for it for minutes.
    options = ocp.AsyncOptions(timeout_secs=_SAVE_TIMEOUT_S, create_directories_asynchronously=False)
    composite = ocp.CompositeOptions(async_options=options)
    return ocp.AsyncCheckpointer(
        shares.Handler(composite_options=composite, **handlers),
        async_options=options,
        # Orbax would write the commit time into a file that is already hashed.
        checkpoint_metadata_store=ocp.metadata.metadata_store(enable_write=False),
        temporary_path_class=self._sealing,
    )

  def steps(self) -> list[int]:
    """Steps with a committed checkpoint, ascending."""
    if not self.folder.exists():
      return []
    steps = [int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal()]
    # A renamed folder without its seal is damaged and must be reported; one written in place is not committed yet.
    return sorted(step for step in steps if self._renames or (self._of(step) / _SEAL).exists())

  def latest_step(self) -> int | None:
    """Newest committed step; None if no step is committed."""
    return max(self.steps(), default=None)

  def lineage(self, step: int | None = None) -> dict[str, Any]:
    """The lineage stored in a checkpoint, the newest by default."""
    return self._json(self._step(step), _LINEAGE)

  def has_optimizer(self, step: int) -> bool:
    """Whether the checkpoint was saved with an optimizer state (an imported model was not)."""
    return 'optimizer' in self._json(step, _FINGERPRINTS)

  def seal_hash(self, step: int) -> str:
    """SHA-256 of what identifies every file of a checkpoint; '' if this host does not see it."""
    try:
      return hashlib.sha256((self._of(step) / _SEAL).read_bytes()).hexdigest()
    except OSError:
      return ''

  def is_import(self, step: int) -> bool:
    """Whether the checkpoint is a model imported at step 0, rather than the stage's own training."""
    return step == 0 and not self.has_optimizer(step) and bool(self.lineage(step).get('imported'))

  # ---------------------------------------------------------------- Save

  def save(self, step: int, params: Any, optimizer: Any | None, lineage: dict[str, Any]):
    """Starts a save and returns when the arrays are copied to the host; from then on they may be donated.

    Waits for the previous save first. Adds `end_fingerprint`, that of the params, to the lineage.

    Args:
      step: optimizer steps done.
      params: tree of arrays, sharded in any way.
      optimizer: tree of whatever else training needs to resume; None for parameters alone (an imported model).
      lineage: see lineage.py.

    Raises:
      UserError: the disk refused this save or the previous one (full, read-only, no permission), or the step exists.
    """
    trees = {'params': params} | ({} if optimizer is None else {'optimizer': optimizer})
    leaves = {item: fingerprint.fingerprints(tree) for item, tree in trees.items()}
    layouts = {'params': stream.layout(params)}
    items = {item: ocp.args.StandardSave(tree, save_args=layouts.get(item)) for item, tree in trees.items()}
    self._start(self._saver, step, items, lineage, lambda: leaves)

  def save_streamed(self, step: int, sources: Any, lineage: dict[str, Any]):
    """Saves parameters alone, which are read while they are written; returns when the checkpoint is committed.

    Args:
      sources: tree of stream.Source.

    Raises:
      UserError: as `save`, and whatever the sources raise; then nothing is committed.
    """
    saver = self._new_saver(params=stream.handler())
    items = {'params': ocp.args.PyTreeSave(sources, save_args=stream.layout(sources))}
    with contextlib.closing(saver):
      self._start(saver, step, items, lineage, lambda: {'params': {
          fingerprint.leaf_path(path): source.fingerprint
          for path, source in jax.tree_util.tree_leaves_with_path(sources)
      }})  # fmt: skip
      self._attempt(saver.wait_until_finished)
    self._saving = None

  def _start(self, saver, step, items, lineage, fingerprints: Callable[[], dict[str, dict[str, str]]]):
    """Starts a save; `fingerprints` of its items are asked for when these are written."""
    self.wait()
    if step in self.steps():
      raise UserError(f'{self._of(step)}: exists already; remove it, or choose another --workdir')
    self._saving = _Save(step, saver.handler, lineage, fingerprints)
    self._attempt(lambda: saver.save(self._of(step), args=shares.Items(**items)))

  def _complete(self, folder: epath.Path) -> dict[str, str]:
    """Writes lineage and fingerprints into a folder that is about to be sealed; returns the hashes of all its files."""
    leaves = self._saving.fingerprints()
    lineage = self._saving.lineage | {'end_fingerprint': fingerprint.combine(leaves['params'])}
    for name, record in {_LINEAGE: lineage, _FINGERPRINTS: leaves}.items():
      (folder / name).parent.mkdir(exist_ok=True)
      (folder / name).write_text(json.dumps(record))
    of_processes, rest = self._saving.handler.collect(folder)
    self._saving.cost = shares.describe(of_processes, rest, time.monotonic() - self._saving.began)
    self.check()
    return {name: value for share in (*of_processes, rest) for name, value in share.hashes.items()}

  def _committed(self):
    logging.info('%s: checkpoint %d saved: %s', self.stage.name, self._saving.step, self._saving.cost)
    self._remove_old()

  def wait(self):
    """Returns when the save in progress is committed; raises its UserError if it failed."""
    self._attempt(self._saver.wait_until_finished)
    self._saving = None

  def close(self):
    """Waits, and ends the threads of this object."""
    self.wait()
    self._saver.close()

  def clear_leftovers(self):
    """Removes what killed saves and removals left behind; only for the run that writes to this folder."""
    if jax.process_index() == 0 and self.folder.exists():
      steps = self.steps()
      for entry in self.folder.iterdir():
        unfinished = entry.name.isdecimal() and int(entry.name) not in steps
        if unfinished or re.fullmatch(rf'\d+{re.escape(_LEFTOVER)}.*', entry.name):
          self._clear(entry)
    hosts.barrier('leftovers removed')

  def _clear(self, leftover: epath.Path):
    try:
      leftover.rmtree()
    except OSError as error:
      if not self._renames:  # its objects would be found in the checkpoint that is next written there
        raise
      logging.warning('%s is not removed: %s', leftover, error.strerror or error)

  def set_aside(self, step: int) -> epath.Path:
    """Renames a checkpoint to a name that is never read and never removed; returns it. All processes call it.

    In a bucket, which has no folders, its objects are copied and then removed; a kill meanwhile leaves a part of the copy.
    """
    name, number = f'{step}.damaged', 1
    if jax.process_index() == 0:
      while (self.folder / name).exists():
        number += 1
        name = f'{step}.damaged-{number}'
      if self._renames:
        self._of(step).rename(self.folder / name)
      else:
        bucket.copy(self._of(step), self.folder / name)
        self._remove(step)
    return self.folder / hosts.from_first('checkpoint set aside', name)

  # ---------------------------------------------------------------- Verify and restore

  def verify(self, step: int, items: Sequence[str] | None = None):
    """Reads the files of a checkpoint, each process its share; UserError names the first that is not as written.

    Args:
      items: 'params' or 'optimizer', whose files are read beside the records; all files by default.
    """
    if damage := seal.damage(self._of(step), _SEAL, ('',) if items is None else (*items, 'lineage', 'integrity')):
      raise Damaged(self, step, damage)

  def verify_leaves(self, step: int):
    """Computes the fingerprint of every leaf again; UserError names the first that is not as trained."""
    for item in filter(lambda item: (self._of(step) / item).exists(), _ITEMS):
      collections.deque(self._pieces(step, item), maxlen=0)  # reads all and holds none
    if self.lineage(step).get('end_fingerprint') != fingerprint.combine(self._stored(step, 'params')):
      raise Damaged(self, step, f'end_fingerprint in {_LINEAGE} is not that of the parameters')

  def restore_params(self, abstract_params: Any, step: int | None = None) -> Any:
    """The parameters of a checkpoint, the newest by default; what is read is verified, and nothing else is read.

    Files are verified before, and fingerprints after, reading.

    Args:
      abstract_params: tree of jax.ShapeDtypeStruct; a leaf is placed by its sharding, however it was saved, or on the
        first device of this process where it has none.

    Raises:
      UserError: no checkpoint, a damaged one, or one of other shapes; names the folder, the file or leaf, and the fix.
    """
    step = self._step(step)
    self.verify(step, ['params'])
    return self._tree(step, 'params', abstract_params)

  def restore(self, abstract_params: Any, abstract_optimizer: Any, step: int | None = None) -> tuple[Any, Any]:
    """(params, optimizer) of a checkpoint; as `restore_params`."""
    step = self._step(step)
    self.verify(step)
    if not self.has_optimizer(step):
      raise UserError(f'{self._of(step)}: holds no optimizer state; carry only "params" from it')
    return self._tree(step, 'params', abstract_params), self._tree(step, 'optimizer', abstract_optimizer)

  def pieces(
      self,
      step: int | None = None,
      axes: Mapping[str, int] = types.MappingProxyType({}),
      readers: Callable[[str, int, int], Sequence[int]] | None = None,
  ) -> Iterator[tuple[str, int, np.ndarray]]:
    """(path, start, piece) of every parameter, in order of path: its elements from `start` along an axis.

    A piece must not be changed; the fingerprint of a leaf is compared after its last piece or, with `readers`, after the
    last piece of all. Memory: this piece and the next, each of stream.PIECE_BYTES or, if that is larger, of one layer.

    Args:
      axes: {path: axis along which it is cut}; 0 by default.
      readers: (path, start, stop) of a piece to the processes that read it; by default each reads everything.

    Raises:
      UserError: after the first leaf that is not as trained; `verify` checks the files.
    """
    return self._pieces(self._step(step), 'params', axes, readers)

  def _pieces(self, step: int, item: str, axes: Mapping[str, int] = types.MappingProxyType({}), readers=None):
    folder, stored, sums = self._of(step) / item, self._stored(step, item), {}
    for keys, _ in jax.tree_util.tree_leaves_with_path(self._trees.metadata(folder).tree):
      path = fingerprint.leaf_path(keys)
      whose = functools.partial(readers, path) if readers else lambda start, stop: (jax.process_index(),)
      sums[path] = yield from stream.pieces(folder, path, axes.get(path, 0), whose)
      if not readers:
        self._compare(step, item, {path: fingerprint.of_sums([sums[path]])}, {path: stored.get(path)})
    if readers:
      self._compare(step, item, dict(zip(sums, stream.over_processes(list(sums.values())), strict=True)), stored)
    self._compare(step, item, {}, {path: stored[path] for path in stored.keys() - sums.keys()})  # without a leaf

  def _of(self, step: int) -> epath.Path:
    return self.folder / str(step)

  def _step(self, step: int | None) -> int:
    if step is None:
      step = self.latest_step()
    if step is None or not self._of(step).exists():
      of_step = '' if step is None else f' of step {step}'
      raise UserError(f'{self.folder}: no checkpoint{of_step}; train the stage first')
    return step

  def _json(self, step: int, name: str) -> dict[str, Any]:
    try:
      return json.loads((self._of(step) / name).read_text())
    # Other errors, such as a bucket that cannot be reached, may go away and do not mean damage.
    except (*seal.ABSENT, ValueError) as error:
      raise Damaged(self, step, f'{name} is missing or has changed') from error

  def _tree(self, step: int, item: str, abstract: Any) -> Any:
    folder = self._of(step) / item
    self._check_shapes(step, item, self._trees.metadata(folder).tree, abstract)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda leaf: leaf if leaf.sharding else leaf.update(sharding=here), abstract)
    tree = self._trees.restore(folder, args=ocp.args.StandardRestore(target))
    self._compare(step, item, fingerprint.fingerprints(tree), self._stored(step, item))
    return tree

  def _check_shapes(self, step: int, item: str, saved: Any, wanted: Any):
    sizes = [sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for tree in (saved, wanted)]
    saved, wanted = _shapes(saved), _shapes(wanted)
    for path in sorted(saved.keys() | wanted.keys()):
      if saved.get(path) != wanted.get(path):
        raise UserError(
            f'{self._of(step)}: {item}/{path} is {saved.get(path, "absent")} in the checkpoint and '
            f'{wanted.get(path, "absent")} in this run; the checkpoint has size "{self.lineage(step).get("size")}" '
            f'({sizes[0]:,} elements in {item}, this run has {sizes[1]:,}); name its size in --exp, or choose another '
            '--workdir'
        )

  def _stored(self, step: int, item: str) -> dict[str, str]:
    """The fingerprints that the leaves of an item were saved with."""
    return self._json(step, _FINGERPRINTS).get(item, {})

  def _compare(self, step: int, item: str, actual: dict[str, str], stored: dict[str, str | None]):
    for path in sorted(stored.keys() | actual.keys()):
      if stored.get(path) != actual.get(path):
        what = f'{item}/{path} has fingerprint {actual.get(path)}, but was saved with {stored.get(path)}'
        raise Damaged(self, step, what)

  def _remove_old(self):
    """Removes all but the newest. Runs after the commit and is not part of it: what it leaves, a later save removes."""
    try:
      for step in set(self.steps()[: -self._keep]) - set(self._milestones):
        self._remove(step)
    except Exception as error:  # the new one is whole; such as ENOTEMPTY, where NFS keeps a file that is open somewhere
      logging.warning('%s: an old checkpoint is not removed: %s', self.folder, getattr(error, 'strerror', '') or error)

  def _remove(self, step: int):
    """Removes a checkpoint; a removal that is killed leaves no partial one behind."""
    folder = self._of(step)
    if self._renames:
      leftover = folder.with_name(folder.name + _LEFTOVER)
      if leftover.exists():
        leftover.rmtree()
      folder = folder.rename(leftover)
    else:
      (folder / _SEAL).unlink()
    folder.rmtree()

  def _attempt(self, action: Callable[[], None]):
    """Runs a part of a save; reports a refusal by the disk in one line."""
    try:
      action()
    except Exception as error:
      reason = _disk_error(error)
      if reason is None:
        raise
      step, self._saving = self._saving.step, None
      if not self._renames:  # a bucket, which may refuse whatever else is asked; the next start clears up
        kept = 'earlier ones are intact'
      else:
        if jax.process_index() == 0:
          _remove_soon(self._of(step).with_name(f'{step}{_LEFTOVER}'))
        newest = self.latest_step()
        kept = 'no earlier one exists' if newest is None else f'step {newest} and earlier ones are intact'
      raise UserError(
          f'{self._of(step)}: this checkpoint was not saved: {reason}; {kept}; fix this, then rerun the same command'
      ) from error


def _remove_soon(folder: epath.Path):
  """Frees the space of a failed save; on a read-only disk it cannot, and the next start removes the folder.

  Repeats, because writers of the failed save may still put files into the folder while it is being emptied.
  """
  for _ in range(20):
    with contextlib.suppress(OSError):
      folder.rmtree()
    time.sleep(0.05)
    if not folder.exists():
      return


def _shapes(tree: Any) -> dict[str, str]:
  """{'layers/attention/query': 'float32[4, 128, 4, 32]', ...}."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {fingerprint.leaf_path(path): f'{np.dtype(leaf.dtype)}{list(leaf.shape)}' for path, leaf in leaves}


def _disk_error(error: BaseException | None) -> str | None:
  """The words of the disk or bucket that refused, else None; TensorStore has the errno only in its text."""
  while error is not None:
    if isinstance(error, OSError) and error.errno:
      return error.strerror
    if reason := bucket.refusal(error):
      return reason
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code and int(code[1]) in errno.errorcode:
      return os.strerror(int(code[1]))
    error = error.__cause__ or error.__context__
  return None
