"""A run folder is a local path or on a bucket, and a file in it is written whole and synced, or not at all."""

import errno
import os
import pathlib
import stat

import pytest

from iquest_jax.errors import UserError
from iquest_jax.run_folder import RunFolder, write_whole


@pytest.mark.parametrize(('workdir', 'scheme'), [('s3://bucket/run', 's3'), ('file:///a', 'file'), ('az:/a', 'az')])
def test_a_workdir_with_another_scheme_is_refused_in_one_line(workdir, scheme):
  with pytest.raises(UserError, match=f'--workdir: {scheme}:/.* is on "{scheme}", which is not supported') as refusal:
    RunFolder(workdir)
  assert '\n' not in str(refusal.value)


@pytest.mark.parametrize('workdir', ['gs://bucket/a/run', 'gs:/bucket/a/run/', pathlib.Path('gs://bucket/a/run')])
def test_a_workdir_on_a_bucket_stays_there(workdir):
  folder = RunFolder(workdir)
  assert str(folder.path) == 'gs://bucket/a/run'
  assert str(folder.stage('anneal').config) == 'gs://bucket/a/run/anneal/config.json'
  assert str(folder.rows('anneal')) == 'gs://bucket/a/run/rows/anneal'
  assert str(folder.rows('anneal', '/data/rows')) == '/data/rows'
  assert str(RunFolder('/data').rows('anneal', 'gs://bucket/rows')) == 'gs://bucket/rows'


@pytest.mark.parametrize(('workdir', 'reason'), [('gs://', 'names no bucket'), ('/gs/b', 'means gs://b to etils')])
def test_what_is_neither_a_bucket_nor_a_local_folder_is_refused(workdir, reason):
  with pytest.raises(UserError, match=reason):
    RunFolder(workdir)


def test_preparing_on_a_bucket_is_refused_with_the_commands_to_use_instead():
  RunFolder('/data').check_on_disk()
  with pytest.raises(UserError, match='on a disk; use a local folder.*gcloud storage rsync --recursive .* gs://bucket/run'):
    RunFolder('gs://bucket/run').check_on_disk()


def test_an_empty_workdir_is_refused():
  with pytest.raises(UserError, match='--workdir is missing; name the folder of the chain'):
    RunFolder('')


def test_a_relative_workdir_becomes_absolute_and_an_absolute_one_stays(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert RunFolder('runs/../runs/a:b').path == tmp_path / 'runs/a:b'
  assert RunFolder(tmp_path / 'runs').path == tmp_path / 'runs'
  assert not list(tmp_path.iterdir())


def test_every_file_of_a_chain_is_below_the_workdir_except_moved_rows(tmp_path):
  run_folder = RunFolder(tmp_path)
  stage = run_folder.stage('anneal')
  assert (stage.name, stage.config) == ('anneal', tmp_path / 'anneal/config.json')
  assert run_folder.rows('anneal') == tmp_path / 'rows/anneal'
  assert run_folder.rows('anneal', '/data/rows') == pathlib.Path('/data/rows')


def test_a_write_replaces_the_old_content(tmp_path):
  for content in ('old', 'né', b'\x00\xff'):
    write_whole(tmp_path / 'file', content)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / 'file').read_bytes() == expected
  assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize('refusing', ['fsync', 'replace'])
def test_a_refused_write_leaves_the_old_content(tmp_path, monkeypatch, refusing):
  write_whole(tmp_path / 'file', 'old')

  def refuse(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(os, refusing, refuse)
    with pytest.raises(OSError, match='No space left on device'):
      write_whole(tmp_path / 'file', 'new')
  assert (tmp_path / 'file').read_text() == 'old'


def test_the_file_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
  calls, fsync, replace = [], os.fsync, os.replace

  def synced(descriptor):
    status = os.fstat(descriptor)
    calls.append('folder' if stat.S_ISDIR(status.st_mode) else f'{status.st_size} bytes')
    fsync(descriptor)

  def replaced(source, target):
    calls.append('rename')
    replace(source, target)

  monkeypatch.setattr(os, 'fsync', synced)
  monkeypatch.setattr(os, 'replace', replaced)
  write_whole(tmp_path / 'file', 'content')
  assert calls == ['7 bytes', 'rename', 'folder']
