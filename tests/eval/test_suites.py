"""The table of suites: every name leads to its suite, and sampling is as published."""

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import suites

GREEDY = (0.0, 1.0)
# PAPER.md, section 6: temperature and top-p by family; suites that are not named there sample greedily or as their authors.
SAMPLING = {
    'humaneval': GREEDY, 'mbpp': GREEDY, 'bigcodebench': GREEDY, 'cruxeval': GREEDY, 'livecodebench': (0.6, 0.95),
    'mercury': (0.2, 0.85), 'spider': (0.2, 0.95), 'bird': (0.2, 0.95), 'bfcl': (0.01, 0.85), 'multipl_e': (0.2, 0.95),
    'aider': GREEDY, 'crosscodeeval': GREEDY, 'needle': GREEDY, 'repository': GREEDY, 'small': GREEDY,
}  # fmt: skip


@pytest.mark.parametrize('name', sorted(suites.SUITES))
def test_every_name_leads_to_the_suite_of_that_name_with_published_sampling(name):
  suite = suites.get(name)
  family = next(family for family in SAMPLING if name.startswith(family))
  assert suite.name == name and (suite.sampling.temperature, suite.sampling.top_p) == SAMPLING[family]


def test_an_unknown_name_is_one_clear_error_with_the_nearest_name():
  with pytest.raises(UserError, match='suite "cruxeval" does not exist; did you mean "cruxeval_'):
    suites.get('cruxeval')
