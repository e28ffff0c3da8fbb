"""An OpenAI-compatible server for tests: answers by a function, after failures that a list gives."""

import contextlib
import http.server
import json
import threading
import time


class Server:
  """Serves on a port of its own until closed.

  Attributes:
    url: of the API.
    requests: (path, headers, body) of every request that came.
    failures: status codes to answer with first, or 'slow', 'drop', 'garbage'; `location` goes with them.
  """

  def __init__(self, say=lambda body: '4', failures=(), location=''):
    self.requests, self.failures, lock = [], list(failures), threading.Lock()
    outer = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get('Content-Length', 0))) or '{}')
        with lock:
          outer.requests.append((self.path, dict(self.headers), body))
          failure = outer.failures.pop(0) if outer.failures else None
        if failure == 'drop':
          self.connection.close()
          return
        if failure == 'slow':
          time.sleep(1.0)
        said = say(body)
        choice = {'text': said} if 'prompt' in body else {'message': said if isinstance(said, dict) else {'content': said}}
        reply = {'choices': [choice | {'finish_reason': 'stop'}], 'usage': {'completion_tokens': 3}}
        text = 'no' if failure == 'garbage' else json.dumps(reply)
        if isinstance(failure, int):
          text = f'sorry, {self.headers.get("Authorization", "")}\nno'
        self.send_response(failure if isinstance(failure, int) else 200)
        if location:
          self.send_header('Location', location)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may have given up
          self.wfile.write(text.encode())

      do_GET = do_POST  # what a redirect would become

      def log_message(self, *_):
        pass

    self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self.url = f'http://127.0.0.1:{self._server.server_port}/v1'
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._server.shutdown()
    self._server.server_close()
