"""Commits read from git: message and patch, no author, no configuration of the user; and commits as edits."""

import pytest

from iquest_jax.data.build import edits
from iquest_jax.data.documents import Commit, to_json
from iquest_jax.data.read.git import read_commits, run_git
from iquest_jax.data.tiny import history
from iquest_jax.errors import UserError


def test_a_generated_history_is_reproducible_whatever_the_git_configuration(tmp_path, monkeypatch):
  (tmp_path / 'config').write_text('[user]\nname = someone\n[core]\nautocrlf = true\n[i18n]\ncommitEncoding = latin1\n')
  heads = []
  for number, config in enumerate(('', str(tmp_path / 'config'))):
    monkeypatch.setenv('GIT_CONFIG_GLOBAL', config)
    monkeypatch.setenv('GIT_DIR', str(tmp_path / 'nowhere') if config else '')
    folder = tmp_path / str(number)
    folder.mkdir()
    history.generated_repository(folder, 3, 30)
    heads.append(run_git(folder, 'rev-parse', 'main'))
    assert len(list(read_commits(folder))) > 25
  assert heads[0] == heads[1]


def test_commits_carry_message_and_patch_but_no_author(tmp_path):
  history.generated_repository(tmp_path, 0, 20)
  message = 'Two lines\n\n\x1e\nand the mark of the reader'
  (tmp_path / 'a.txt').write_text('one\n\x0ctwo\n')
  identity = ('-c', 'user.name=Zoe Author', '-c', 'user.email=zoe@example.invalid')
  run_git(tmp_path, 'add', 'a.txt')
  run_git(tmp_path, *identity, 'commit', '--quiet', '-m', message, 'a.txt')
  commits = list(read_commits(tmp_path))
  assert commits[-1].message == f'{message}\n'
  assert '+one\n+\x0ctwo' in commits[-1].patch
  assert 'Zoe' not in ''.join(map(to_json, commits))


def test_patches_apply(tmp_path):
  origin, copy = tmp_path / 'origin', tmp_path / 'copy'
  origin.mkdir(), copy.mkdir()
  history.generated_repository(origin, 7, 15)
  run_git(copy, 'init', '--quiet')
  for commit in read_commits(origin):
    run_git(copy, 'apply', '--allow-empty', '-', stdin=commit.patch)
  names = run_git(origin, 'ls-tree', '-r', '--name-only', 'main').split()
  assert names
  for name in names:
    assert (copy / name).read_text() == run_git(origin, 'show', f'main:{name}')


def test_missing_git_and_a_folder_without_a_repository_are_named(tmp_path, monkeypatch):
  with pytest.raises(UserError, match='git log in .*readable git repository'):
    list(read_commits(tmp_path))
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(UserError, match='install git'):
    list(read_commits(tmp_path))


def test_an_edit_shows_both_sides_of_the_patch():
  patch = 'diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n same\n--- x\n+++ y\n'
  assert edits.sides(patch) == ('same\n-- x\n', 'same\n++ y\n')
  request, answer = edits.conversation(Commit('1', 'Say y\n', patch)).messages
  assert request == {'role': 'user', 'content': 'Say y\n```\nsame\n-- x\n```'}
  assert answer == {'role': 'assistant', 'content': '```\nsame\n++ y\n```'}
  assert not edits.conversation(Commit('1', 'Add\n', 'diff --git a/a b/a\n@@ -0,0 +1 @@\n+new\n')).messages
