"""Google Cloud Storage on this machine: PyPI's gcp-storage-emulator in a thread, which refuses requests when told to.

What the emulator lacks and TensorStore's commits need is added: the generation of a downloaded object, and uploads that are
refused unless the object has the expected generation.
"""

import dataclasses
import functools
import http.server
import json
import pathlib
import re
import shutil
import threading
import urllib.parse
from collections.abc import Callable

from gcp_storage_emulator import exceptions, server
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.storage import Storage

from iquest_jax import bucket, journal


@dataclasses.dataclass
class Fault:
  """Requests to refuse.

  Attributes:
    status: of the answer.
    matches: a regular expression for `METHOD URL BODY`.
    after: how many such requests are served before.
  """

  status: int
  matches: str = ''
  after: int = 0


class Emulator:
  """Serves one bucket, `bucket`, until it is closed.

  Attributes:
    environment: variables of a process that finds it.
    fault: what it refuses; None serves everything.
    refused: how many requests it has refused.
    before: is called with the line of every request.
  """

  def __init__(self):
    self.fault: Fault | None = None
    self.refused, self.before = 0, lambda line: None
    self.storage = Storage(use_memory_fs=True)
    buckets.create_bucket('bucket', self.storage)
    self._lock = threading.Lock()
    handler = functools.partial(_Handler, self)
    self._http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    self._http.daemon_threads = True
    self._http.socket.listen(200)  # clients open a connection per request
    self._http.handle_error = lambda *_: None  # a client that was killed
    url = f'http://127.0.0.1:{self._http.server_port}'
    self.environment = {
        'STORAGE_EMULATOR_HOST': url, 'TENSORSTORE_GCS_HTTP_URL': url, 'NO_GCE_CHECK': 'true', 'FSSPEC_GCS_TOKEN': 'anon',
        'EPATH_USE_TF': '0',
    }  # fmt: skip
    threading.Thread(target=self._http.serve_forever, daemon=True).start()

  def close(self) -> None:
    self._http.shutdown()
    self._http.server_close()

  def generation(self, name: str) -> str:
    """Of an object; '0' if there is none."""
    try:
      return self.storage.get_file_obj('bucket', name)['generation']
    except exceptions.NotFound:
      return '0'

  def serve(self, line: str, answer: Callable[[], None], refuse: Callable[[int], None]) -> None:
    self.before(urllib.parse.unquote(line))
    with self._lock:
      fault = self.fault
      if fault and re.search(fault.matches, line):
        fault.after -= 1
        if fault.after < 0:
          self.refused += 1
          refuse(fault.status)
          return
      wanted = re.search(r'POST .*[?&]ifGenerationMatch=(\d+)', line)
      name = wanted and (re.search(r'[?&]name=([^&\s]+)', line) or re.search(r'"name": "([^"]+)"', line))
      if name and self.generation(urllib.parse.unquote(name[1])) != wanted[1]:
        refuse(412)
        return
      answer()


def upload(folder: pathlib.Path, run: str) -> None:
  """Copies a local folder to a bucket, as `gcloud storage rsync` does."""
  bucket.connect().put(str(folder), run, recursive=True)


def download(run: str, folder: pathlib.Path) -> pathlib.Path:
  """A copy of a run's folder on this disk, with its growing files joined."""
  bucket.connect().get(run, str(folder), recursive=True)
  for path in sorted(folder.rglob('*.jsonl')):
    if path.is_dir():
      content = journal.read(path)
      shutil.rmtree(path)
      path.write_bytes(content)
  return folder


class _Handler(server.RequestHandler):
  def __init__(self, emulator: Emulator, *arguments):
    self._emulator = emulator
    super().__init__(emulator.storage, *arguments)

  def _serve(self, method: str) -> None:
    body = self.rfile.peek(1) if int(self.headers.get('Content-Length') or 0) else b''
    line = f'{method.removeprefix("do_")} {self.path} {body[:400].decode(errors="replace")}'
    self._emulator.serve(line, getattr(super(), method), self._refuse)

  def end_headers(self) -> None:
    if found := re.search(r'/o/([^?]+)\?.*alt=media', self.path):
      self.send_header('x-goog-generation', self._emulator.generation(urllib.parse.unquote(found[1])))
    super().end_headers()

  def _refuse(self, status: int) -> None:
    self.rfile.read(int(self.headers.get('Content-Length') or 0))
    message = {403: 'the caller does not have storage.objects.create access', 404: 'The specified bucket does not exist.'}
    text = json.dumps({'error': {'code': status, 'message': message.get(status, 'rateLimitExceeded')}}).encode()
    self.send_response(status)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Content-Length', str(len(text)))
    self.end_headers()
    self.wfile.write(text)


for _method in ('do_GET', 'do_POST', 'do_PUT', 'do_DELETE', 'do_PATCH'):
  setattr(_Handler, _method, functools.partialmethod(_Handler._serve, _method))
