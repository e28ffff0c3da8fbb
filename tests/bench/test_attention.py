"""The bench of attention: what it counts, and what it says of a library that refuses."""

import jax

from launch import bench


def test_a_library_that_refuses_is_named_with_its_words_and_the_others_count(monkeypatch):
  def refuses(*args, **options):
    raise NotImplementedError('only on Hopper\nand more')

  libraries = bench._library_attentions() | {'refuses': refuses}
  monkeypatch.setattr(bench, '_library_attentions', lambda: libraries)
  result = bench._attention(T=128, heads=(2, 1), dtype='float32', repeats=1)
  milliseconds = result['two_calls_and_mix_milliseconds']
  assert milliseconds['refuses'] == 'NotImplementedError: only on Hopper'
  assert result['time_over_best_two_calls'] == round(result['milliseconds'] / milliseconds['jax.nn'], 3)
  pairs = 128 * 129 // 2 + sum(min(i + 1, 64) for i in range(128))
  floating = result['tflops_per_second'] * result['milliseconds'] * 1e9
  assert abs(floating - 14 * 128 * 2 * pairs) < 1e7 * result['milliseconds']
  assert list(libraries) == ['jax.nn', 'refuses'] and jax.default_backend() == 'cpu'
