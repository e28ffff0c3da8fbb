"""Offer the newest checkpoint of a stage as an endpoint in the form of OpenAI's API.

  python -m launch.serve --workdir=runs/demo --stage=sft_thinking --port=8000
  curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"model": "sft_thinking", "messages": [{"role": "user", "content": "What is 2 + 3?"}]}'
  python -m launch.evaluate --endpoint=http://localhost:8000/v1 --model=sft_thinking --suite=humaneval --out=results

/v1/models, /v1/chat/completions and /v1/completions, streamed or not, with tools, thinking as
reasoning_content, n, seed, stop, top_k and log-probabilities of the drawn tokens. A prompt of
/v1/completions may spell out special tokens, or have a suffix for infill. The same prompt and seed give
the same text whatever else is decoded. Ctrl-C finishes what was admitted; a second one ends at once.
"""

import importlib.util

from absl import flags

from experiments import chain
from iquest_jax.errors import UserError, check_name
from launch import command, devices

flags.declare_key_flag('workdir')
flags.DEFINE_string('stage', '', 'Stage to offer, such as sft_thinking; the name of the model, too.')
flags.DEFINE_string('host', '127.0.0.1', 'Address to listen on; 0.0.0.0 lets other machines in, and asks them for no key.')
flags.DEFINE_integer('port', 8000, 'Port to listen on; 0 takes a free one.', lower_bound=0, upper_bound=65535)
flags.DEFINE_integer('slots', 8, 'Texts decoded at a time.', lower_bound=1)
flags.DEFINE_integer('waiting', 256, 'Texts that may wait for a slot; others are told to try later.', lower_bound=0)
flags.DEFINE_integer('context', 0, "Most tokens of prompt and text together; 0 for the model's context.", lower_bound=0)

FLAGS = flags.FLAGS


def main(argv):
  del argv
  run_folder = command.run_folder()
  check_name('--stage: stage', FLAGS.stage, chain.PARENTS)
  if missing := [name for name in ('starlette', 'uvicorn') if not importlib.util.find_spec(name)]:
    raise UserError(f'{" and ".join(missing)} not installed; pip install -e .[serve]')
  from iquest_jax.checkpoint import restore
  from iquest_jax.checkpoint.store import Checkpoints
  from iquest_jax.infer.engine import Engine, Request
  from iquest_jax.serve import server
  from iquest_jax.serve.decoder import Decoder
  from iquest_jax.serve.requests import Served
  from iquest_jax.text.tokenizer import Tokenizer

  tokenizer = Tokenizer.load(run_folder.tokenizer)
  bound = server.bind(FLAGS.host, FLAGS.port)
  devices.log_devices()
  folder = run_folder.stage(FLAGS.stage)
  lineage = Checkpoints(folder).lineage()
  context = restore.trained_as(lineage).max_context
  if FLAGS.context > context:
    raise UserError(f'--context must be at most that of the model, {context}, got {FLAGS.context}')
  model, params = restore.newest_model(folder)
  engine = Engine(model, params, FLAGS.slots, FLAGS.context or None)
  # Compiled before anybody waits for it.
  list(engine.run([Request(0, tokenizer.ends[:1], min(2, engine.size - 1))]))
  served = Served(FLAGS.stage, tokenizer, engine.size, lineage['end_fingerprint'])
  host, port = bound.getsockname()[:2]
  url = f'http://{f"[{host}]" if ":" in host else host}:{port}/v1'
  print(f'{FLAGS.stage} at {url}: {FLAGS.slots} slots of {engine.size} tokens; Ctrl-C ends it', flush=True)
  server.Server(served, Decoder(engine, tokenizer), engine.free + FLAGS.waiting).answer(bound)


if __name__ == '__main__':
  command.run(main)
