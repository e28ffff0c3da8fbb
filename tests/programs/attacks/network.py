"""Reaches for the network: outside, the loopback of the machine, and its local sockets."""

import guard

guard.require_sandbox()

import os  # noqa: E402
import socket  # noqa: E402

facts = guard.facts()


def connect(address, kind):
  with socket.socket(socket.AF_INET, kind) as sock:
    sock.settimeout(2)
    sock.connect(address)
    sock.sendall(b'hello')
    return sock.recv(16)


def local(kind, address):
  with socket.socket(socket.AF_UNIX, kind) as sock:
    sock.connect(address)
    sock.send(b'hello')


def by_pair(address):
  """Sends from a socket pair, which needs no call of socket()."""
  ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
  ours.sendto(b'hello', address)


for address in (('192.0.2.1', 80), ('127.0.0.1', facts['tcp'])):
  guard.attempt(f'TCP {address[0]}', connect, address, socket.SOCK_STREAM)
for address in (('192.0.2.1', 53), ('127.0.0.1', facts['udp'])):
  guard.attempt(f'UDP {address[0]}', connect, address, socket.SOCK_DGRAM)
for name, address in (('path', facts['socket']), ('abstract', facts['abstract'])):
  guard.attempt(f'local socket, {name}', local, socket.SOCK_DGRAM, address)
  guard.attempt(f'pair to local socket, {name}', by_pair, address)
guard.attempt('raw socket', socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)
guard.attempt('packet socket', socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
guard.attempt('io_uring', guard.syscall, 425, 4, b'\0' * 128)
for fd in range(3, 20):
  try:
    os.write(fd, b'{"ready": 1}')
    print(f'descriptor {fd}: ESCAPED', flush=True)
  except OSError:
    continue
