"""Words of a text and their n-grams as 64-bit hashes, computed with numpy over bytes: what texts are compared by.

ours: a word is a run of letters, digits and underscores, and each character of three or more bytes in UTF-8 (as those of
Chinese) is one too. ASCII case is folded; punctuation and white space only separate. So reformatted code keeps its words.
"""

import functools

import numpy as np

# A longer text is hashed in blocks, so that the arrays stay in the cache.
_BLOCK = 1 << 18
_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64


def words(text: str) -> np.ndarray:
  """Hashes of the words of a text in their order, uint64 [N]; equal words have equal hashes wherever they are."""
  data = np.frombuffer(text.encode('utf-8', 'surrogatepass'), np.uint8)
  blocks, start = [], 0
  while start < len(data):
    end = min(start + _BLOCK, len(data))
    if end < len(data):
      # The block ends where a word does, unless a single word fills it.
      separators = np.flatnonzero(_CLASS[data[start:end]] == _SEPARATOR)
      end = start + int(separators[-1]) + 1 if len(separators) else end
    blocks.append(_words(data[start:end]))
    start = end
  return np.concatenate(blocks) if blocks else np.zeros(0, np.uint64)


def ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
  """Hashes of all n-grams of words, uint64 [N - n + 1], in order and with repetitions; none if there are fewer words."""
  count = len(hashes) - n + 1
  if count < 1:
    return np.zeros(0, np.uint64)
  mixed = hashes[:count] * _FACTORS[0]
  for k in range(1, n):
    mixed += hashes[k : k + count] * _FACTORS[k]
  return mix(mixed)


def mix(values: np.ndarray) -> np.ndarray:
  """The finaliser of SplitMix64 (Steele et al. 2014), in place: a bijection whose bits all depend on all bits."""
  values ^= values >> np.uint64(30)
  values *= np.uint64(0xBF58476D1CE4E5B9)
  values ^= values >> np.uint64(27)
  values *= np.uint64(0x94D049BB133111EB)
  values ^= values >> np.uint64(31)
  return values


_SEPARATOR, _PART, _WHOLE = 0, 1, 2  # of a word; _WHOLE is the first byte of a character that is a word


def _classes() -> np.ndarray:
  classes = np.full(256, _SEPARATOR, np.uint8)
  classes[[ord(c) for c in '_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ']] = _PART
  classes[0x80:] = _PART
  classes[0xE0:] = _WHOLE
  return classes


def _weights() -> np.ndarray:
  weights = mix(np.arange(1, 257, dtype=np.uint64) * np.uint64(_BASE))
  weights[ord('A') : ord('Z') + 1] = weights[ord('a') : ord('z') + 1]
  weights[_CLASS == _SEPARATOR] = 0  # so that the separators after a word add nothing to it
  return weights


_CLASS = _classes()
_WEIGHTS = _weights()
_FACTORS = mix(np.arange(1001, 1033, dtype=np.uint64) * np.uint64(_BASE)) | np.uint64(1)


@functools.cache
def _powers(base: int) -> np.ndarray:
  powers = np.full(_BLOCK, base % 2**64, np.uint64)
  powers[0] = 1
  return np.multiply.accumulate(powers)


def _words(data: np.ndarray) -> np.ndarray:
  """A word from byte s on hashes to the sum of weight[byte i] * base^(i - s), mixed."""
  classes = _CLASS[data]
  starts = classes != _SEPARATOR
  starts[1:] &= (classes[:-1] == _SEPARATOR) | (classes[1:] == _WHOLE)
  starts = np.flatnonzero(starts)
  if not len(starts):
    return np.zeros(0, np.uint64)
  terms = _WEIGHTS[data]
  terms *= _powers(_BASE)[: len(data)]
  hashes = np.add.reduceat(terms, starts)
  hashes *= _powers(pow(_BASE, -1, 2**64))[starts]
  return mix(hashes)
