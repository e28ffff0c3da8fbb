"""MinHash of texts: how alike two texts are, from 128 bytes of each.

ours: sets of 5-grams of words, as deduplication of code usually takes them, and everything that the paper, which names
MinHash LSH, leaves open. Two texts count as duplicates from a Jaccard similarity of 0.8 on.
"""

import hashlib

import numpy as np

from iquest_jax.data.clean import shingles

SIZE = 128  # slots of a signature, one byte each
NGRAM = 5
# A pair of Jaccard similarity s shares a key with probability 1 - (1 - s^7)^18: 0.985 at 0.8, 0.13 at 0.5, 0.004 at 0.3.
BANDS, ROWS = 18, 7
# Candidates are linked from this estimate on. By the binomial distribution of 128 slots it loses 0.003 of the pairs at 0.8,
# and links one in 30,000 of those at 0.5 that share a key.
LINKED_FROM = 0.7
_VALUE_BITS, _ROUND_BITS = 48, 9  # of a key; the upper seven bits are the slot


def exact_digest(text: str) -> bytes:
  """16 bytes that are equal for texts that differ at most in the amount of white space; case counts."""
  return hashlib.blake2b(' '.join(text.split()).encode('utf-8', 'surrogatepass'), digest_size=16).digest()


def signature(text: str) -> np.ndarray | None:
  """MinHash signature, uint8 [SIZE]; None for a text of fewer than five words, which only an exact copy duplicates."""
  grams = shingles.ngrams(shingles.words(text), NGRAM)
  return sketch(grams) if len(grams) else None


def sketch(hashes: np.ndarray) -> np.ndarray:
  """Signature of a set of 64-bit hashes, given in any order and with any repetitions: uint8 [SIZE].

  Fast similarity sketching (Dahlgaard, Knudsen, Thorup 2017). Every round throws all hashes into slots, and a slot keeps
  the least value of the first round that reached it; from round SIZE on, each round fills the one slot that is its turn. A
  large set costs one hash per element instead of SIZE, and the estimate is as good as MinHash's for sets of all sizes.
  """
  slots, best = np.arange(SIZE, dtype=np.uint64) << np.uint64(57), np.zeros(SIZE, np.uint64)
  empty, done = np.ones(SIZE, bool), 0
  while empty.any() and done < SIZE:
    # As many rounds at once as should fill all slots, SIZE log(SIZE) = 621 values and some more.
    rounds = min(max(1, 1024 // len(hashes)), SIZE - done)
    keys = _thrown(hashes, np.arange(done, done + rounds, dtype=np.uint64)).ravel()
    keys.sort()
    first = np.searchsorted(keys, slots)
    found = keys[np.minimum(first, len(keys) - 1)]
    fills = empty & (first < len(keys)) & (found >> np.uint64(57) == slots >> np.uint64(57))
    best[fills] = found[fills]
    empty &= ~fills
    done += rounds
  if empty.any():
    turns = np.flatnonzero(empty)
    best[turns] = (_thrown(hashes, (SIZE + turns).astype(np.uint64)) & np.uint64(2**57 - 1)).min(axis=1)
  return best.astype(np.uint8)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Estimated Jaccard similarities of pairs of signatures, uint8 [..., SIZE] each: float32 [...].

  Unequal elements agree in their byte by chance once in 256 times, which is taken off.
  """
  agree = np.count_nonzero(a == b, axis=-1) / SIZE
  return ((agree - 1 / 256) / (1 - 1 / 256)).astype(np.float32)


def bands(signatures: np.ndarray) -> np.ndarray:
  """Keys of locality-sensitive hashing, uint64 [N, BANDS] of signatures uint8 [N, SIZE]: similar texts share one."""
  packed = np.zeros((len(signatures), BANDS, 8), np.uint8)
  packed[..., :ROWS] = signatures[:, : BANDS * ROWS].reshape(-1, BANDS, ROWS)
  packed[..., ROWS] = np.arange(BANDS)  # bands never share a key
  return shingles.mix(packed.view('<u8')[..., 0].astype(np.uint64))


def _thrown(hashes: np.ndarray, rounds: np.ndarray) -> np.ndarray:
  """What rounds make of hashes, uint64 [rounds, N]: slot, round, value, from the upper bits to the lower ones."""
  seeds = shingles.mix((rounds + np.uint64(1)) * np.uint64(0xD1B54A32D192ED03))
  thrown = shingles.mix(hashes[None] ^ seeds[:, None])
  slots = thrown & np.uint64(0x7F << 57)
  thrown &= np.uint64(2**_VALUE_BITS - 1)
  thrown |= slots
  thrown |= (rounds << np.uint64(_VALUE_BITS))[:, None]
  return thrown
