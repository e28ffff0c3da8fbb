"""The sandbox as a user without privileges starts it, on each backend this machine has, and what it must leave alone."""

import json
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading

import pytest

from iquest_jax.errors import UserError
from iquest_jax.sandbox import runner, system

ROOT = pathlib.Path(__file__).parents[2]
ATTACKS = ROOT / 'tests/programs/attacks'
MB = 1 << 20
# Wide enough for a busy machine; a test that wants a limit to be hit sets that one.
LIMITS = dict(wall_s=30.0, cpu_s=20.0, memory_bytes=256 * MB, processes=48, disk_bytes=16 * MB, files=400)


class Driver:
  """A process of an unprivileged user that starts sandboxes (tests/programs/sandbox_driver.py), and its surroundings.

  Attributes:
    facts: what attacks aim at outside: a secret, a writable folder, ports, sockets, process ids, all of the same user.
    received: what arrived at those ports and sockets.
  """

  def __init__(self, backend: str, *options: str):
    self.backend, self.received = backend, []
    as_root = os.geteuid() == 0
    self.uid = random.SystemRandom().choice(range(50000, 60000)) if as_root else os.getuid()
    drop = {'user': self.uid, 'group': self.uid, 'extra_groups': []} if as_root else {}
    self._own = lambda path: os.chown(path, self.uid, self.uid) if as_root else None
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix='driver-'))
    outside = self.folder / 'outside'
    outside.mkdir()
    secret = outside / 'secret'
    secret.write_text('the secret of the file')
    for path in (self.folder, outside, secret):
      self._own(path)
    self._sockets = [socket.create_server(('127.0.0.1', 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    self._sockets += [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    self._sockets[1].bind(('127.0.0.1', 0))
    self._sockets[2].bind(str(outside / 'socket'))
    os.chmod(outside / 'socket', 0o777)
    abstract = '\0' + self.folder.name
    self._sockets[3].bind(abstract)
    for sock in self._sockets:
      threading.Thread(target=self._listen, args=(sock,), daemon=True).start()
    self._victim = subprocess.Popen(['sleep', '600'], start_new_session=True, **drop)
    python = system.python(everyone=as_root)[0]
    env = {'PYTHONPATH': str(ROOT), 'PATH': os.environ['PATH'], 'TMPDIR': str(self.folder)}
    env['API_KEY'] = 'secret-of-the-environment'
    self._process = subprocess.Popen(
        [python, '-B', str(ROOT / 'tests/programs/sandbox_driver.py'), backend, *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd='/', start_new_session=True, **drop,
    )  # fmt: skip
    assert json.loads(self._process.stdout.readline())['uid'] == self.uid
    self.facts = {
        'secret': str(secret), 'folder': str(outside), 'tcp': self._sockets[0].getsockname()[1],
        'udp': self._sockets[1].getsockname()[1], 'socket': str(outside / 'socket'),
        'abstract': abstract, 'victim': self._victim.pid, 'driver': self._process.pid,
    }  # fmt: skip
    self.grade_calls('f = abs', [('f', [-1], 1)])  # Starts both sandboxes, so that their processes are known.
    self._before = self._state()

  def _listen(self, sock: socket.socket) -> None:
    while True:
      try:
        self.received.append(sock.accept() if sock.type == socket.SOCK_STREAM else sock.recv(100))
      except OSError:
        return

  def _ask(self, do: str, limits: dict, **fields):
    self._process.stdin.write(json.dumps({'do': do, 'limits': {**LIMITS, **limits}, **fields}) + '\n')
    self._process.stdin.flush()
    reply = json.loads(self._process.stdout.readline())
    if 'error' in reply:
      raise {'UserError': UserError}.get(reply['error'], RuntimeError)(reply['text'])
    return reply['reply']

  def support(self) -> dict[str, str]:
    """The files beside an attack program: its guard, and what it is to aim at."""
    return {'guard.py': (ATTACKS / 'guard.py').read_text(), 'facts.json': json.dumps(self.facts)}

  def run(self, attack: str, **limits) -> runner.Done:
    """Runs an attack program as a user's program."""
    files = {'main.py': (ATTACKS / f'{attack}.py').read_text(), **self.support()}
    return runner.Done(**self._ask('run', limits, files=files))

  def grade_calls(self, source: str, calls, limits=(), **arguments) -> dict:
    return self._ask('grade_calls', dict(limits), arguments=dict(source=source, calls=calls, **arguments))

  def grade_script(self, source: str, script: str, limits=(), **arguments) -> dict:
    return self._ask('grade_script', dict(limits), arguments=dict(source=source, script=script, **arguments))

  def grade_output(self, language: str, source: str, cases, limits=(), **arguments) -> dict:
    arguments |= dict(language=language, source=source, cases=cases)
    return self._ask('grade_output', dict(limits), arguments=arguments)

  def _state(self) -> dict:
    """Processes of this user, files below the driver's folder, mounts where a sandbox has its own."""
    processes = set()
    for name in filter(str.isdigit, os.listdir('/proc')):
      try:
        if os.stat(f'/proc/{name}').st_uid == self.uid or self._below(int(name)):
          processes.add(int(name))
      except OSError:
        continue
    files = {}
    for path in sorted(self.folder.rglob('*')):
      status = path.lstat()
      text = path.read_text() if path.is_file() else ''
      files[str(path)] = (status.st_mode, status.st_uid, 0 if path.is_dir() else status.st_mtime_ns, text)
    boxes = f'{tempfile.gettempdir()}/sandbox-.*'
    places = re.compile(f'/tmp|/dev/shm|/proc|/mnt(/[0-9]+)?|/opt/sandbox.*|{boxes}|{self.folder}.*')
    lines = pathlib.Path('/proc/self/mounts').read_text().splitlines()
    mounts = [line for line in lines if places.fullmatch(line.split()[1])]
    return {'processes': processes, 'files': files, 'mounts': mounts}

  def _below(self, pid: int) -> bool:
    while pid > 1:
      if pid == self._process.pid:
        return True
      with open(f'/proc/{pid}/stat') as file:
        pid = int(file.read().rpartition(')')[2].split()[1])
    return False

  def assert_nothing_left(self) -> None:
    """Fails if a process appeared, a file or mount changed, or anything arrived at a port or socket.

    Every sandbox that is running was started before the first test: one that had to be replaced shows as a process.
    """
    after = self._state()
    assert after['processes'] <= self._before['processes']
    assert after['files'] == self._before['files'] and after['mounts'] == self._before['mounts']
    assert self._victim.poll() is None and self._process.poll() is None and not self.received

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait(timeout=30)
    self._victim.kill()
    self._victim.wait()
    for sock in self._sockets:
      sock.close()
    shutil.rmtree(self.folder)


def backends() -> list[str]:
  """The backends that work here."""
  found = []
  for name in ('bubblewrap', 'landlock'):
    try:
      found.append(runner.choose(name))
    except UserError:
      continue
  return found


@pytest.fixture(scope='session', params=['bubblewrap', 'landlock'])
def shared_driver(request):
  try:
    runner.choose(request.param)
  except UserError as error:
    pytest.skip(str(error))
  driver = Driver(request.param)
  yield driver
  driver.close()


@pytest.fixture
def driver(shared_driver):
  """A driver, checked after each test: nothing of the test is left behind and nothing outside is changed."""
  yield shared_driver
  shared_driver.assert_nothing_left()
