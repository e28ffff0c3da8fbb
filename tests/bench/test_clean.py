"""The bench of cleaning times what it says it does."""

from iquest_jax.bench import clean


def test_a_step_is_timed_on_all_texts():
  seen = []
  result = clean.measure('count', lambda path, text: seen.append(path) or text, [('a.py', 'x' * 50_000), ('b.py',
  'y' * 50_000)])
  assert seen == ['a.py', 'b.py'] and result['step'] == 'count' and result['mb'] == 0.1 and result['mb_per_second'] > 0


def test_parsing_is_no_part_of_plain_cleaning():
  assert 'structure' not in dict(clean._PLAIN) and 'secrets' in dict(clean._PLAIN)
