"""A command line that cannot work is refused in one line with status 2, before anything is read or written."""

import pathlib

import pytest

from tests import processes

MODEL = str(pathlib.Path(__file__).parents[1] / 'golden' / 'loop_tiny')
LOOP_ADAPT, ANNEAL = '--exp=loop_adapt:size=tiny_loop', '--exp=anneal:tiny'
# What is wrong: (command line, to which --workdir is added unless it has one, and the start of the error).
REFUSED = {
    # --exp and its overrides
    'unknown experiment': ('tpu --exp=aneal:tiny', '--exp: experiment "aneal" does not exist; did you mean "anneal"?'),
    'unknown experiment, one dash': ('tpu -exp=aneal:tiny', '--exp: experiment "aneal" does not exist'),
    'unknown argument of --exp': (
        'tpu --exp=anneal:sise=7b', 'argument "sise=7b" of --exp does not exist; did you mean "size="?'),
    'unknown size': ('tpu --exp=anneal:size=41b', 'size "41b" does not exist; did you mean "40b"?'),
    'unknown field': (
        f'tpu {ANNEAL} --exp.train.step=3', '--exp.train.step does not exist in anneal; did you mean "train.steps"?'),
    'unknown field, one dash': (f'tpu {ANNEAL} -exp.train.step=3', '--exp.train.step does not exist'),
    'field without a value': (
        f'tpu {ANNEAL} --exp.train.steps', '--exp.train.steps has no value; write --exp.train.steps=VALUE'),
    'word for a number': (f'tpu {ANNEAL} --exp.train.steps=many', 'flag --exp.train.steps=many: '),
    'fraction for a whole number': (f'tpu {ANNEAL} --exp.train.steps=1.5', 'flag --exp.train.steps=1.5: '),
    'literal that does not parse': (f'tpu {ANNEAL} --exp.data.mixture=((0,((', 'flag --exp.data.mixture=((0,((: '),
    'overridden size': (f'tpu {ANNEAL} --exp.size=7b', '--exp.size is set by --exp; choose another experiment or size'),
    'overridden stage': (f'tpu {ANNEAL} --exp.stage=pretrain', '--exp.stage is set by --exp'),
    'overridden parent': (f'tpu {ANNEAL} -exp.init.stage=pretrain', '--exp.init.stage is set by --exp'),
    'no --exp': ('tpu', '--exp is missing; name an experiment, as in --exp=midtrain_128k:size=7b'),
    'overrides without --exp': ('tpu --exp.train.steps=3', '--exp=NAME is missing; write it with an equals sign'),
    # The start of a stage
    'unknown fold': (f'tpu {LOOP_ADAPT} --exp.init.fold=foo', 'config: init.fold '),
    'fold of a stage without one': (
        'tpu --exp=midtrain_32k:tiny --exp.init.transform=dense_to_loop', 'config: init.transform '),
    'fold with moments': (f'tpu {ANNEAL} --exp.init.transform=dense_to_loop', 'config: init.carry '),
    'rows of an unknown start': (f"prepare {ANNEAL} --exp.init.carry=('paramz',)", 'config: init.carry '),
    # Flags and arguments
    'unknown flag': (f'tpu {ANNEAL} --wrokdir=runs', 'flag --wrokdir does not exist; did you mean "workdir"?'),
    'argument, not a flag': (
        f'tpu {ANNEAL} train.steps=3', 'unexpected argument "train.steps=3"; this command takes only flags (see --help)'),
    'no --workdir': (f'tpu {ANNEAL} --workdir=', '--workdir is missing; name the folder of the chain'),
    'bucket to train in': (f'tpu {ANNEAL} --workdir=s3://bucket/runs', '--workdir: s3://bucket/runs is on "s3", '),
    'bucket to prepare in': (f'prepare {ANNEAL} --workdir=s3://bucket/runs', '--workdir: s3://bucket/runs is on "s3", '),
    'bucket of a chain': ('chain run --size=tiny --workdir=s3://runs', '--workdir: s3://runs is on "s3", '),
    'bucket to export from': (
        'export to_hf --stage=anneal --out=x --workdir=s3://bucket', '--workdir: s3://bucket is on "s3", '),
    'infinite temperature': (
        'sample --stage=anneal --prompt=x --temperature=nan', 'sample: temperature must be finite and at least 0, got nan'),
    'nothing to continue': ('sample --stage=anneal', 'nothing to continue; give --prompt, --prefix and --suffix, '),
    'half a gap': ('sample --stage=anneal --prefix=x', '--prefix and --suffix belong together; give both'),
    'two prompts': (
        'sample --stage=anneal --prompt=x --prompts=y', '--prompt and --prompts exclude each other; give one of them'),
    'no file of prompts': ('sample --stage=anneal --prompts=/none', '--prompts: /none: No such file or directory'),
    'unknown stage': ('sample --stage=aneal', '--stage: stage "aneal" does not exist; did you mean "anneal"?'),
    # Sub-commands
    'unknown sub-command': ('chain shw --size=tiny', 'sub-command "shw" does not exist; did you mean "show"?'),
    'no sub-command': ('chain --size=tiny', 'sub-command is missing; '),
    'two sub-commands': ('chain show diff', 'show: expected only flags, got diff'),
    'unknown sub-command of export': (
        f'export from_hff {MODEL}', 'sub-command "from_hff" does not exist; did you mean "from_hf"?'),
    'import of nothing': ('export from_hf --stage=anneal', 'from_hf: expected MODEL, got only flags'),
    'import without a stage': (f'export from_hf {MODEL}', 'from_hf: --stage is missing; see python -m launch.export '),
    'import of a type': (
        f'export from_hf {MODEL} --stage=anneal --dtype=bfloat16', 'from_hf: --dtype does not apply to this sub-command'),
    'import into an unknown stage': (
        f'export from_hf {MODEL} --stage=midtrain_32', '--stage: stage "midtrain_32" does not exist; did you mean "midt'),
}  # fmt: skip


@pytest.mark.parametrize('mistake', REFUSED)
def test_a_wrong_command_line_is_refused_in_one_line(commands, tmp_path, mistake):
  line, error = REFUSED[mistake]
  name, *arguments = line.split(' ')
  if not any(argument.startswith('--workdir') for argument in arguments):
    arguments.append(f'--workdir={tmp_path / "run"}')
  done = commands.run(['-m', f'launch.{name}', *arguments], status=2)
  assert done.stderr.startswith(f'error: {error}') and done.stderr.count('\n') == 1 and not done.stdout, done.stderr
  assert not list(tmp_path.iterdir()) and not list(processes.ROOT.glob('gs:*')) + list(processes.ROOT.glob('s3:*'))


def test_a_full_size_without_an_accelerator_is_refused(commands, tmp_path):
  done = commands.run(['-m', 'launch.tpu', '--exp=anneal', f'--workdir={tmp_path / "run"}'], status=2)
  assert processes.refusal(done).startswith('size "40b" needs TPUs or NVIDIA GPUs, and jax sees only this CPU; install ')
  assert not list(tmp_path.iterdir())
