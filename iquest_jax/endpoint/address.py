"""Where an endpoint is, its key, and the name of its model."""

import os
import re
import urllib.parse

from iquest_jax.errors import UserError

METHODS = ('/chat/completions', '/completions', '/embeddings')
_VERSION = re.compile(r'[-@:](\d{4,8}|\d{4}-\d{2}-\d{2}|latest)')


def base(url: str) -> str:
  """The URL of the API, without a method; raises UserError if it is none."""
  try:
    parts = urllib.parse.urlsplit(url)
    written = url.isascii() and url.isprintable() and ' ' not in url
    whole = written and parts.scheme in ('http', 'https') and parts.hostname and parts.port != 0
  except ValueError:
    whole = False
  if not whole:
    scheme = url.partition(':')[0] if ':' in url else ''
    raise UserError(f'endpoint: must be the URL of an API, as in http://localhost:8000/v1, got scheme "{scheme}"')
  if parts.username or parts.password or parts.query or parts.fragment:
    raise UserError('endpoint: must hold no key or password; put the key into an environment variable, see key_env')
  base = url.rstrip('/')
  for method in METHODS:
    base = base.removesuffix(method)
  return base


def key(variable: str) -> str:
  """The key in an environment variable; raises UserError if it cannot be one."""
  if not variable:
    return ''
  value = os.environ.get(variable, '').strip()
  if not value:
    raise UserError(f'key_env: the environment variable {variable} is not set or is empty; export the key there')
  if not (value.isascii() and value.isprintable()):
    raise UserError(f'key_env: the key in {variable} must be printable ASCII')
  return value


def same_model(ours: str, theirs: str) -> bool:
  """Whether a server's name is ours, perhaps with a folder before it, or a date or ":latest" after it."""
  ours, theirs = (name.lower().rsplit('/', 1)[-1] for name in (ours, theirs))
  undated = ours.removesuffix('-latest')
  return theirs == ours or theirs.startswith(undated) and bool(_VERSION.fullmatch(theirs[len(undated) :]))
