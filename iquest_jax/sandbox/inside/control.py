"""Messages between a sandbox and the process that started it: length, JSON, and file descriptors if any."""

import array  # noqa: F401  socket.recv_fds imports it: once here, not in every fork of the job server
import json
import socket


def send(sock: socket.socket, message: dict, fds: tuple[int, ...] = ()) -> None:
  """Raises OSError if the other side is gone."""
  data = json.dumps(message).encode()
  header = len(data).to_bytes(8, 'little')
  if fds:
    socket.send_fds(sock, [header], list(fds))
    sock.sendall(data)
  else:
    sock.sendall(header + data)


def receive(sock: socket.socket) -> tuple[dict, list[int]]:
  """Returns the next message and its file descriptors. Raises EOFError if the other side is gone."""
  header, fds, _, _ = socket.recv_fds(sock, 8, 8)
  while len(header) < 8:
    header += _some(sock, 8 - len(header))
  data, size = bytearray(), int.from_bytes(header, 'little')
  while len(data) < size:
    data += _some(sock, min(size - len(data), 1 << 20))
  return json.loads(data), fds


def _some(sock: socket.socket, size: int) -> bytes:
  data = sock.recv(size)
  if not data:
    raise EOFError
  return data
