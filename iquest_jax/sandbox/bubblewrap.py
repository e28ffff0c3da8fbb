"""Isolation by bubblewrap: namespaces of its own for users, processes, mounts, network, ipc, host name and cgroups.

The program sees a read-only system, no network but an empty loopback, no process of the machine and one writable tmpfs
capped in bytes and inodes. Further user namespaces are disabled, and started as root the real uid is given up first,
since limits on processes do not bind root.

`--die-with-parent` is not used: it follows the thread that started the sandbox, and a pool outlives its threads. The job
server instead exits when its control socket closes, and its exit ends the pid namespace.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from iquest_jax.sandbox import system
from iquest_jax.sandbox.inside import enter, seccomp

_SPACES = ['--unshare-all', '--unshare-user', '--disable-userns', '--new-session', '--hostname', 'sandbox', '--clearenv']
_INSIDE_UID = 1000


def command(uid: int | None, argv: Sequence[str], folders: Mapping[str, str], info_fd: int = -1) -> list[str]:
  """Returns the command that runs `argv` in a new sandbox.

  Args:
    uid: the real uid to run under, where this process is root; None keeps the caller's.
    folders: existing paths that are readable inside, each with its place there; links stay links.
    info_fd: where bubblewrap writes {"child-pid": the sandbox's first process}, if not negative.
  """
  folders = {**folders, **{f'{system.code_folder()}/{part}': f'{system.CODE}/iquest_jax/{part}' for part in system.PARTS}}
  hidden = [path for path in folders if uid is not None and os.path.isdir(path) and not system.reachable(path)]
  bwrap = [shutil.which('bwrap'), *_SPACES, '--uid', str(_INSIDE_UID), '--gid', str(_INSIDE_UID)]
  bwrap += ['--cap-add', 'CAP_SYS_ADMIN']  # Of its own user namespace: the job server mounts, the jobs have none.
  if info_fd >= 0:
    bwrap += ['--info-fd', str(info_fd)]
  for path, target in folders.items():
    if os.path.islink(path):
      bwrap += ['--symlink', os.readlink(path), target]
    else:
      bwrap += ['--ro-bind', f'/mnt/{hidden.index(path)}' if path in hidden else path, target]
  bwrap += ['--proc', '/proc', '--dev', '/dev', '--tmpfs', '/tmp', '--remount-ro', '/dev', '--remount-ro', '/']
  for name, value in system.environment('bubblewrap').items():
    bwrap += ['--setenv', name, value]
  bwrap += ['--chdir', '/', '--', *argv]
  if uid is None:
    return bwrap
  task = json.dumps({'uid': uid, 'folders': hidden, 'argv': bwrap})
  return [sys.executable, '-I', '-S', enter.__file__, task]


@functools.cache
def missing() -> str:
  """Says why this backend cannot be used here; empty if it can. Starts one empty sandbox to find out."""
  if not seccomp.supported():
    return 'the system-call filter needs Linux on x86-64'
  if not shutil.which('bwrap'):
    return 'bwrap is not installed (Debian, Ubuntu: apt-get install bubblewrap)'
  probe = command(system.fresh_uid(), ['/bin/true'], {path: path for path in system.folders()})
  done = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace')
  return '' if done.returncode == 0 else f'bwrap fails: {done.stderr.strip()[-200:]}'
