"""The table of suites is whole, and samples as the published results were."""

import importlib
import pathlib

import pytest

from iquest_jax.eval import suites
from iquest_jax.eval.suite import Suite

GREEDY = (0.0, 1.0)
# (temperature, top-p) by family, from the model's public README; what it does not name is greedy or as its authors sample.
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


def test_the_table_holds_every_suite_under_its_name():
  defined = {}
  for path in pathlib.Path(suites.__file__).parent.glob('*.py'):
    module = importlib.import_module(f'iquest_jax.eval.{path.stem}')
    defined |= {value.name: value for value in vars(module).values() if isinstance(value, Suite)}
  assert defined == {name: suites.get(name) for name in suites.SUITES}
