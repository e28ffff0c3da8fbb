"""Who hashes a save: every process what it wrote, in the background; the first collects the hashes and the times.

What a process wrote lies in folders of its own (OCDBT). What the first process merges from them and adds is small, and it
hashes that last. Nothing here runs on a device: a background thread must not start collectives.
"""

import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Sequence

import jax
import orbax.checkpoint as ocp
from etils import epath

from iquest_jax import hosts
from iquest_jax.checkpoint import seal
from iquest_jax.run_folder import size_and_time

_TEMPORARY = re.compile(rf'{re.escape(ocp.path.atomicity.TMP_DIR_SUFFIX)}[^/]*(?=/)')
_PATIENCE_S = 60  # for a share: it was put before the barrier of Orbax that the first process has passed
_numbers = itertools.count()  # of the saves of this process; all processes start the same ones in the same order


@dataclasses.dataclass
class Share:
  """What one process hashed of a save.

  Attributes:
    hashes: {name of a file: SHA-256}.
    size: bytes of these files.
    copy_s: seconds until the arrays were copied to the host, in which training waits.
    write_s: seconds from then to the last file of this process.
    hash_s: seconds to read the files back and to hash them.
  """

  hashes: dict[str, str]
  size: int
  hash_s: float
  copy_s: float = 0.0
  write_s: float = 0.0


class Handler(ocp.CompositeCheckpointHandler):
  """Orbax's handler of several items; when this process has written its part of a save, it hashes it."""

  async def async_save(self, directory: epath.Path, args: ocp.args.Composite) -> list[ocp.future.Future]:
    began, number = time.monotonic(), next(_numbers)
    futures, copied = await super().async_save(directory, args), time.monotonic()
    self._number = number  # of the save that is collected: one ends before the next begins

    def hash_own():
      written = time.monotonic()
      own = [item / f'ocdbt.process_{jax.process_index()}' for item in directory.iterdir()]
      names = seal.files(directory, [str(part.relative_to(directory)) for part in own if part.exists()])
      share = _hashed(directory, names, copy_s=copied - began, write_s=written - copied)
      # The folders of items still have temporary names.
      final = {_TEMPORARY.sub('', name): value for name, value in share.hashes.items()}
      self._own = dataclasses.replace(share, hashes=final)
      if jax.process_index():
        hosts.put(f'checkpoint/{number}/{jax.process_index()}', dataclasses.asdict(self._own))

    return [_Then(futures or [], hash_own)]

  def collect(self, folder: epath.Path) -> tuple[list[Share], Share]:
    """(the shares of all processes, that of the files which none of them hashed), on the first process."""
    taken = (hosts.take(f'checkpoint/{self._number}/{process}', _PATIENCE_S) for process in range(1, jax.process_count()))
    shares = [self._own, *(Share(**share) for share in taken)]
    hashed = set().union(*(share.hashes for share in shares))
    return shares, _hashed(folder, [name for name in seal.files(folder) if name not in hashed])


@ocp.args.register_with_handler(Handler, for_save=True, for_restore=True)
class Items(ocp.args.Composite):
  """The arguments of `Handler`."""


class _Then(ocp.future.Future):
  """Futures of Orbax, and what is done after them, in the thread that waits for the result."""

  def __init__(self, futures: Sequence[ocp.future.Future], action: Callable[[], None]):
    self._futures, self._action = futures, action

  def result(self, timeout: float | None = None):
    for future in self._futures:
      future.result(timeout)
    self._action()


def _hashed(folder: epath.Path, names: list[str], **times: float) -> Share:
  began = time.monotonic()
  hashes = seal.file_hashes(folder, names)
  size = sum(size_and_time(folder / name)[0] for name in names)
  return Share(hashes, size, time.monotonic() - began, **times)


def describe(of_processes: Sequence[Share], rest: Share, seconds: float) -> str:
  """What a save took, in words: of the slowest process, and then on the first alone (`rest`)."""
  size = sum(share.size for share in (*of_processes, rest))
  names = ('copy_s', 'write_s', 'hash_s')
  copy_s, write_s, hash_s = (max(getattr(share, name) for share in of_processes) for name in names)
  return (
      f'{size / 1e9:.3g} GB in {seconds:.1f} s, {size / 1e9 / seconds:.2g} GB/s: copied to the host in {copy_s:.1f} s, '
      f'written in {write_s:.1f} s, hashed in {hash_s + rest.hash_s:.1f} s by {len(of_processes)} '
      f'process{"es" * (len(of_processes) > 1)}'
  )
