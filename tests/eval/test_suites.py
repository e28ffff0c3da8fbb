"""The table of suites samples as the published results were."""

import pytest

from iquest_jax.eval import suites

GREEDY = (0.0, 1.0)
# PAPER.md, section 6: temperature and top-p by family; suites that are not named there sample greedily or as their authors.
SAMPLING = {
    'humaneval': GREEDY, 'mbpp': GREEDY, 'bigcodebench': GREEDY, 'cruxeval': GREEDY, 'livecodebench': (0.6, 0.95),
    'mercury': (0.2, 0.85), 'spider': (0.2, 0.95), 'bird': (0.2, 0.95), 'bfcl': (0.01, 0.85), 'multipl_e': (0.2, 0.95),
    'aider': GREEDY, 'crosscodeeval': GREEDY, 'needle': GREEDY, 'repository': GREEDY, 'small': GREEDY,
}  # fmt: skip


@pytest.mark.parametrize('name', sorted(suites.SUITES))
def test_sampling_is_the_published_one(name):
  sampling = suites.get(name).sampling
  family = next(family for family in SAMPLING if name.startswith(family))
  assert (sampling.temperature, sampling.top_p) == SAMPLING[family]
