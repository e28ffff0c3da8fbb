"""The socket, and the HTTP server on it until a signal ends it."""

import errno
import logging
import signal
import socket

import uvicorn

from iquest_jax.errors import UserError
from iquest_jax.serve.app import Service
from iquest_jax.serve.decoder import Decoder
from iquest_jax.serve.requests import Served


def bind(host: str, port: int) -> socket.socket:
  """A socket on which `serve` will listen; port 0 stands for any that is free.

  Raises:
    UserError: the port is in use or not allowed, or the host is none of this machine's.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
  except socket.gaierror as error:
    raise UserError(f'--host: {host} is not an address of this machine: {error.strerror}') from None
  except OSError as error:
    if error.errno == errno.EADDRINUSE:
      raise UserError(f'--port: {port} on {host} is in use; choose another') from None
    raise UserError(f'--host, --port: cannot listen on {host}:{port}: {error.strerror}') from None
  return bound


class Server(uvicorn.Server):
  """Answers until SIGINT or SIGTERM; then what was admitted is finished, unless a second signal comes.

  Attributes:
    service: what it answers with.
  """

  def __init__(self, served: Served, decoder: Decoder, most: int):
    """`most` texts may be decoded or wait at a time."""
    self.service, self._decoder = Service(served, decoder, most), decoder
    super().__init__(uvicorn.Config(self.service.app(), log_level='warning', access_log=False, lifespan='off', ws='none'))
    decoder.on_failure = lambda: self.handle_exit(signal.SIGTERM, None)

  def answer(self, bound: socket.socket) -> None:
    """Listens on a socket, to the end.

    Raises:
      Exception: of the engine, if it failed.
    """
    try:
      self.run(sockets=[bound])
    finally:
      self._decoder.close()
    if self._decoder.failure:
      raise self._decoder.failure

  def handle_exit(self, sig, frame):
    """Notes a signal; uvicorn's own method would raise it once more after the end."""
    if self.should_exit:
      # Each answer that is cut off would be logged with a traceback.
      logging.getLogger('uvicorn.error').setLevel(logging.CRITICAL)
      self.force_exit = True
    self.should_exit = True
