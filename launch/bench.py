"""Measure this machine: one line of JSON per result, with a description of the machine.

  python -m launch.bench                                 every case
  python -m launch.bench --what=attention,train_step     some of them

attention    gated attention, forward and backward: milliseconds, TFLOP/s, and time relative to two mixed calls of a library
train_step   tokens/s, and MFU on devices whose peak is known
decode       tokens/s with all slots live
loader       tokens/s per core, and milliseconds to the first batch at step 1,000,000
packing      MB/s of token ids
tokenize     tokens/s of real source, by the tokenizer alone and to packed rows on disk
transitions  commits/s scanned of a git history, for commits and for verified transitions
clean        MB/s of the cleaning checks, parsing and quality on real source
quality      MB/s of texts scored for density, education and toxicity by a classifier
facts        MB/s of source read for code facts, each read twice
reasoning    verified samples/s of reasoning from functions, generated programs and puzzles, per CPU second
dedup        MB/s of near-deduplication and decontamination
fim          MB/s of completions with syntax levels
pipeline     MB/s of preparing documents, with one worker and two
endpoint     time of 1,280 requests to a scripted endpoint, 32 in flight, over that of a client that costs nothing
rl           seconds of roll-out, grading, update and sync of one step; share of the slots that is busy
sandbox      verdicts/s of a short Python program, from start to verdict, by isolation
verify       problems/s whose solution and tests are verified in the sandbox, as functions and as programs

On a CPU, train_step is compared with PyTorch and decode with mlx-lm if the interpreter that the environment variable
PEERS_PYTHON names has them (`make test-peers` installs one in .venv-peers).
"""

import json
import os

from absl import flags

from iquest_jax.errors import check_name
from launch import command

flags.DEFINE_list('what', [], 'Cases to run; empty runs all of them.')

FLAGS = flags.FLAGS


def main(argv):
  del argv
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  from iquest_jax.bench import (
      attention,
      clean,
      decode,
      dedup,
      endpoint,
      facts,
      fim,
      loader,
      machine,
      packing,
      pipeline,
      quality,
      reasoning,
      rl,
      sandbox,
      tokenize,
      train_step,
      transitions,
      verify,
  )

  cases = {
      'attention': attention.results,
      'train_step': lambda: train_step.results(command.experiment),
      'decode': decode.results,
      'loader': loader.results,
      'packing': packing.results,
      'tokenize': tokenize.results,
      'clean': clean.results,
      'quality': quality.results,
      'dedup': dedup.results,
      'facts': facts.results,
      'reasoning': reasoning.results,
      'endpoint': endpoint.results,
      'fim': fim.results,
      'pipeline': pipeline.results,
      'rl': lambda: rl.results(command.experiment),
      'sandbox': sandbox.results,
      'transitions': transitions.results,
      'verify': verify.results,
  }
  for name in FLAGS.what:
    check_name('--what: case', name, cases)
  for name in FLAGS.what or cases:
    for result in cases[name]():
      print(json.dumps({'case': name, **result, 'machine': machine.describe()}), flush=True)


if __name__ == '__main__':
  command.run(main)
