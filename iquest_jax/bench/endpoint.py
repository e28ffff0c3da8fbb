"""How busy the client keeps an endpoint: the time of many requests, over that of a client that costs nothing."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from iquest_jax.endpoint.client import Endpoint

ANSWER_S = 0.05
_NAME = 'iquest_jax.bench.endpoint'  # __name__ is another where it is started


def results() -> Iterator[dict]:
  """In a process of its own: what other cases have imported would cost the client time, which no user of it pays."""
  ran = subprocess.run([sys.executable, '-m', _NAME, 'client'], stdout=subprocess.PIPE, text=True, check=True)
  yield json.loads(ran.stdout)


def measure(requests: int, in_flight: int, repeats: int) -> dict:
  """Medians over some repeats, with connections that are open, against a server in a process of its own."""
  with subprocess.Popen([sys.executable, '-m', _NAME], stdout=subprocess.PIPE, text=True) as server:
    try:
      url = f'http://127.0.0.1:{int(server.stdout.readline())}/v1'
      with Endpoint(url, 'scripted', parallel=in_flight) as endpoint:
        runs = asyncio.run(_measure(endpoint, requests, repeats))
    finally:
      server.terminate()
  ideal = requests / in_flight * ANSWER_S
  return {
      'requests': requests,
      'in_flight': in_flight,
      'answer_ms': ANSWER_S * 1000,
      'over_ideal': round(statistics.median(wall for wall, _ in runs) / ideal, 3),
      'cpu_ms_per_request': round(statistics.median(cpu for _, cpu in runs) / requests * 1000, 2),
  }


async def _measure(endpoint: Endpoint, requests: int, repeats: int) -> list[tuple[float, float]]:
  """Seconds, and seconds of this process on a core, of each repeat."""
  prompt = 'def add(a, b):\n  return a + b\n' * 30
  ask = lambda seed: endpoint.chat([{'role': 'user', 'content': prompt}], max_tokens=100, seed=seed)
  taken = []
  for _ in range(repeats + 1):
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(ask, range(requests)))
    taken.append((time.perf_counter() - wall, time.process_time() - cpu))
  return taken[1:]  # the first one connects


async def _serve() -> None:
  """Answers every request after the same time; prints its port."""
  message = {'role': 'assistant', 'content': 'def sub(a, b):\n  return a - b\n' * 12}
  usage = {'prompt_tokens': 300, 'completion_tokens': 100}
  choices = [{'index': 0, 'message': message, 'finish_reason': 'stop'}]
  body = json.dumps({'object': 'chat.completion', 'model': 'scripted', 'choices': choices, 'usage': usage}).encode()
  reply = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body)

  async def answer(reader, writer):
    try:
      while True:
        head = await reader.readuntil(b'\r\n\r\n')
        await reader.readexactly(int(head.lower().partition(b'content-length:')[2].split(None, 1)[0]))
        await asyncio.sleep(ANSWER_S)
        writer.write(reply)
    except (asyncio.IncompleteReadError, ConnectionError):
      writer.close()

  server = await asyncio.start_server(answer, '127.0.0.1', 0)
  print(server.sockets[0].getsockname()[1], flush=True)
  await server.serve_forever()


if __name__ == '__main__':
  if sys.argv[1:] == ['client']:
    print(json.dumps(measure(requests=1280, in_flight=32, repeats=3)))
  else:
    asyncio.run(_serve())
