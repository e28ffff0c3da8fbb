"""Decode with the newest checkpoint of a stage.

  python -m launch.sample --workdir=runs/demo --stage=midtrain_128k --prompt='def add(a, b):'
  python -m launch.sample --workdir=runs/demo --stage=midtrain_128k --prefix='def add(a, b):' --suffix='  return c'
  python -m launch.sample --workdir=runs/demo --stage=sft_thinking --chat --prompt='What is 2 + 3?'
  python -m launch.sample --workdir=runs/demo --stage=sft_thinking --chat
  python -m launch.sample --workdir=runs/demo --stage=midtrain_128k --prompts=prompts.jsonl --temperature=0.8

--chat without --prompt is a conversation in the terminal. A file of prompts has one JSON string per line; their
continuations are printed as JSON strings in the same order. Otherwise text is printed as it is
decoded, thinking dimmed in a terminal.
"""

import json
import pathlib
import sys

from absl import flags

from experiments import chain
from iquest_jax.errors import UserError, check_name
from launch import command, devices

flags.declare_key_flag('workdir')
flags.DEFINE_string('stage', '', 'Stage to decode with, such as midtrain_128k.')
flags.DEFINE_string('prompt', None, 'Text to continue; it may spell out special tokens.')
flags.DEFINE_string('prompts', None, 'File of prompts, a JSON string per line, decoded together.')
flags.DEFINE_string('prefix', None, 'Text before the gap to fill.')
flags.DEFINE_string('suffix', None, 'Text after the gap to fill.')
flags.DEFINE_bool('chat', False, 'Treat prompts as user messages; without one, talk in the terminal.')
flags.DEFINE_integer('tokens', 64, 'Maximum number of new tokens.', lower_bound=1)
flags.DEFINE_integer('slots', 8, 'Prompts of a file that are decoded at a time.', lower_bound=1)
flags.DEFINE_float('temperature', 0.0, 'Sampling temperature; 0 takes the most likely token.')
flags.DEFINE_float('top_p', 1.0, 'Keep the most likely tokens that reach this probability together.')
flags.DEFINE_integer('top_k', 0, 'Keep this many of the most likely tokens; 0 keeps all.')
flags.DEFINE_integer('seed', 0, 'Seed of the sampling.')
flags.DEFINE_multi_string('stop', [], 'Text that ends a continuation and is left out; may be repeated.')

FLAGS = flags.FLAGS

_DIM, _PLAIN = '\033[2m', '\033[0m'


def main(argv):
  del argv
  run_folder = command.run_folder()
  check_name('--stage: stage', FLAGS.stage, chain.PARENTS)
  prompts = _prompts()
  from iquest_jax.checkpoint import restore
  from iquest_jax.infer.engine import Engine
  from iquest_jax.infer.sampler import Sampling
  from iquest_jax.text.tokenizer import Tokenizer

  sampling = Sampling(FLAGS.temperature, FLAGS.top_p, FLAGS.top_k, FLAGS.seed).check()
  devices.log_devices()
  model, params = restore.newest_model(run_folder.stage(FLAGS.stage))
  engine = Engine(model, params, min(FLAGS.slots, len(prompts) if prompts else 1))
  decode = _Decoder(engine, Tokenizer.load(run_folder.tokenizer), sampling)
  if prompts is None:
    decode.conversation()
  elif FLAGS.prompts is None:
    decode.one(prompts[0])
  else:
    decode.many(prompts)


def _prompts() -> list[str] | None:
  """The prompts that the flags give; None for a conversation. Those of an infill are its prefix and suffix."""
  given = [name for name in ('prompt', 'prompts', 'prefix') if FLAGS[name].value is not None]
  if (FLAGS.prefix is None) != (FLAGS.suffix is None):
    raise UserError('--prefix and --suffix belong together; give both')
  if len(given) > 1:
    raise UserError(f'--{given[0]} and --{given[1]} exclude each other; give one of them')
  if FLAGS.chat and FLAGS.prefix is not None:
    raise UserError('--chat takes messages; give --prompt instead of --prefix and --suffix')
  if not given:
    if not FLAGS.chat:
      raise UserError('nothing to continue; give --prompt, --prefix and --suffix, --prompts, or --chat')
    return None
  if FLAGS.prompts is None:
    return [FLAGS.prompt if FLAGS.prefix is None else FLAGS.prefix]
  try:
    lines = [json.loads(line) for line in pathlib.Path(FLAGS.prompts).read_text().splitlines() if line.strip()]
  except OSError as error:
    raise UserError(f'--prompts: {FLAGS.prompts}: {error.strerror}') from None
  except ValueError as error:
    raise UserError(f'--prompts: {FLAGS.prompts}: not a JSON string per line: {error}') from None
  if not lines or not all(isinstance(line, str) for line in lines):
    raise UserError(f'--prompts: {FLAGS.prompts}: must hold one JSON string per line')
  return lines


class _Decoder:
  """What is printed for each kind of prompt."""

  def __init__(self, engine, tokenizer, sampling):
    from iquest_jax.infer import text

    self._text, self._engine, self._tokenizer = text, engine, tokenizer
    self._how = {'length': FLAGS.tokens, 'sampling': sampling, 'stop_words': FLAGS.stop}

  def one(self, prompt: str) -> None:
    self._print(self._ids(prompt))

  def many(self, prompts: list[str]) -> None:
    ids = [self._ids(prompt) for prompt in prompts]
    for text in self._text.complete(self._engine, self._tokenizer, ids, **self._how):
      print(json.dumps(text, ensure_ascii=False))

  def conversation(self) -> None:
    """Turns until the end of the input."""
    from iquest_jax.text import chat

    messages = []
    while True:
      try:
        said = input('> ' if sys.stdin.isatty() else '')
      except (EOFError, KeyboardInterrupt):
        print()
        return
      messages.append({'role': 'user', 'content': said})
      reply = chat.parse(self._print(self._text.turn(self._tokenizer, messages)))
      calls = list(reply.tool_calls)
      messages.append({'role': 'assistant', 'content': reply.content, 'thinking': reply.thinking, 'tool_calls': calls})

  def _ids(self, prompt: str):
    if FLAGS.chat:
      return self._text.turn(self._tokenizer, [{'role': 'user', 'content': prompt}])
    if FLAGS.suffix is not None:
      return self._text.infill(self._tokenizer, prompt, FLAGS.suffix)
    return self._text.completion(self._tokenizer, prompt)

  def _print(self, ids) -> str:
    """Prints a continuation as it comes, and returns it."""
    whole = ''
    for piece in self._text.stream(self._engine, self._tokenizer, [ids], **self._how):
      whole += piece.text
      shown = piece.text
      if sys.stdout.isatty():
        shown = shown.replace('<think>', f'{_DIM}<think>').replace('</think>', f'</think>{_PLAIN}')
      print(shown, end='', flush=True)
    print(_PLAIN if sys.stdout.isatty() else '')
    return whole


if __name__ == '__main__':
  command.run(main)
