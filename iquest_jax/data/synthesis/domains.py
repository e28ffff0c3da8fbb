"""THE table of domains. A domain is imported when it is asked for."""

import importlib

from iquest_jax.data.synthesis.domain import Domain
from iquest_jax.errors import check_name

# Name, also of the module in this folder, and what its samples are.
DOMAINS = {
    'facts': 'questions about a file with one right answer, answered again from the file',
    'mathematics': 'problems whose independent solutions agree',
    'tools': 'dialogues with calls of tools, which are run',
    'questions': 'questions about a repository, looked up in it',
    'instructions': 'open requests, checked by code where they can be and judged by an ensemble',
    'sql': 'questions to SQL and back, executed',
    'editing': 'instructions for real changes',
    'competition': 'programming problems with generated tests',
    'terminal': 'tasks for a shell, with a check of the goal',
    'api': 'tasks whose solution calls given functions',
    'translation': 'a function in two languages, executed on the same inputs',
}


def load(name: str) -> Domain:
  """The domain of this name: `DOMAIN` of its module.

  Raises:
    UserError: there is none.
  """
  check_name('--domain: domain', name, DOMAINS)
  return importlib.import_module(f'iquest_jax.data.synthesis.{name}').DOMAIN
