"""What a program may use before it is killed."""

import dataclasses

from iquest_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of one step of a job (a compilation or a run), over its whole process tree unless stated otherwise.

  Attributes:
    wall_s: seconds from start to end, waiting included.
    cpu_s: CPU seconds of the tree.
    memory_bytes: resident memory of the tree (shared pages counted once). A watcher samples it every 20 ms and kills
      the tree, so a program can exceed it briefly. Measured with a C program that fills memory as fast as it can, on
      two busy cores: the last sample before the kill was 2 MB to 22 MB above limits of 128 MB and 512 MB.
      Unless `reserves`, one process also cannot map more than twice this plus 64 MB, whatever the watcher does.
    processes: processes and threads alive at once.
    files: files and directories created.
    disk_bytes: bytes of all files together; one file cannot be larger either.
    open_files: open file descriptors of one process.
    output_bytes: bytes of stdout and stderr together; the program is killed at the limit.
    reserves: the runtime reserves address space it never touches (node, Java, Go), so address space is not limited.

  Raises:
    UserError: a limit is not positive.
  """

  wall_s: float = 10.0
  cpu_s: float = 10.0
  memory_bytes: int = 1 << 30
  processes: int = 64
  files: int = 4096
  disk_bytes: int = 256 << 20
  open_files: int = 256
  output_bytes: int = 1 << 20
  reserves: bool = False

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name != 'reserves' and not value > 0:
        raise UserError(f'sandbox: limit {field.name} must be positive, got {value}')


DEFAULT = Limits()
