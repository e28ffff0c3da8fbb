"""One sandbox with its job server, and the record of what a job did.

  with Runner() as runner:
    done = runner.run([Step(argv=('bash', 'main.sh'), stdin='1 2')], files={'main.sh': 'read a b; echo $((a + b))'})

Guaranteed, on both backends: a job starts from a clean state, sees no network, no file of the user and no process of the
machine, and is gone with all its processes, files and mounts when `run` returns. If the calling process dies in any way,
so does the sandbox. Not guaranteed: a defence against bugs of the kernel, and an exact bound on memory (see Limits).
"""

import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from iquest_jax.errors import UserError
from iquest_jax.sandbox import bubblewrap, landlock, system
from iquest_jax.sandbox.inside import control, processes
from iquest_jax.sandbox.limits import DEFAULT, Limits

_GRACE_S = 5.0  # How long after a job's own limits its server may take to report before the sandbox is ended.
_START_S = 60.0
_MAIN = """import sys
sys.path[0] = sys.argv[1]  # in place of the working folder
from iquest_jax.sandbox.inside import server
server.main(int(sys.argv[2]))
"""
_DEVICES = ['/dev/null', '/dev/zero', '/dev/full', '/dev/random', '/dev/urandom']


@dataclasses.dataclass(frozen=True)
class Step:
  """One command of a job, or one of the Python services in `inside/confine.py`.

  Attributes:
    argv: program and arguments; empty for a service.
    service: its name under 'python', and its fields, in place of `argv`. 'peer' is the index of a pipe among the job's
      descriptors: the step is ended half a second after the last reader of that pipe is gone.
    stdin: text on standard input.
    env: variables added to the environment.
    limits: of this step; `files` and `disk_bytes` are those of the job's last step.
    product: a file that this step executes and an earlier one wrote.
    optional: the job continues if this step fails, unless it was killed for a limit.
  """

  argv: tuple[str, ...] = ()
  service: Mapping[str, object] = dataclasses.field(default_factory=dict)
  stdin: str = ''
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)
  limits: Limits = DEFAULT
  product: str = ''
  optional: bool = False


@dataclasses.dataclass(frozen=True)
class Done:
  """What a step did.

  Attributes:
    exit: exit status, or minus the signal that ended the program.
    limit: the limit it was killed for: wall, cpu, memory, processes, files, disk or output; empty if none.
    stdout: decoded with replacement, cut at `output_bytes`; stderr likewise.
    seconds: from start to end; `cpu_s` over its process tree.
    memory_bytes: peak resident memory as sampled, at least that of its first process.
  """

  exit: int
  limit: str
  stdout: str
  stderr: str
  seconds: float
  cpu_s: float
  memory_bytes: int


def choose(backend: str = '') -> str:
  """Returns 'bubblewrap' or 'landlock', whichever works here, or `backend` if it does.

  Raises:
    UserError: neither works, or not the one asked for.
  """
  reasons = {}
  for name, missing in (('bubblewrap', bubblewrap.missing), ('landlock', landlock.missing)):
    if backend in ('', name):
      reasons[name] = missing()
      if not reasons[name]:
        return name
  if not reasons:
    raise UserError(f'sandbox: backend must be bubblewrap or landlock, got {backend}')
  raise UserError(
      f'sandbox: no isolation available ({"; ".join(f"{name}: {why}" for name, why in reasons.items())}); '
      'install bubblewrap, or use Linux 6.2 or newer with Landlock enabled'
  )


class SandboxDied(Exception):
  """The sandbox ended or did not answer during a job; it must be replaced."""


class Runner:
  """A running sandbox. One job at a time; not for use by several threads at once.

  Args:
    backend: 'bubblewrap' or 'landlock'; empty chooses.
    read_only: further paths that programs may read, at the same place (toolchains).
    packages: folders with Python packages, readable and importable inside.
    hash_seed: PYTHONHASHSEED of all that runs inside, on which the order of sets of strings depends.

  Raises:
    UserError: no isolation is available, or the sandbox does not start.
  """

  def __init__(
      self, backend: str = '', read_only: Sequence[str] = (), packages: Sequence[str] = (), hash_seed: int = 0
  ):
    self.backend = choose(backend)
    self._uid = system.fresh_uid()
    by_landlock = self.backend == 'landlock'
    python, prefix = system.python(everyone=by_landlock and self._uid is not None)
    code = system.code_folder()
    packages = [os.path.realpath(path) for path in packages]
    extra = [os.path.realpath(path) for path in (prefix, *read_only) if not path.startswith('/usr')]
    folders = {path: path for path in [*system.folders(), *extra]}
    self._box = ''
    if by_landlock:
      self._box = tempfile.mkdtemp(prefix='sandbox-')
      os.chmod(self._box, 0o700)
      if self._uid is not None:
        os.chown(self._box, self._uid, self._uid)
    ours, theirs = socket.socketpair()
    info_read, info_write = os.pipe()
    where = os.path.dirname(code) if by_landlock else system.CODE
    # Isolated as by -I, which would ignore the hash seed too; no other variable of Python's is in the environment.
    isolated = ['/usr/bin/env', f'PYTHONHASHSEED={hash_seed}', python, '-s', '-S', '-B']
    argv = [*isolated, '-c', _MAIN, where, str(theirs.fileno())]
    drop = {}
    if by_landlock:
      drop = {} if self._uid is None else {'user': self._uid, 'group': self._uid, 'extra_groups': []}
      folders |= {path: path for path in [*packages, *(f'{code}/{part}' for part in system.PARTS)]}
    else:  # Packages get a place of their own: they may come from below /tmp.
      folders |= {path: f'{system.CODE}/packages/{i}' for i, path in enumerate(packages)}
      argv = bubblewrap.command(self._uid, argv, folders, info_write)
    self._errors = tempfile.TemporaryFile()
    self._process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors, cwd='/', start_new_session=True,
        pass_fds=(theirs.fileno(), info_write), env=system.environment(self.backend), **drop,
    )  # fmt: skip
    theirs.close()
    os.close(info_write)
    self._socket, self._first = ours, 0
    with os.fdopen(info_read) as info, contextlib.suppress(ValueError):
      if not by_landlock:
        self._first = json.load(info)['child-pid']
    readable = ['/proc/meminfo', '/proc/cpuinfo', '/proc/stat', '/sys/devices/system/cpu', *folders]
    settings = {
        'kind': self.backend, 'box': self._box or '/tmp/box', 'read': readable, 'devices': _DEVICES,
        'packages': [folders[path] for path in packages], 'abi': landlock.abi(),
    }  # fmt: skip
    try:
      self._send(settings)
      self._receive(_START_S)  # {'gone': 1}: no job is running yet.
    except SandboxDied:
      why = self._last_words()
      self.close()
      raise UserError(f'sandbox: {self.backend} does not start ({why}); see the doctor for what is missing') from None

  def run(self, steps: Sequence[Step], files: Mapping[str, str | bytes] | None = None) -> list[Done]:
    """Runs a job and returns its records: `start`, then `finish`."""
    self.start(steps, files)
    return self.finish()

  def start(
      self, steps: Sequence[Step], files: Mapping[str, str | bytes] | None = None, fds: Sequence[int] = ()
  ) -> None:
    """Starts a job: its steps run in one fresh folder, in order, stopping after one that fails and is not optional.

    Args:
      files: contents by relative path, written to the folder before the first step.
      fds: file descriptors the steps get as 3, 4, ...; the caller's copies stay open.

    Raises:
      UserError: a path leaves the folder.
      SandboxDied: the sandbox ended; close it and start another.
    """
    contents = {}
    for name, content in (files or {}).items():
      if name.startswith('/') or '..' in pathlib.PurePosixPath(name).parts or not name:
        raise UserError(f'sandbox: file names must be relative and stay in the folder, got {name!r}')
      contents[name] = content if isinstance(content, str) else {'base64': base64.b64encode(content).decode()}
    job = {'files': contents, 'steps': []}
    for step in steps:
      fields = {name: getattr(step, name) for name in ('argv', 'stdin', 'product', 'optional')}
      job['steps'].append({**step.service, **fields, 'env': dict(step.env), 'limits': dataclasses.asdict(step.limits)})
    self._patience = sum(step.limits.wall_s for step in steps) + _GRACE_S
    self._send(job, fds)

  def finish(self) -> list[Done]:
    """Waits for the job and returns one record per step that ran.

    Raises:
      UserError: a program does not exist.
      SandboxDied: the sandbox ended; close it and start another.
      RuntimeError: the job could not be set up, so nothing of it ran.
    """
    reply = self._receive(self._patience)
    self._receive(_GRACE_S)  # {'gone': 1}
    error = reply.get('error') or next((step['error'] for step in reply['steps'] if step['error']), '')
    if error:
      if 'no such program' in error.splitlines()[-1]:
        name = error.rpartition(': ')[2]
        raise UserError(f'sandbox: no such program: {name}; install it, or pass its folder as read_only')
      raise RuntimeError(f'sandbox: {self.backend} could not confine a job: {error}')
    return [
        Done(
            os.waitstatus_to_exitcode(step['status']), step['limit'], step['stdout'], step['stderr'], step['seconds'],
            step['cpu_s'], step['memory'],
        )
        for step in reply['steps']
    ]  # fmt: skip

  def _send(self, message: dict, fds: Sequence[int] = ()) -> None:
    try:
      self._socket.settimeout(_GRACE_S)
      control.send(self._socket, message, tuple(fds))
    except OSError as error:
      self._kill()
      raise SandboxDied(f'{type(error).__name__}: {error}') from None

  def _receive(self, seconds: float) -> dict:
    try:
      self._socket.settimeout(seconds)
      return control.receive(self._socket)[0]
    except (OSError, EOFError, ValueError) as error:
      self._kill()
      raise SandboxDied(f'{type(error).__name__}: {error}') from None

  def _last_words(self) -> str:
    self._errors.seek(0)
    return ' '.join(self._errors.read().decode(errors='replace').split())[-300:] or 'it says nothing'

  def _kill(self) -> None:
    """Ends the sandbox at once, whatever state it is in."""
    if self.backend == 'landlock':
      processes.kill_descendants(self._process.pid)
    elif self._first and self._process.poll() is None:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._first, signal.SIGKILL)
    self._process.kill()
    self._process.wait()

  def close(self) -> None:
    """Ends the sandbox and everything in it."""
    self._socket.close()
    try:
      self._process.wait(timeout=5)
    except subprocess.TimeoutExpired:
      self._kill()
    self._errors.close()
    if self._box:
      shutil.rmtree(self._box, ignore_errors=True)

  def __enter__(self) -> 'Runner':
    return self

  def __exit__(self, *_) -> None:
    self.close()
