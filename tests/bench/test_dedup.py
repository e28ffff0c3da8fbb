"""The bench of deduplication and decontamination counts what it is given."""

from iquest_jax.bench import dedup


def test_deduplication_and_decontamination_are_measured_on_all_texts():
  texts = [' '.join(f'word{i}x{j}' for j in range(200)) for i in range(6)]
  near = dedup.near_deduplication(texts + texts[:2])
  assert near['documents'] == 8 and near['dropped'] == 2 and near['mb_per_second'] > 0
  checked = dedup.decontamination(texts, texts[:1])
  assert checked['documents'] == 6 and checked['found'] == 1 and checked['problems'] > 1
