"""From raw inputs to documents: nothing is lost uncounted, nothing held out is trained on, workers change nothing."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from iquest_jax.data import corpus, inputs
from iquest_jax.data.documents import texts
from iquest_jax.data.executors import Executor
from iquest_jax.data.funnel import Funnel
from iquest_jax.data.tiny import history
from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder

from tests.data import raw
from tests.data.clean.test_semantic import embedding_server
from tests.processes import ROOT


@pytest.fixture(name='sources', scope='module')
def _sources(tmp_path_factory):
  return raw.write(tmp_path_factory.mktemp('raw'))


@pytest.fixture(name='prepared', scope='module')
def _prepared(sources, tmp_path_factory):
  run = RunFolder(tmp_path_factory.mktemp('corpus'))
  return corpus.prepare(run, inputs.load(sources), Executor(workers=1))


def hashes(prepared):
  """Contents of all shards, and what corpus.json says."""
  paths = sorted(path for path in prepared.folder.rglob('*') if path.is_file() and 'hashes' not in path.parts)
  return {str(path.relative_to(prepared.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def documents_of(prepared, source):
  return list(prepared.read(prepared.shards(source))), list(prepared.read(prepared.held_out(source)))


@pytest.mark.parametrize('workers', [2, 3])
def test_the_same_input_gives_the_same_bytes_at_any_width(sources, prepared, tmp_path, workers):
  again = corpus.prepare(RunFolder(tmp_path), inputs.load(sources), Executor(workers=workers))
  assert hashes(again) == hashes(prepared)


def test_killed_and_started_again_it_continues_to_the_same_bytes(sources, prepared, tmp_path):
  program = [sys.executable, '-m', 'tests.programs.prepare_corpus', str(sources), str(tmp_path)]
  for seconds in (1.5, 2.0, 2.5):
    child = subprocess.Popen(program, cwd=ROOT, start_new_session=True)
    time.sleep(seconds)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
  finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('result.json')}
  again = corpus.prepare(RunFolder(tmp_path), inputs.load(sources), Executor(workers=1))
  assert hashes(again) == hashes(prepared)
  assert all(path.stat().st_mtime_ns == at for path, at in finished.items() if path.exists())


def test_no_document_is_lost_without_a_count(prepared):
  funnels = {step: Funnel.from_json(funnel) for step, funnel in prepared.report['funnels'].items()}
  for name in ('histories', 'text', 'chats'):
    read, clean, clear, last = (funnels[f'{name}: {step}'] for step in ('read', 'clean', 'decontaminate', 'deduplicate'))
    for funnel in (read, clean, clear, last):
      funnel.check()
    # A repository is built of files that are clean.
    assert read.kept >= clean.read and clear.read == last.read + sum(clear.drops.values())
    groups = [group for group in prepared.groups if group.input == name]
    assert last.kept == sum(shard['documents'] for group in groups for shard in (*group.shards, group.held_out))
  assert funnels['text: read'].drops.total() == 3 and funnels['chats: read'].drops.total() == 1
  assert funnels['text: decontaminate'].drops.total() == 1 and funnels['text: deduplicate'].drops['duplicate'] == 2


def test_planted_duplicates_and_problems_are_found_with_evidence(prepared):
  kept = {document.path for side in documents_of(prepared, 'web_text') for document in side}
  assert 'leak.txt' not in kept and len(kept & {'3.txt', 'near.txt'}) == 1 and len(kept & {'4.txt', 'copy.txt'}) == 1
  assert len(kept) == 60
  (found,) = prepared.report['contaminated']
  assert found['problem'] == 'benchmark/test/0' and 'closest_pair' in found['evidence']


def test_train_and_held_out_share_no_repository_and_no_history(prepared):
  sides = [set(), set()]
  for source in ('code', 'repository_level', 'commits', 'transitions'):
    for side, kept in zip(sides, documents_of(prepared, source)):
      assert kept or source == 'transitions'
      side |= {getattr(document, 'name', '') or document.repo for document in kept}
  train, held_out = sides
  assert held_out and train and not train & held_out
  assert ('r0' in train) == ('fork-of-r0' in train) or not {'r0', 'fork-of-r0'} <= train | held_out
  for source in ('web_text', 'chat_instruct'):
    train, held_out = ({texts(document) for document in side} for side in documents_of(prepared, source))
    assert held_out and train and not train & held_out


def test_files_that_another_repository_has_leave_the_repository(prepared):
  """The fork's files are the first repository's: each stays in one of the two."""
  train, held_out = documents_of(prepared, 'repository_level')
  owners = {}
  for document in (*train, *held_out):
    for _, text in document.files:
      owners.setdefault(text, set()).add(document.name)
  assert all(len(names) == 1 for names in owners.values())


def test_documents_are_dealt_into_shards_that_each_mix_all_inputs(prepared):
  shards = prepared.shards('chat_instruct')
  assert len(shards) > 1 or sum(shard['bytes'] for shard in shards) < 20_000
  for group in prepared.groups:
    for shard in (*group.shards, group.held_out):
      path = prepared.folder / shard['path']
      assert hashlib.sha256(path.read_bytes()).hexdigest() == shard['sha256']


def test_another_input_reads_no_other_again(sources, tmp_path):
  copy = raw.write(tmp_path / 'raw', histories=3, texts=10)
  run = RunFolder(tmp_path / 'run')
  before = corpus.prepare(run, inputs.load(copy), Executor())
  read = {path: path.stat().st_mtime_ns for path in (before.folder / 'collected').rglob('result.json')}
  assert corpus.prepare(run, inputs.load(copy), Executor()).report == before.report  # nothing to do
  more = '\n[[input]]\nname = "more"\nread = "documents"\npath = "more.jsonl"\nsources = ["web_text"]\n'
  copy.write_text(copy.read_text() + more)
  (copy.parent / 'more.jsonl').write_text(json.dumps({'text': raw.prose(77)}) + '\n')
  after = corpus.prepare(run, inputs.load(copy), Executor())
  now = {path: path.stat().st_mtime_ns for path in (after.folder / 'collected').rglob('result.json')}
  assert read.items() < now.items() and len(now) == len(read) + 1
  assert [path.name for path in (after.folder / 'dealt').iterdir()] == [after.groups[0].shards[0]['path'].split('/')[1]]


@pytest.mark.parametrize(
    'break_it, reason',
    [
        (lambda folder: (folder / 'corpus.json').unlink(), 'corpus.json is missing; run python -m launch.prepare'),
        (lambda folder: (folder / 'corpus.json').write_text('{'), 'corpus.json is damaged'),
        (lambda folder: (folder / 'corpus.json').write_text('[]'), 'corpus.json is damaged'),
    ],
)
def test_documents_that_are_missing_or_damaged_are_one_line(tmp_path, break_it, reason):
  (tmp_path / 'documents').mkdir()
  (tmp_path / 'documents' / 'corpus.json').write_text('{}')
  break_it(tmp_path / 'documents')
  with pytest.raises(UserError, match=reason) as error:
    corpus.load(RunFolder(tmp_path))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('change', [('path = "histories"', 'path = "nowhere"'), ('text*.jsonl', 'txt*.jsonl')])
def test_an_input_that_finds_nothing_is_named(sources, tmp_path, change):
  (sources.parent / 'changed.toml').write_text(sources.read_text().replace(*change))
  with pytest.raises(UserError, match='--sources: input "(histories|text)" finds no .* at .*'):
    corpus.prepare(RunFolder(tmp_path), inputs.load(sources.parent / 'changed.toml'), Executor())


def test_the_same_meaning_in_other_words_is_a_duplicate_and_a_contamination(tmp_path):
  """The toy embedding sees words without their order, and each text has words of its own."""
  words = lambda number: [f'word{number}x{place}' for place in range(60)]
  text_of, turned = lambda number: ' '.join(words(number)), lambda number: ' '.join(reversed(words(number)))
  documents = [{'text': text_of(number), 'path': f'{number}.txt'} for number in range(12)]
  documents += [{'text': turned(3), 'path': 'same.txt'}, {'text': turned(80), 'path': 'leak.txt'}]
  (tmp_path / 'text.jsonl').write_text(''.join(f'{json.dumps(document)}\n' for document in documents))
  (tmp_path / 'benchmark.jsonl').write_text(json.dumps({'task_id': 'b/0', 'prompt': text_of(80)}) + '\n')
  text = 'evaluation = ["benchmark.jsonl"]\n{}\n[[input]]\nname = "text"\nread = "documents"\npath = "text.jsonl"\n'
  text += 'sources = ["web_text"]\nfilter = false\n'
  semantic = '[semantic]\nendpoint = "{}"\nmodel = "toy"\nduplicates = 0.97\ncontamination = 0.97\n'
  kept = {}
  with embedding_server() as server:
    for name, section in (('words', ''), ('meaning', semantic.format(server.url))):
      (tmp_path / f'{name}.toml').write_text(text.format(section))
      done = corpus.prepare(RunFolder(tmp_path / name), inputs.load(tmp_path / f'{name}.toml'), Executor())
      kept[name] = {document.path for side in documents_of(done, 'web_text') for document in side}
  assert {'3.txt', 'same.txt', 'leak.txt'} <= kept['words']
  assert len(kept['meaning'] & {'3.txt', 'same.txt'}) == 1
  assert 'leak.txt' not in kept['meaning'] and len(kept['meaning']) == 12


def test_tool_calls_are_compared_searched_and_cleaned_of_secrets(tmp_path):
  """Trajectories that differ in their calls alone are not copies; what a call holds counts like any text."""

  def chat(command):
    call = {'id': 'c', 'type': 'function', 'function': {'name': 'sh', 'arguments': json.dumps({'command': command})}}
    messages = [{'role': 'user', 'content': 'Fix it.'}, {'role': 'assistant', 'content': '', 'tool_calls': [call]}]
    return {'messages': [*messages, {'role': 'tool', 'tool_call_id': 'c', 'content': 'done'}]}

  chats = [chat(f'cat file{number}.py') for number in range(20)]
  chats += [chat(raw.PROBLEM), chat('mail jane.roe@corp.com the token')]
  (tmp_path / 'chats.jsonl').write_text(''.join(f'{json.dumps(one)}\n' for one in chats))
  (tmp_path / 'benchmark.jsonl').write_text(json.dumps({'task_id': 'b/0', 'prompt': raw.PROBLEM}) + '\n')
  (tmp_path / 'sources.toml').write_text(
      'evaluation = ["benchmark.jsonl"]\n[[input]]\nname = "chats"\nread = "chats"\npath = "chats.jsonl"\n'
      'sources = ["agent_trajectories"]\nnear = false\n'
  )
  done = corpus.prepare(RunFolder(tmp_path / 'run'), inputs.load(tmp_path / 'sources.toml'), Executor())
  kept = [text for side in documents_of(done, 'agent_trajectories') for document in side for text in texts(document)]
  commands = [text for text in kept if 'command' in text]
  assert len(commands) == 21 and not any('closest_pair' in text for text in kept)
  assert not any('jane.roe' in text for text in kept) and any('<EMAIL>' in text for text in commands)


def test_a_clone_of_a_held_out_repository_is_held_out_in_any_input(tmp_path):
  """Shallow, it does not know its first commit; as JSONL, it has only its name."""
  raw.write(tmp_path, histories=9, texts=4)
  (tmp_path / 'shallow').mkdir()
  for number in range(9):
    source, target = tmp_path / 'histories' / f'r{number}', tmp_path / 'shallow' / f'r{number}'
    subprocess.run(['git', 'clone', '--quiet', '--depth=3', f'file://{source}', target], check=True)
  lines = [{'text': f'def named_{n}():\n  return {n} * {n + 7}\n', 'path': f'{n}.py', 'repo': f'r{n}'} for n in range(9)]
  (tmp_path / 'named.jsonl').write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
  (tmp_path / 'sources.toml').write_text(
      'held_out = 12\n[[input]]\nname = "a"\nread = "git"\npath = "histories"\nsources = ["code", "commits"]\n'
      '[[input]]\nname = "b"\nread = "git"\npath = "shallow"\nsources = ["commits"]\n'
      '[[input]]\nname = "c"\nread = "documents"\npath = "named.jsonl"\nsources = ["code"]\nfilter = false\nnear = false\n'
  )
  done = corpus.prepare(RunFolder(tmp_path / 'run'), inputs.load(tmp_path / 'sources.toml'), Executor())
  sides = [set(), set()]
  for source in ('code', 'commits'):
    for side, kept in zip(sides, documents_of(done, source)):
      side |= {document.repo for document in kept}
  assert sides[1] and not sides[0] & sides[1]


def test_a_shard_that_is_gone_is_made_again(sources, prepared, tmp_path):
  shutil.copytree(prepared.folder, tmp_path / 'documents')
  group = prepared.groups[0]
  (tmp_path / 'documents' / group.shards[0]['path']).unlink()
  again = corpus.prepare(RunFolder(tmp_path), inputs.load(sources), Executor())
  assert hashes(again) == hashes(prepared)


def test_names_do_not_depend_on_what_else_is_found(tmp_path):
  for owner in ('o0/r0', 'o0/r1'):
    (tmp_path / 'all' / owner).mkdir(parents=True)
    history.generated_repository(tmp_path / 'all' / owner, int(owner[-1]), 12)
  text = '[[input]]\nname = "a"\nread = "git"\npath = "all"\nsources = ["commits"]\n'
  (tmp_path / 'sources.toml').write_text(text)
  run = RunFolder(tmp_path / 'run')
  first = corpus.prepare(run, inputs.load(tmp_path / 'sources.toml'), Executor())
  names = {path.name for path in (first.folder / 'collected').iterdir()}
  (tmp_path / 'all' / 'o1' / 'r2').mkdir(parents=True)
  history.generated_repository(tmp_path / 'all' / 'o1' / 'r2', 2, 12)
  second = corpus.prepare(run, inputs.load(tmp_path / 'sources.toml'), Executor())
  assert names < {path.name for path in (second.folder / 'collected').iterdir()}
