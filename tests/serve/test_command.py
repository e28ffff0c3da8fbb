"""`python -m launch.serve` as a user runs it: it answers, ends by a signal, and refuses what cannot work in one line."""

import signal
import socket
import time

import httpx
import openai
import pytest

from tests import processes
from tests.model import small_models
from tests.serve.serving import MODEL, TOKENIZER

STAGE = 'sft_thinking'


@pytest.fixture(scope='module')
def workdir(commands, tmp_path_factory):
  """A run folder whose stage is an imported small model."""
  folder = tmp_path_factory.mktemp('serve')
  TOKENIZER.save(folder / 'run/tokenizer/tokenizer.json')
  small_models.write_checkpoint(folder / 'model', MODEL)
  commands.run(['-m', 'launch.export', 'from_hf', str(folder / 'model'), f'--workdir={folder / "run"}', f'--stage={STAGE}'])
  return folder / 'run'


@pytest.fixture
def start(commands, workdir):
  """Starts the command; what is left of it is killed."""
  started = []

  def run(*flags):
    started.append(commands.start(['-m', 'launch.serve', f'--workdir={workdir}', f'--stage={STAGE}', *flags]))
    return started[-1]

  yield run
  for process in started:
    process.kill()


def client(port, process):
  """A client of the server once it answers."""
  with httpx.Client(trust_env=False) as http:
    deadline = time.monotonic() + 120
    while True:
      assert process.poll() is None and time.monotonic() < deadline, process.communicate()
      try:
        http.get(f'http://127.0.0.1:{port}/v1/models')
        break
      except httpx.TransportError:
        time.sleep(0.05)
  return openai.OpenAI(
      base_url=f'http://127.0.0.1:{port}/v1', api_key='none', max_retries=0, http_client=httpx.Client(trust_env=False)
  )


@pytest.mark.parametrize('number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_checkpoint_is_served_until_a_signal_and_what_was_admitted_is_finished(start, unused_port, number):
  process = start(f'--port={unused_port}', '--slots=2')
  asking = client(unused_port, process)
  ask = dict(model=STAGE, prompt='def add', seed=1, temperature=0.5, max_tokens=200, n=4)
  whole = asking.completions.create(**ask)
  pieces = asking.completions.create(**ask, stream=True)
  texts = [''] * 4
  for count, chunk in enumerate(pieces):
    texts[chunk.choices[0].index] += chunk.choices[0].text
    if not count:
      process.send_signal(number)
  assert texts == [one.text for one in whole.choices] and any(texts)
  done = processes.finish(process, status=0)
  assert done.stdout == f'{STAGE} at http://127.0.0.1:{unused_port}/v1: 2 slots of 256 tokens; Ctrl-C ends it\n'
  assert 'Traceback' not in done.stderr and 'error' not in done.stderr


def test_a_port_in_use_is_refused_in_one_line(start, unused_port):
  with socket.create_server(('127.0.0.1', unused_port)):
    done = processes.finish(start(f'--port={unused_port}'), status=2)
  assert processes.refusal(done) == f'--port: {unused_port} on 127.0.0.1 is in use; choose another' and not done.stdout


@pytest.mark.parametrize(
    ('flags', 'says'),
    [
        (['--stage=sft_thinkin'], '--stage: stage "sft_thinkin" does not exist; did you mean "sft_thinking"?'),
        (['--host=no.such.host.invalid'], '--host: no.such.host.invalid is not an address of this machine'),
        (['--host=192.0.2.1', '--port=0'], '--host, --port: cannot listen on 192.0.2.1:0: Cannot assign requested address'),
        (['--port=65536'], '--port=65536: 65536 is not an integer in the range'),
        (['--context=257', '--port=0'], '--context must be at most that of the model, 256, got 257'),
        (['--stage=sft_instruct', '--port=0'], 'sft_instruct'),
    ],
    ids=lambda value: value[0].partition('=')[0] if isinstance(value, list) else None,
)
def test_what_cannot_be_served_is_refused_in_one_line(start, flags, says):
  done = processes.finish(start(*flags), status=2)
  assert says in processes.refusal(done) and not done.stdout


def test_without_the_packages_the_way_to_install_them_is_said(commands):
  code = 'import sys; sys.modules["uvicorn"] = None; from launch import command, serve; command.run(serve.main)'
  process = commands.run(['-c', code, '--workdir=unused', f'--stage={STAGE}'], status=2, fresh=True)
  assert process.stderr.strip().endswith('uvicorn not installed; pip install -e .[serve]')
