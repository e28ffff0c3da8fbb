"""The bench of the client of endpoints."""

from iquest_jax.bench import endpoint


def test_the_client_is_compared_with_one_that_costs_nothing():
  result = endpoint.measure(requests=16, in_flight=8, repeats=1)
  assert result['over_ideal'] >= 1 and result['cpu_ms_per_request'] > 0
