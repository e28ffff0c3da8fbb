"""What is held out: whole repositories with their forks, about as many documents as asked, whatever the shards."""

from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.data import split
from iquest_jax.data.documents import Commit, File, Repository

PLACES = st.dictionaries(st.floats(0, 1, exclude_max=True), st.integers(1, 9), min_size=1, max_size=40)


def test_what_comes_of_a_repository_and_of_its_forks_shares_a_unit():
  histories = {'a/b': 'root', 'fork/b': 'root', 'other': 'another root'}
  file, commit = File('1', 'x.py', 'x', 'a/b'), Commit('2', 'm', 'p', 'fork/b')
  repository, other = Repository('3', 'a/b', (('x.py', 'x'),)), File('4', 'x.py', 'x', 'other')
  places = [split.unit(document, histories) for document in (file, commit, repository, other)]
  assert places[0] == places[1] == places[2] != places[3] and {kind for kind, _ in places} == {'repository'}
  alone = [split.unit(File(id, 'x.py', 'x'), histories) for id in '12']
  assert alone[0] != alone[1] and {kind for kind, _ in alone} == {'document'}


@given(PLACES, st.lists(st.integers(0, 3), min_size=40, max_size=40), st.integers(1, 100))
def test_the_limit_does_not_depend_on_how_documents_lie_in_shards(places, shards, documents):
  total = sum(places.values())
  parts = [{place: count for (place, count), at in zip(places.items(), shards) if at == shard} for shard in range(4)]
  whole = split.limit([split.smallest(places, documents)], documents, total)
  assert split.limit([split.smallest(part, documents) for part in parts], documents, total) == whole


@given(PLACES, st.integers(1, 100))
def test_enough_is_held_out_and_never_much_more(places, documents):
  total = sum(places.values())
  limit = split.limit([split.smallest(places, documents)], documents, total)
  held = sorted(place for place in places if place <= limit)
  count = sum(places[place] for place in held)
  if len(places) > 1:
    assert 0 < count < total  # something, but not all
  assert len(held) <= 1 or count <= split.MAX_HELD_OUT_SHARE * total
  assert not held or count - places[held[-1]] < documents  # the last unit was needed


def test_one_unit_alone_is_trained_on():
  assert split.limit([[(0.5, 7)]], 3, 7) == -1.0


@given(st.lists(st.text(min_size=1), unique=True, min_size=1), st.integers(1, 9))
def test_buckets_and_shards_part_the_documents(ids, shards):
  documents = [File(id, 'a.py', 'x') for id in ids]
  halves = [list(split.in_buckets(iter(documents), buckets)) for buckets in ((0.0, 0.5), (0.5, 1.0))]
  assert sorted(halves[0] + halves[1], key=lambda file: file.id) == sorted(documents, key=lambda file: file.id)
  assert all(0 <= split.shard(document, shards) < shards for document in documents)


@given(st.lists(st.tuples(st.sampled_from('abcdef'), st.sampled_from('123456')), max_size=12), st.randoms())
def test_repositories_that_share_a_name_or_a_history_are_joined_in_any_order(pairs, random):
  """Against the components of the graph, found by repeated merging of sets."""
  components = [{('name', name), ('key', key)} for name, key in pairs]
  for _ in components:
    merged = []
    for part in components:
      touching = [other for other in merged if other & part]
      merged = [other for other in merged if not other & part] + [part.union(*touching)]
    components = merged
  least = lambda part: min(key for kind, key in part if kind == 'key')
  expected = {name: least(part) for part in components for kind, name in part if kind == 'name'}
  assert split.joined(pairs) == expected
  random.shuffle(pairs)
  assert split.joined(pairs) == expected
