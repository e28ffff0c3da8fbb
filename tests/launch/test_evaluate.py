"""launch.evaluate: runs that a kill interrupts, comparisons, the doctor, and command lines that cannot work."""

import json
import os
import pathlib
import types

import pytest

from experiments import chain
from iquest_jax.data.tiny import programs
from iquest_jax.errors import UserError
from iquest_jax.eval import suites
from iquest_jax.run_folder import RunFolder
from iquest_jax.sandbox import runner
from launch import chain as chain_command
from launch import command

from tests import processes
from tests.endpoint.scripted import ScriptedEndpoint
from tests.eval.test_small_programs import written
from tests.run.helpers import killed_at

KEY = 'sk-of-the-command-line'


def solve(body):
  """Half of the small programs right, by the length of the request."""
  request = body['messages'][0]['content']
  solution = next(one.solution for one in programs.problems(0, 'held_out', 9) if one.request == request)
  return f'```python\n{solution if len(request) % 2 else solution.replace("return", "return 7,")}```'


@pytest.fixture
def evaluate(commands, tmp_path, monkeypatch):
  """Runs `launch.evaluate` on nine small programs and an endpoint."""
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
    monkeypatch.delenv(name, raising=False)
  try:
    runner.choose('')
  except UserError as error:
    pytest.skip(str(error))
  written(tmp_path / 'run/corpus', count=9)
  monkeypatch.setenv('EVALUATE_KEY', KEY)

  def run(server, out, *more, status=0, before=lambda line: line):
    line = ['-m', 'launch.evaluate', f'--workdir={tmp_path / "run"}', f'--endpoint={server.url}', '--model=m']
    line += ['--suite=small_programs', f'--out={tmp_path / out}', '--key_env=EVALUATE_KEY', '--slots=2', *more]
    return commands.run(before(line), status=status)

  return run


def results(folder):
  """results.json without the seconds that programs took."""
  loaded = json.loads((folder / 'small_programs/results.json').read_text())
  for result in loaded['results'].values():
    for sample in result['samples']:
      del sample['seconds']
  return loaded


def test_a_run_killed_twice_resumes_and_can_be_compared(evaluate, commands, tmp_path):
  with ScriptedEndpoint(solve) as server:
    straight = evaluate(server, 'straight')
    for count in (3, 4):
      evaluate(server, 'killed', status=-9, before=lambda line, count=count: killed_at(
          'iquest_jax.journal:Journal.add', count, line))  # fmt: skip
      assert not (tmp_path / 'killed/small_programs/results.json').exists()
    asked = len(server.requests)
    resumed = evaluate(server, 'killed')
    # Of nine, 2 + 3 were on disk, and perhaps one more each time.
    assert 9 - 5 - 2 <= len(server.requests) - asked <= 9 - 5
    assert all(headers['Authorization'] == f'Bearer {KEY}' for _, headers, _ in server.requests)
  assert results(tmp_path / 'killed') == results(tmp_path / 'straight')
  assert 'small_programs' in straight.stdout and 'solved' in straight.stdout and straight.stdout == resumed.stdout
  written_files = [path for path in tmp_path.rglob('*') if path.is_file()]
  assert not any(KEY.encode() in path.read_bytes() for path in written_files)
  assert KEY not in ''.join([straight.stdout, straight.stderr, resumed.stdout, resumed.stderr])
  done = commands.run(['-m', 'launch.evaluate', 'compare', str(tmp_path / 'killed'), str(tmp_path / 'straight')])
  assert done.stdout.startswith('small_programs\n  solved') and '+0.000 [+0.000, +0.000]' in done.stdout


def test_other_settings_and_a_dead_endpoint_are_one_line_and_lose_nothing(evaluate, tmp_path):
  with ScriptedEndpoint(solve) as server:
    evaluate(server, 'out', '--problems=2')
    before = {path: path.read_bytes() for path in (tmp_path / 'out').rglob('*') if path.is_file()}
    done = evaluate(server, 'out', '--problems=2', '--temperature=0.5', status=2)
    assert '(sampling.temperature 0.0 -> 0.5)' in processes.refusal(done)
    server.failures = [401]
    done = evaluate(server, 'other', '--slots=1', status=2)
    assert 'refuses with status 401: sorry, Bearer (key) no' in processes.refusal(done)
  assert {path: path.read_bytes() for path in (tmp_path / 'out').rglob('*') if path.is_file()} == before


def test_the_doctor_names_isolation_and_languages(commands):
  lines = commands.run(['-m', 'launch.evaluate', 'doctor']).stdout.splitlines()
  kinds = [line.split()[:2] for line in lines]
  assert ['isolation', 'bubblewrap'] in kinds and ['isolation', 'landlock'] in kinds and ['language', 'python'] in kinds
  assert lines[-1].startswith(('programs run under ', 'no program can run: '))


@pytest.fixture
def configs(monkeypatch):
  """The stages of tiny_loop, as `launch.chain run` has them without further flags."""
  monkeypatch.setattr(chain_command, 'FLAGS', types.SimpleNamespace(data=''))
  return [command.experiment(f'{stage}:size=tiny_loop') for stage in ('anneal', 'sft_instruct')]


def test_a_chain_without_isolation_measures_bits_per_byte_and_says_why(configs, tmp_path, monkeypatch, caplog):
  written(tmp_path / 'corpus', count=3)
  everything = {'anneal': ['bits_per_byte'], 'sft_instruct': ['bits_per_byte', 'small_programs']}
  monkeypatch.setattr(runner, 'choose', lambda backend: 'bubblewrap')
  assert chain_command._suites(configs, RunFolder(tmp_path)) == everything

  def none(backend):
    raise UserError('sandbox: no isolation available')

  monkeypatch.setattr(runner, 'choose', none)
  with caplog.at_level('WARNING'):
    assert chain_command._suites(configs, RunFolder(tmp_path)) == dict.fromkeys(everything, ['bits_per_byte'])
  assert 'small_programs is left out: sandbox: no isolation available' in caplog.text


def test_a_chain_without_data_leaves_benchmarks_out_and_refuses_wrong_data(configs, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(runner, 'choose', lambda backend: 'bubblewrap')
  configs = configs[:1]
  configs[0].eval.suites = ('bits_per_byte', 'mbpp')
  with caplog.at_level('WARNING'):
    assert chain_command._suites(configs, RunFolder(tmp_path)) == {'anneal': ['bits_per_byte']}
  assert 'mbpp is left out: --data is missing; name the folder with the files of mbpp' in caplog.text
  chain_command.FLAGS.data = str(tmp_path)
  with pytest.raises(UserError, match='has no mbpp.jsonl'):
    chain_command._suites(configs, RunFolder(tmp_path))


REFUSED = {
    'no suite': ('--stage=anneal', '--suite is missing; name what to run'),
    'unknown suite': (
        '--stage=anneal --suite=humaneval,mbqp', '--suite: suite "mbqp" does not exist; did you mean "mbpp"?'),
    'neither stage nor endpoint': ('--suite=humaneval', 'name either a --stage with its --workdir, or an --endpoint'),
    'stage and endpoint': ('--suite=mbpp --stage=anneal --endpoint=http://x/v1', 'name either a --stage with its --work'),
    'unknown stage': ('--suite=mbpp --stage=aneal', '--stage: stage "aneal" does not exist; did you mean "anneal"?'),
    'bits per byte of an endpoint': (
        '--suite=bits_per_byte --endpoint=http://x/v1 --model=m --out=o', '--suite: bits_per_byte needs a --stage'),
    'endpoint without a folder': ('--suite=mbpp --endpoint=http://x/v1 --model=m', '--out is missing; name the folder'),
    'endpoint without a model': ('--suite=mbpp --endpoint=http://x/v1 --out=o', 'model is missing; name the model'),
    'no address': ('--suite=mbpp --endpoint=x --model=m --out=o', 'endpoint: must be the URL of an API'),
    'no key': (
        '--suite=mbpp --endpoint=http://x/v1 --model=m --out=o --key_env=UNSET_KEY',
        'key_env: the environment variable UNSET_KEY is not set or is empty'),
    'no data': ('--suite=mbpp --endpoint=http://x/v1 --model=m --out=o', '--data is missing; name the folder with the'),
    'empty data': (
        '--suite=mbpp --endpoint=http://x/v1 --model=m --out=o --data=tests', '--data: tests has no mbpp.jsonl; download'),
    'data that is not a folder': (
        '--suite=mbpp --endpoint=http://x/v1 --model=m --out=o --data=none', '--data: none is not a folder'),
    'no corpus': ('--suite=small_programs --endpoint=http://x/v1 --model=m --out=o', 'small_programs: '),
    'unknown sub-command': ('compar a b', 'sub-command "compar" does not exist; did you mean "compare"?'),
    'one run': ('compare a', 'compare: expected A B, got a'),
    'no results': ('compare tests launch', 'compare: tests has no results.json; name the folder'),
}  # fmt: skip


@pytest.mark.parametrize('mistake', REFUSED)
def test_a_wrong_command_line_is_refused_in_one_line(commands, tmp_path, mistake):
  line, error = REFUSED[mistake]
  done = commands.run(['-m', 'launch.evaluate', *line.split(), f'--workdir={tmp_path / "run"}'], status=2)
  assert done.stderr.startswith(f'error: {error}') and done.stderr.count('\n') == 1 and not done.stdout, done.stderr
  assert not list(tmp_path.iterdir()) and not pathlib.Path(processes.ROOT / 'o').exists()


def test_every_suite_that_a_stage_names_exists():
  for size in ('tiny', 'tiny_loop', '7b', '40b_loop'):
    for stage in chain.stages(size):
      for name in command.experiment(f'{stage}:size={size}').eval.suites:
        assert name == suites.BITS_PER_BYTE or suites.get(name).name == name


def test_every_suite_of_the_table_is_there_under_its_name():
  for name in suites.SUITES:
    suite = suites.get(name)
    assert suite.name == name and suite.length > 0 and suite.samples >= max(suite.ks)
    suite.sampling.check()
  assert os.sep not in ''.join(suites.SUITES)  # each is a folder of results
