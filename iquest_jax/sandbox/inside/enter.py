"""Run as root in front of bubblewrap: gives up the real uid, after making the folders reachable that only root can read.

The folders are bound to /mnt/0, /mnt/1, ... in a mount namespace of this process alone, so nothing is left behind.
Without the privilege to mount, folders below root's home stay out of reach and bubblewrap reports the first one.

  python -I -S enter.py '{"uid": 61200, "folders": ["/root/..."], "argv": ["/usr/bin/bwrap", ...]}'
"""

import ctypes
import json
import os
import sys

if __name__ == '__main__':
  task = json.loads(sys.argv[1])
  libc = ctypes.CDLL(None)
  mount = lambda source, target, kind, flags, options: libc.mount(
      source.encode(), target.encode(), kind, ctypes.c_ulong(flags), options
  )
  if task['folders'] and libc.unshare(0x00020000) == 0:  # CLONE_NEWNS
    mount('none', '/', None, 16384 | 1 << 18, None)  # MS_REC | MS_PRIVATE
    mount('tmpfs', '/mnt', b'tmpfs', 6, b'mode=0755')  # MS_NOSUID | MS_NODEV
    for i, folder in enumerate(task['folders']):
      os.mkdir(f'/mnt/{i}')
      mount(folder, f'/mnt/{i}', None, 4096 | 16384, None)  # MS_BIND | MS_REC
  os.setgroups([])
  os.setresgid(*[task['uid']] * 3)
  os.setresuid(*[task['uid']] * 3)
  os.execv(task['argv'][0], task['argv'])
