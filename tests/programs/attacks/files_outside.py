"""Reads and writes files of the machine, directly and through links."""

import guard

guard.require_sandbox()

import os  # noqa: E402

facts = guard.facts()
secret, folder = facts['secret'], facts['folder']


def read(path):
  with open(path) as file:
    return file.read(100)


def write(path):
  with open(path, 'w') as file:
    file.write('x')


def link(make, target, name, action):
  make(target, name)
  return action(name)


guard.attempt('read', read, secret)
guard.attempt('truncate', os.truncate, secret, 0)
guard.attempt('append', lambda: open(secret, 'a'))
guard.attempt('remove', os.remove, secret)
guard.attempt('list', os.listdir, folder)
guard.attempt('create', write, f'{folder}/new')
guard.attempt('make folder', os.mkdir, f'{folder}/new')
guard.attempt('read through a symbolic link', link, os.symlink, secret, 'link', read)
guard.attempt('write through a symbolic link', link, os.symlink, f'{folder}/new', 'link2', write)
guard.attempt('write through a link to the folder', link, os.symlink, folder, 'link3', lambda name: write(f'{name}/new'))
guard.attempt('hard link', os.link, secret, 'link4')
guard.attempt('move in', os.rename, secret, 'moved')
guard.attempt('move out', lambda: (write('own'), os.rename('own', f'{folder}/own')))
guard.attempt('dots', read, os.path.join(*['..'] * 30, secret.lstrip('/')))
guard.attempt('passwords', read, '/etc/shadow')
guard.attempt('users', read, '/etc/passwd')
guard.attempt('root of process 1', os.listdir, '/proc/1/root/home')
guard.attempt('kernel settings', write, '/proc/sys/kernel/hostname')
guard.attempt('disk', lambda: open('/dev/vda', 'rb'))
guard.attempt('device node', os.mknod, 'node', 0o20666, os.makedev(1, 1))
for path in (secret, folder):
  try:
    os.chmod(path, 0o777)  # Reported as done under Landlock, without effect: the test looks.
    os.utime(path, (0, 0))
  except OSError:
    continue
