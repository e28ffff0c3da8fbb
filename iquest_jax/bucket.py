"""Folders on Google Cloud Storage: how they are reached, and in which words what they refuse is reported.

Paths are those of etils.epath, which reads and writes gs:// through fsspec and gcsfs; arrays go through TensorStore. An
object appears whole or not at all. It cannot be appended to, and a folder of objects cannot be renamed in one step.
"""

import contextlib
import errno
import functools
import logging as std_logging
import os
import re
from collections.abc import Sequence
from typing import Any

from etils import epath

from iquest_jax.errors import UserError

SCHEME = 'gs://'
# Tries of a request that a bucket answers with 429 or 5xx, or not at all. Pauses double from one second, so they take about
# half a minute; a try without an answer takes as long as the limits below.
TRIES = 6
_CONNECT_S, _SILENCE_S = 10, 30  # until a connection stands, and without a byte of an answer; large objects may take longer
INSTALL = 'pip install -e .[gcs]'

_GONE = 'the bucket does not exist'
_UNREACHABLE = 'the bucket cannot be reached'
# What HTTP statuses mean, as an errno and in words.
_STATUSES = {
    401: (errno.EACCES, 'permission denied: the credentials are missing or not valid'),
    403: (errno.EACCES, 'permission denied'),
    404: (errno.ENXIO, _GONE),
    429: (errno.EDQUOT, 'quota or rate limit exceeded'),
}


def is_bucket(path: str | os.PathLike) -> bool:
  """Whether a path is on gs://."""
  return os.fspath(path).startswith(SCHEME)


def check(path: str | os.PathLike) -> None:
  """Asks for the bucket of a path once.

  Raises:
    UserError: the packages are missing, or the bucket does not exist, refuses or does not answer.
  """
  name = os.fspath(path).removeprefix(SCHEME).partition('/')[0]
  try:
    connect().call('GET', 'b/{}/o', name, maxResults=1)
  except OSError as error:
    reason = _GONE if isinstance(error, FileNotFoundError) else error.strerror
    raise UserError(f'{SCHEME}{name}: {reason}; fix this, or name another bucket') from error


@functools.cache
def connect() -> Any:
  """The file system behind gs:// paths of this process, whose refusals are OSErrors with errno, words and path.

  Raises:
    UserError: the packages are missing.
  """
  for name in ('gcsfs', 'fsspec'):
    std_logging.getLogger(name).setLevel(std_logging.CRITICAL)  # logs what is raised with a traceback, and every open file
  try:
    import aiohttp
    import fsspec
    from gcsfs import core, retry
  except ImportError as error:
    raise UserError(f'{SCHEME} needs the package {error.name}; install it with {INSTALL}') from error
  _limit_tensorstore()

  # Not gcsfs's class for zonal buckets, which asks for the kind of every bucket over gRPC.
  class Bucket(core.GCSFileSystem):
    _request = retry.retry_request(core.GCSFileSystem._request.__wrapped__, retries=TRIES)
    # A download is tried again as a whole; gcsfs tries again in both, so 36 times.
    _get_file_concurrent = retry.retry_request(core.GCSFileSystem._get_file_concurrent.__wrapped__, retries=TRIES)
    _get_file_request = core.GCSFileSystem._get_file_request.__wrapped__

    async def _call(self, method, path, *args, **kwargs):
      try:
        return await super()._call(method, path, *args, **kwargs)
      except Exception as error:
        gone = isinstance(error, FileNotFoundError) and (method in ('GET', 'DELETE') or 'rewriteTo' in path)
        if isinstance(error, FileExistsError) or gone or not _is_refusal(error):
          raise
        raise _refused(error, SCHEME + ('/'.join(args[:2]) or re.sub('.*/b/([^/]+)/.*', r'\1', path))) from error

    async def _get_file(self, rpath, lpath, **kwargs):
      try:
        await super()._get_file(rpath, lpath, **kwargs)
      except Exception as error:  # downloads do not go through `_call`
        of_disk = type(error).__module__ == 'builtins' and getattr(error, 'errno', None)  # or translated by `_call`
        if isinstance(error, FileNotFoundError) or of_disk or not _is_refusal(error):
          raise
        raise _refused(error, SCHEME + self._strip_protocol(rpath)) from error

    async def _delete_files(self, files, batchsize):
      # One by one, as on emulators: what is refused in gcsfs's batches comes back without a status.
      removals = [self._rm_file(file) for file in files]
      return await fsspec.asyn._run_coros_in_chunks(removals, batch_size=batchsize, return_exceptions=True)

    call = fsspec.asyn.sync_wrapper(_call)  # uploads of open files call it, and gcsfs's own is bound to its `_call`

  fsspec.register_implementation('gcs', Bucket, clobber=True)
  settings = fsspec.config.conf.setdefault('gcs', {})
  # TensorStore writes objects that gcsfs does not hear of, so listings are never cached.
  settings['use_listings_cache'] = False
  # gcsfs has no limit, so an answer that never comes would be waited for until the watchdog ends the run. Uploads have none
  # here either: if the connection dies, the operating system gives it up after a quarter of an hour.
  settings.setdefault('requests_timeout', aiohttp.ClientTimeout(sock_connect=_CONNECT_S, sock_read=_SILENCE_S))
  return epath.backend.fsspec_backend.fs(SCHEME)


def write(path: str | os.PathLike, content: bytes, new: bool = False) -> None:
  """Writes an object.

  Args:
    new: refuse to replace one.

  Raises:
    FileExistsError: there is one with other content.
    OSError: the bucket refuses; an old object is untouched.
  """
  name = os.fspath(path)
  try:
    connect().pipe_file(name, content, mode='create' if new else 'overwrite')
  except FileExistsError:
    if connect().cat_file(name) != content:  # the same if an earlier try was served and its answer lost
      raise
  except OSError as error:
    error.filename = name
    raise


def remove(paths: Sequence[str | os.PathLike]) -> None:
  """Removes objects, several at a time; those that are gone already do not matter."""
  with contextlib.suppress(FileNotFoundError):
    connect().rm([os.fspath(path) for path in paths])


def copy(folder: str | os.PathLike, to: str | os.PathLike) -> None:
  """Copies all objects below a folder to below another one; raises OSError where one is missing or refused."""
  names, begin = sorted(sizes(folder)), len(os.fspath(folder))
  # Two lists, and not two folders, of which fsspec also asks for objects that are named like them.
  connect().copy(names, [os.fspath(to) + name[begin:] for name in names], on_error='raise')


def read_all(paths: Sequence[str | os.PathLike]) -> list[bytes]:
  """Objects, several at a time; raises FileNotFoundError if one is missing."""
  names = [os.fspath(path) for path in paths]
  found = connect().cat(names) if names else {}
  return [found[name.removeprefix(SCHEME)] for name in names]


def sizes(folder: str | os.PathLike) -> dict[str, int]:
  """{path: bytes} of all objects below a folder."""
  found = connect().find(os.fspath(folder), detail=True)
  return {SCHEME + name: entry['size'] for name, entry in found.items()}


def _limit_tensorstore() -> None:
  """Gives TensorStore the same number of tries; by default it repeats a request for a quarter of an hour."""
  from orbax.checkpoint._src.serialization import tensorstore_utils

  for context in (tensorstore_utils._BASE_TS_CONTEXT, tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT):
    context['gcs_request_retries'] = {'max_retries': TRIES - 1, 'initial_delay': '1s', 'max_delay': '32s'}


def _is_refusal(error: Exception) -> bool:
  """Whether gcsfs raised it for what bucket, network or credentials did; other errors are of the program."""
  outside = type(error).__module__.partition('.')[0] in ('aiohttp', 'gcsfs', 'google', 'requests')
  return outside or isinstance(error, OSError) or str(error).startswith('Bad Request: ')


def _refused(error: Exception, path: str) -> OSError:
  """What gcsfs raised as an OSError."""
  status = getattr(error, 'code', None) or getattr(error, 'status', None)
  if isinstance(error, FileNotFoundError):
    status = 404
  elif isinstance(error, OSError) and str(error).startswith('Forbidden'):
    status = 403
  elif type(error).__module__.startswith('google.auth'):
    status = 401
  unreachable = f'{_UNREACHABLE} after {TRIES} tries ({status or type(error).__name__})'
  return OSError(*_STATUSES.get(int(status or 0), (errno.EREMOTEIO, unreachable)), path)


def refusal(error: BaseException) -> str | None:
  """Why a bucket refused TensorStore, in words; None if that is not what this error says."""
  text = str(error)
  if SCHEME not in text or 'tensorstore_spec' not in text:
    return None
  if text.startswith(('PERMISSION_DENIED', 'UNAUTHENTICATED')):
    return _STATUSES[403][1]
  if 'bucket does not exist' in text:
    return _GONE
  if tries := re.search(r'All (\d+) retry attempts failed: ([^\[\n]*)', text):
    return f'{_UNREACHABLE} after {int(tries[1]) + 1} tries ({tries[2].strip()})'
  return _UNREACHABLE if text.startswith(('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED')) else None
