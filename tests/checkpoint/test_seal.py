"""A seal detects any change of itself."""

import pytest

from iquest_jax.checkpoint import seal


def test_any_changed_byte_of_a_seal_is_detected():
  text = seal.to_text({'params/_METADATA': 'ab' * 32})
  assert seal.from_text(text) == {'params/_METADATA': 'ab' * 32}
  for at in range(len(text)):
    with pytest.raises(ValueError):
      seal.from_text(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])
