"""Documents: JSONL, splits, collectors, commits, generators."""

import gzip
import itertools
import json
import os
import subprocess

import pytest

from iquest_jax.data import commits, documents, repos, sources
from iquest_jax.data.documents import Document
from iquest_jax.data.tiny import facts, packages, reasoning
from iquest_jax.errors import UserError


def _write(folder, source, lines):
  (folder / source).mkdir(exist_ok=True)
  (folder / source / 'a.jsonl').write_text('\n'.join(lines))


def test_jsonl_reads_back_what_was_written_plain_and_gzipped(tmp_path):
  code = Document('1', 'code', (('a.py', 'x = "é"\n'),), (), 'r')
  chat = Document('2', 'code', (), ({'role': 'user', 'content': 'hi'},))
  _write(tmp_path, 'code', [code.to_json(), ''])
  with gzip.open(tmp_path / 'code' / 'b.jsonl.gz', 'wt', encoding='utf-8') as file:
    file.write(chat.to_json())
  assert list(documents.read_jsonl(tmp_path, 'code')) == [code, chat]


@pytest.mark.parametrize(
    'line, reason',
    [
        ('{"id": "1", "files": [["a", "b"]]', 'not JSON'),
        ('[]', 'a document is an object'),
        ('{"files": [["a", "b"]]}', '"id" is missing'),
        ('{"id": 3, "files": [["a", "b"]]}', '"id" is not a string'),
        ('{"id": "1"}', 'either files or messages'),
        ('{"id": "1", "files": [["a"]]}', '"files" is not'),
        ('{"id": "1", "text": "a"}', 'unknown field "text"'),
        ('{"id": "1", "messages": [{"role": "bot", "content": ""}]}', 'role "bot"'),
        ('{"id": "1", "messages": [{"role": "user", "content": null}]}', '"content"'),
        ('{"id": "1", "messages": [{"role": "user", "content": "", "tool_calls": [{}]}]}', '"tool_calls"'),
    ],
)
def test_a_malformed_line_is_named_in_one_line(tmp_path, line, reason):
  _write(tmp_path, 'code', [Document('0', 'code', (('a', 'b'),)).to_json(), line])
  with pytest.raises(UserError, match=r'a\.jsonl:2: ') as error:
    list(documents.read_jsonl(tmp_path, 'code'))
  assert reason in str(error.value) and '\n' not in str(error.value)


def test_a_damaged_gzip_file_is_named(tmp_path):
  (tmp_path / 'code').mkdir()
  (tmp_path / 'code' / 'a.jsonl.gz').write_bytes(b'no gzip')
  with pytest.raises(UserError, match='a.jsonl.gz:1'):
    list(documents.read_jsonl(tmp_path, 'code'))


def test_a_source_without_files_is_named(tmp_path):
  with pytest.raises(UserError, match='no .*jsonl.* in .*code'):
    list(sources.read('code', 0, str(tmp_path)))


def test_unknown_source_offers_the_nearest():
  with pytest.raises(UserError, match='did you mean "commits"'):
    sources.read('comits', 0)


def test_splits_and_buckets_deal_every_document_once():
  found = [Document(str(i), 'code', (('a', 'b'),)) for i in range(4000)]
  parts = [
      {d.id for d in documents.select(iter(found), split, bounds)}
      for split, bounds in itertools.product(('train', 'held_out'), ((0.0, 0.5), (0.5, 1.0)))
  ]
  assert sum(map(len, parts)) == len(set.union(*parts)) == 4000
  assert 0.04 < (len(parts[2]) + len(parts[3])) / 4000 < 0.09
  assert 0.45 < (len(parts[0]) + len(parts[2])) / 4000 < 0.55


def test_an_endless_source_of_which_nothing_is_selected_ends():
  endless = (Document(f'{i}', 'code', (('a', 'b'),)) for i in itertools.count())
  found = list(documents.select(endless, 'train', (0.0, 0.01), patience=300))
  assert found and all(documents.bucket(document) < 0.01 for document in found)
  read = next(endless).id  # the selected ones reset the count
  assert int(read) - int(found[-1].id) == 301 and int(read) > 301


def test_a_repository_is_held_out_whole_at_every_level():
  held = {d.repo for d in packages.code() if documents.is_held_out(d)}
  assert held
  for document in itertools.chain(packages.code(), packages.repositories(), packages.web_text()):
    assert documents.is_held_out(document) == (
        document.repo in held or documents.is_held_out(Document('', '', repo=document.repo))
    )


@pytest.mark.parametrize('source', sorted(sources.BUILT_IN))
def test_every_built_in_source_is_the_same_again_and_has_both_splits(source):
  first, second = (list(itertools.islice(sources.read(source, 5), 300)) for _ in range(2))
  assert first == second and len(first) > 50
  assert {documents.is_held_out(d) for d in first} == {True, False}
  for document in first:
    assert Document.from_json(document.to_json()) == _plain(document)
    assert all(text for _, text in document.files) and str(os.getcwd()) not in document.to_json()


def _plain(document):
  """Tuples inside messages come back from JSON as lists."""
  return Document(**{**vars(document), 'messages': tuple(json.loads(json.dumps(document.messages)))})


def test_equal_content_has_an_equal_id():
  by_id = {}
  for document in itertools.islice(sources.read('chat_instruct', 0), 3000):
    assert by_id.setdefault(document.id, document) == document
  assert len(by_id) < 3000  # there were repetitions to tell


def test_facts_are_true_and_have_one_answer():
  answers = {}
  for document in facts.facts(0):
    question, answer = document.files[0][1].strip().split('\n')
    assert answers.setdefault(question, answer) == answer
  assert answers['Question: What is the default of sort_keys in json.dumps?'] == 'Answer: False'
  assert answers['Question: What is the first parameter of textwrap.indent?'] == 'Answer: text'


def test_reasoning_answers_are_computed_right():
  checked = 0
  for document in itertools.islice(reasoning.samples(1, 'reasoning_qa', thinking=False), 300):
    question, reply = (message['content'] for message in document.messages)
    if question.startswith('What is ') and '```' not in question:
      expression = question.removeprefix('What is ').removesuffix('?').removesuffix(' in Python')
      assert reply.endswith(f'Answer: {eval(expression)}')  # arithmetic of our own making
      checked += 1
  assert checked > 100


def test_generated_history_is_the_same_again_and_ignores_the_users_git_configuration(tmp_path, monkeypatch):
  (tmp_path / 'config').write_text('[user]\nname = someone\n[core]\nautocrlf = true\n[i18n]\ncommitEncoding = latin1\n')
  heads = []
  for number, config in enumerate(('', str(tmp_path / 'config'))):
    monkeypatch.setenv('GIT_CONFIG_GLOBAL', config)
    monkeypatch.setenv('GIT_DIR', str(tmp_path / 'nowhere') if config else '')
    folder = tmp_path / str(number)
    folder.mkdir()
    repos.generated_repository(folder, 3, 30)
    heads.append(repos.run_git(folder, 'rev-parse', 'main'))
    assert len(list(repos.read_commits(folder))) > 25
  assert heads[0] == heads[1]


def test_commits_carry_message_and_patch_but_no_author(tmp_path):
  repos.generated_repository(tmp_path, 0, 20)
  message = 'Two lines\n\n\x1e\nand the mark of the reader'
  (tmp_path / 'a.txt').write_text('one\n\x0ctwo\n')
  identity = ('-c', 'user.name=Zoe Author', '-c', 'user.email=zoe@example.invalid')
  repos.run_git(tmp_path, 'add', 'a.txt')
  repos.run_git(tmp_path, *identity, 'commit', '--quiet', '-m', message, 'a.txt')
  found = list(repos.read_commits(tmp_path))
  last = dict(found[-1].files)
  assert last['message'].strip() == message
  assert '+one\n+\x0ctwo' in last['patch']
  assert 'Zoe' not in ''.join(document.to_json() for document in found)


def test_an_edit_shows_both_sides_of_the_patch():
  patch = 'diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n same\n--- x\n+++ y\n'
  assert commits.sides(patch) == ('same\n-- x\n', 'same\n++ y\n')
  request, answer = commits.as_edit(commits.document('Say y', patch))
  assert 'Say y' in request['content'] and '-- x' in request['content'] and '++ y' in answer['content']
  assert commits.as_edit(commits.document('Add', 'diff --git a/a b/a\n@@ -0,0 +1 @@\n+new\n')) == ()


def test_missing_git_and_a_folder_without_a_repository_are_named(tmp_path, monkeypatch):
  with pytest.raises(UserError, match='git log in .*readable git repository'):
    list(repos.read_commits(tmp_path))
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(UserError, match='install git'):
    list(repos.read_commits(tmp_path))


def test_patches_apply(tmp_path):
  origin, copy = tmp_path / 'origin', tmp_path / 'copy'
  origin.mkdir(), copy.mkdir()
  repos.generated_repository(origin, 7, 15)
  repos.run_git(copy, 'init', '--quiet')
  for document in repos.read_commits(origin):
    repos.run_git(copy, 'apply', '--allow-empty', '-', stdin=dict(document.files)['patch'])
  wanted = repos.run_git(origin, 'ls-tree', '-r', '--name-only', 'main').split()
  for name in wanted:
    assert (copy / name).read_text() == repos.run_git(origin, 'show', f'main:{name}')
  assert subprocess.run(['ls', copy / 'src'], capture_output=True, check=True).stdout.decode().split()
