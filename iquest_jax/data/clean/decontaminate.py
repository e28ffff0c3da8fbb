"""Finds problems of evaluation sets in documents: by 10-grams, by MinHash, and by words where names were changed.

All ask how much of a problem a document holds, not how alike the two are, so a problem is found in a long file as well.
The least hashes of a problem's n-grams are kept, up to a fixed number: all of a short text, a uniform sample of a long one,
hence an unbiased estimate of the share that a document holds (bottom-k MinHash, Broder 1997).
"""

import collections
import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np

from iquest_jax.data.clean import shingles
from iquest_jax.data.documents import Drop

# ours: all numbers below. By them none of 17,000 Python files of installed packages holds a HumanEval prompt, solution or
# test. Of 820 planted prompts, one was missed where a name was changed, and five where a tenth of all words was.

# An n-gram in more problems of a suite than this is part of its template or of a licence, and identifies none.
_MOST_PROBLEMS = 2
_MOST_NUMBERS = 0.8  # of the words of an n-gram


@dataclasses.dataclass(frozen=True)
class Rule:
  """A document is contaminated if it holds `share` of a text's n-grams and at least `fewest`."""

  name: str
  n: int
  share: float
  fewest: int
  kept: int  # n-grams per text


# As many n-grams as `fewest` span 13 words in a row by the first rule and 10 by the second, the shortest text looked for.
_RULES = (Rule('n-grams', 10, share=0.1, fewest=4, kept=256), Rule('MinHash', 5, share=0.25, fewest=6, kept=128))
# A name that stands everywhere breaks most n-grams. Then a problem of enough words is identified by so many 5-grams and, as
# far as the problem is long on either side of one of them, this share of its different words.
_WORDS_RULE, _HINTS, _WORDS_SHARE, _FEWEST_WORDS = 'words', 2, 0.9, 12
_MOST_WORDS = 512  # kept per text


@dataclasses.dataclass(frozen=True)
class Match:
  """A problem that a document holds; `rule` names how it was found, `evidence` is for people."""

  problem: str
  rule: str
  evidence: str

  def drop(self) -> Drop:
    return Drop(f'contaminated: {self.rule}', f'{self.problem}: {self.evidence}')


class EvalIndex:
  """The n-grams and words of evaluation sets, in at most 15 kB per text.

  Attributes:
    problems: name of the problem of each text, '<suite>/<problem>'.
    skipped: names of the problems none of whose texts can be looked for: too short, or nothing but template and numbers.
  """

  def __init__(self, problems: list[str], skipped: list[str], tables: Iterable['_Table'], lengths, vocabulary: '_Table'):
    self.problems, self.skipped = problems, skipped
    self._tables, self._lengths, self._vocabulary = tuple(tables), lengths, vocabulary

  @classmethod
  def build(cls, suites: Mapping[str, Iterable[tuple[str, str]]]) -> 'EvalIndex':
    """Of suites by name, each (problem, text) pairs; texts of one problem, as prompt and solution, are looked for apart."""
    names, grams, words, skipped = [], [[] for _ in _RULES], [], set()
    for suite, pairs in suites.items():
      numbers = collections.defaultdict(lambda: len(numbers))
      texts = [(numbers[problem], f'{suite}/{problem}', shingles.words(text)) for problem, text in pairs]
      kept = [_own([(number, _telling(hashes, rule.n)) for number, _, hashes in texts], rule) for rule in _RULES]
      for (_, name, hashes), *own in zip(texts, *kept, strict=True):
        if any(map(len, own)):
          names.append(name)
          words.append(hashes)
          for all_grams, of_text in zip(grams, own):
            all_grams.append(of_text)
        else:
          skipped.add(name)
    lengths = np.array([len(hashes) for hashes in words], np.int64)
    vocabulary = _Table.build([np.unique(hashes)[:_MOST_WORDS] for hashes in words])
    return cls(names, sorted(skipped - set(names)), map(_Table.build, grams), lengths, vocabulary)

  def match(self, text: str) -> Match | None:
    """The problem of which the text holds most, by the first rule that finds any; None for a clean text."""
    words = shingles.words(text)
    for rule, table in zip(_RULES, self._tables):
      grams = shingles.ngrams(words, rule.n)
      touched, held = table.held(grams)
      sizes = table.sizes[touched]
      shares = np.where(held >= np.maximum(rule.share * sizes, rule.fewest), held / sizes, 0)
      if shares.max(initial=0) > 0:
        best = np.argmax(shares)
        where = _excerpt(text, table.places(grams, touched[best])[0], rule.n)
        evidence = f'{held[best]} of {sizes[best]} {rule.n}-grams, as in "{where}"'
        return Match(self.problems[touched[best]], rule.name, evidence)
    # `grams`, `touched` and `held` are those of the last rule.
    for hinted in touched[held >= _HINTS]:
      vocabulary, length = self._vocabulary.of(hinted), self._lengths[hinted]
      if len(vocabulary) >= _FEWEST_WORDS:
        share, place = _most_words(words, table.places(grams, hinted), vocabulary, length)
        if share >= _WORDS_SHARE:
          evidence = f'{share:.0%} of {len(vocabulary)} words, around "{_excerpt(text, place, rule.n)}"'
          return Match(self.problems[hinted], _WORDS_RULE, evidence)
    return None

  def save(self, path: pathlib.Path) -> None:
    """Writes the index for other processes to load: an .npz file without pickled objects."""
    tables = enumerate([*self._tables, self._vocabulary])
    arrays = {f'{part}_{i}': getattr(table, part) for i, table in tables for part in _Table.PARTS}
    with open(path, 'wb') as file:
      np.savez(file, problems=_packed(self.problems), skipped=_packed(self.skipped), lengths=self._lengths, **arrays)

  @classmethod
  def load(cls, path: pathlib.Path) -> 'EvalIndex':
    with np.load(path) as stored:
      *tables, vocabulary = (_Table(*(stored[f'{part}_{i}'] for part in _Table.PARTS)) for i in range(len(_RULES) + 1))
      return cls(_unpacked(stored['problems']), _unpacked(stored['skipped']), tables, stored['lengths'], vocabulary)


class _Table:
  """Looks up n-grams of many texts: `by_text` holds them text by text, `sizes` their number for each."""

  PARTS = ('by_text', 'sizes')

  def __init__(self, by_text: np.ndarray, sizes: np.ndarray):
    self.by_text, self.sizes, self._ends = by_text, sizes, np.cumsum(sizes)
    order = np.argsort(by_text, kind='stable')
    self._grams, self._owners = by_text[order], np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)[order]
    # Nearly all n-grams of documents end here: a bit of each hash that occurs, eight times as many bits as hashes.
    bits = max(10, (8 * len(by_text)).bit_length())
    self._shift = np.uint64(64 - bits)
    self._seen = np.zeros(1 << bits, bool)
    self._seen[by_text >> self._shift] = True

  @classmethod
  def build(cls, texts: list[np.ndarray]) -> '_Table':
    return cls(np.concatenate([np.zeros(0, np.uint64), *texts]), np.array([len(grams) for grams in texts], np.int64))

  def held(self, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texts some of whose n-grams are among these, and how many different ones."""
    candidates = grams[self._seen[grams >> self._shift]]
    if len(candidates):
      candidates.sort()
      first = np.searchsorted(self._grams, candidates)
      ours = self._grams[np.minimum(first, len(self._grams) - 1)] == candidates
      ours[1:] &= candidates[1:] != candidates[:-1]
      candidates, first = candidates[ours], first[ours]
    if not len(candidates):
      return np.zeros(0, np.int64), np.zeros(0, np.int64)
    counts = np.searchsorted(self._grams, candidates, 'right') - first
    places = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return np.unique(self._owners[places], return_counts=True)

  def of(self, text: int) -> np.ndarray:
    """The n-grams of a text."""
    return self.by_text[self._ends[text] - self.sizes[text] : self._ends[text]]

  def places(self, grams: np.ndarray, text: int) -> np.ndarray:
    """Positions of those of these n-grams that a text has."""
    return np.flatnonzero(np.isin(grams, self.of(text)))


def _own(texts: list[tuple[int, np.ndarray]], rule: Rule) -> list[np.ndarray]:
  """Of the n-grams of a suite's texts, (problem number, hashes), those to look for: without template, the least ones.

  None of a text that has too few.
  """
  by_problem = collections.defaultdict(list)
  for number, grams in texts:
    by_problem[number].append(grams)
  distinct = [np.unique(np.concatenate(grams)) for grams in by_problem.values()]
  grams, problems = np.unique(np.concatenate([np.zeros(0, np.uint64), *distinct]), return_counts=True)
  own = lambda of_text: of_text[problems[np.searchsorted(grams, of_text)] <= _MOST_PROBLEMS]
  kept = [own(np.unique(of_text))[: rule.kept] for _, of_text in texts]
  return [of_text if len(of_text) >= rule.fewest else of_text[:0] for of_text in kept]


@functools.cache
def _small_numbers() -> np.ndarray:
  return np.sort(shingles.words(' '.join(map(str, range(10_000)))))


def _telling(words: np.ndarray, n: int) -> np.ndarray:
  """The n-grams that are not nearly all small numbers: rows of zeros and ones, or of primes, stand everywhere."""
  small = _small_numbers()
  is_small = small[np.minimum(np.searchsorted(small, words), len(small) - 1)] == words
  numbers = np.concatenate([[0], np.cumsum(is_small)])
  grams = shingles.ngrams(words, n)
  return grams[numbers[n:] - numbers[:-n] <= _MOST_NUMBERS * n] if len(grams) else grams


def _most_words(words: np.ndarray, places: np.ndarray, vocabulary: np.ndarray, length: int) -> tuple[float, int]:
  """The largest share of a vocabulary within `length` words of one of the places, and that place."""
  best, checked = (0.0, 0), -length
  for place in places.tolist():
    # Places close to the one before share its stretch, which is longer by as much; so this takes linear time.
    if place - checked > length // 4:
      checked = place
      stretch = words[max(0, place - length) : place + length + length // 4]
      best = max(best, (float(np.isin(vocabulary, stretch).mean()), place))
  return best


_PART = r'0-9A-Za-z_\u0080-\u07ff'
_WORD = re.compile(rf'[{_PART}]+|[^\u0000-\u07ff][{_PART}]*')  # as shingles.words sees it


def _excerpt(text: str, number: int, n: int) -> str:
  """The words of an n-gram, given the number of its first one, as they stand in the text, white space aside."""
  spans = [match.span() for match, _ in zip(_WORD.finditer(text), range(number + n))][number:]
  return ' '.join(text[spans[0][0] : spans[-1][1]].split())[:200] if spans else ''


def _packed(names: list[str]) -> np.ndarray:
  return np.frombuffer('\0'.join(names).encode('utf-8', 'surrogatepass'), np.uint8)


def _unpacked(data: np.ndarray) -> list[str]:
  return data.tobytes().decode('utf-8', 'surrogatepass').split('\0') if len(data) else []
