"""Duplicates and contamination by embeddings, of a callable and of a server, and what a bad server leads to."""

import zlib

import numpy as np
import pytest

from iquest_jax.data.clean import clusters, duplicates, embedding, index, minhash, semantic
from iquest_jax.data.clean.embedding import EndpointEmbed
from iquest_jax.errors import UserError

from tests.endpoint.scripted import Raw, ScriptedEndpoint

DIMENSION = 64


def bag_of_words(texts):
  """A toy embedding: each word has a random direction, whatever the order of words."""
  vectors = np.zeros((len(texts), DIMENSION), np.float32)
  for row, text in enumerate(texts):
    for word in text.split():
      vectors[row] += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(DIMENSION)
  return vectors


def embedding_server(failures=()):
  return ScriptedEndpoint(lambda body: bag_of_words(body['input']), failures=failures)


def sentence(rng, words=40):
  return ' '.join(f'w{rng.integers(10**6)}' for _ in range(words))


def test_texts_with_the_same_meaning_are_joined_through_the_files_of_duplicates(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  originals = [sentence(rng) for _ in range(40)]
  reordered = [' '.join(rng.permutation(text.split())) for text in originals[:20]]
  monkeypatch.setattr(semantic, '_DOCUMENTS', 7)
  folders = [tmp_path / f'{shard}' for shard in range(3)]
  for shard, texts in enumerate((originals, reordered, [])):
    with semantic.Index(folders[shard], bag_of_words) as writer:
      for row, text in enumerate(texts):
        writer.add(f'{shard}-{row}', minhash.exact_digest(text), 1.0 - shard / 2, text)
  measure = semantic.measure_of(folders)
  links = [tmp_path / f'links{part}' for part in range(3)]
  for part, path in enumerate(links):
    duplicates.find_pairs(folders, part, 3, path, measure)
  assert clusters.merge(links, tmp_path / 'clusters') == {'clusters': 20, 'documents': 40}
  found = clusters.Clusters(tmp_path / 'clusters')
  assert found.dropped(0) == {} and found.dropped(1) == {row: row for row in range(20)}


def test_links_of_texts_and_of_meanings_are_joined_together(tmp_path):
  rng = np.random.default_rng(4)
  text, other = sentence(rng), sentence(rng)
  documents = [text, ' '.join(rng.permutation(text.split())), f'{text} more', other, '']
  texts, meanings = index.IndexWriter(tmp_path / 'text', duplicates.TEXT), semantic.Index(tmp_path / 'm', bag_of_words)
  with texts, meanings:
    for row, document in enumerate(documents):
      about = (f'{row}', minhash.exact_digest(document), 0.5)
      texts.add(*about, minhash.signature(document))
      meanings.add(*about, document)
  duplicates.find_pairs([tmp_path / 'text'], 0, 1, tmp_path / 'a')
  duplicates.find_pairs([tmp_path / 'm'], 0, 1, tmp_path / 'b', semantic.measure_of([tmp_path / 'm'], 0.99))
  assert clusters.merge([tmp_path / 'a'], tmp_path / 'c')['documents'] == 2
  assert clusters.merge([tmp_path / 'a', tmp_path / 'b'], tmp_path / 'c') == {'clusters': 1, 'documents': 3}


def test_shards_embedded_by_two_models_are_refused_in_one_line(tmp_path):
  for shard, embed in enumerate((bag_of_words, lambda texts: bag_of_words(texts)[:, :5])):
    with semantic.Index(tmp_path / f'{shard}', embed) as writer:
      writer.add('a', minhash.exact_digest('a'), 0.5, 'a')
  with pytest.raises(UserError, match='vectors of 5 and of 64 entries'):
    semantic.measure_of([tmp_path / '0', tmp_path / '1'])


@pytest.mark.parametrize(('cosine', 'expected'), [(0.98, 1.0), (0.95, 0.998), (0.9, 0.891), (0.5, 0.0143)])
def test_close_vectors_share_a_key_as_often_as_stated(cosine, expected):
  rng = np.random.default_rng(1)
  a, b = rng.standard_normal((2, 2000, DIMENSION))
  a /= np.linalg.norm(a, axis=1, keepdims=True)
  b -= (a * b).sum(axis=1, keepdims=True) * a
  b = cosine * a + np.sqrt(1 - cosine**2) * b / np.linalg.norm(b, axis=1, keepdims=True)
  keys = semantic.measure(DIMENSION).keys
  share = (keys(a.astype(np.float16)) == keys(b.astype(np.float16))).any(axis=1).mean()
  assert abs(share - expected) < 0.03


def test_a_reworded_problem_is_found_in_a_document_and_others_are_not():
  rng = np.random.default_rng(2)
  problems = [(f'{i}', sentence(rng)) for i in range(5)]
  found = semantic.EmbeddedProblems(bag_of_words, {'suite': problems})
  reordered = ' '.join(rng.permutation(problems[3][1].split()))
  match, clean, blank = found.match([reordered, sentence(rng), ' \n'])
  assert match.problem == 'suite/3' and clean is None and blank is None
  drop = match.drop()
  assert drop.rule == 'contaminated: embedding' and drop.evidence.startswith('suite/3: cosine 1.000 of "w')
  assert semantic.EmbeddedProblems(bag_of_words, {}).match(['a']) == [None]
  assert found.match([]) == []
  many = found.match([sentence(rng) for _ in range(600)] + [reordered])
  assert many[:-1] == [None] * 600 and many[-1].problem == 'suite/3'


def test_a_problem_within_a_long_text_lies_whole_in_a_passage():
  for before in range(4000, 7000, 100):
    parts = semantic.passages('x' * before + 'y' * 900 + 'z' * 3333)
    assert max(map(len, parts)) <= 2000 and any('y' * 900 in part for part in parts)
    assert parts[-1][-1] == 'z'
  assert semantic.passages(' ' * 5000) == semantic.passages('') == []
  for length in (1, 1999, 2000, 2001, 3000, 3001):
    parts = semantic.passages('a' * length)
    assert len(parts[0]) == min(length, 2000) and sum(map(len, parts)) >= length


def test_a_server_embeds_in_batches_and_gets_the_key_in_a_header_only(monkeypatch):
  monkeypatch.setenv('SOME_KEY', 'secret-1')
  with embedding_server() as server:
    vectors = EndpointEmbed(server.url + '/', 'small', 'SOME_KEY', batch=2)(['a b', 'c', 'd e'])
  np.testing.assert_allclose(vectors, bag_of_words(['a b', 'c', 'd e']), rtol=1e-6)
  assert sorted(body['input'] for _, _, body in server.requests) == [['a b', 'c'], ['d e']]
  assert all(path == '/v1/embeddings' and body['model'] == 'small' for path, _, body in server.requests)
  assert all(headers['Authorization'] == 'Bearer secret-1' for _, headers, _ in server.requests)


def test_failures_that_may_pass_are_tried_again():
  with embedding_server([503, 429, Raw('no json')]) as server:
    assert EndpointEmbed(server.url, 'm', waits_s=(0, 0, 0))(['a\ud800']).shape == (1, DIMENSION)
  assert len(server.requests) == 4


@pytest.mark.parametrize(
    ('failures', 'message'),
    [
        ([401], 'refuses with status 401'),
        ([302], 'refuses with status 302'),
        ([500, 500, 500], 'did not answer in 3 tries'),
        ([Raw({'data': []})], 'an embedding per text'),
        ([Raw({'data': [{'index': 0, 'embedding': 'x'}]})], 'an embedding per text'),
        ([Raw([])], 'an embedding per text'),
    ],
)
def test_a_server_that_is_no_help_gives_one_line(failures, message, monkeypatch):
  monkeypatch.setenv('SOME_KEY', 'secret-1')
  with embedding_server(failures) as server, pytest.raises(UserError, match=message) as error:
    EndpointEmbed(server.url, 'm', 'SOME_KEY', waits_s=(0, 0))(['a'])
  assert '\n' not in str(error.value) and 'secret' not in str(error.value)


def test_a_server_that_is_not_there_gives_one_line():
  with pytest.raises(UserError, match='did not answer in 2 tries'):
    EndpointEmbed('http://127.0.0.1:9/v1', 'm', waits_s=(0,), timeout_s=2)(['a'])


@pytest.mark.parametrize('url', ['', 'file:///etc/passwd', 'http://me:word@host/v1', 'http://host/v1?key=1'])
def test_an_endpoint_that_is_no_url_or_holds_a_key_is_refused(url):
  with pytest.raises(UserError, match='endpoint: must '):
    EndpointEmbed(url, 'm')
  with pytest.raises(UserError, match='NOT_SET is not set'):
    EndpointEmbed('http://host/v1', 'm', 'NOT_SET')


@pytest.mark.parametrize('wrong', [np.zeros(3), np.zeros((2, 4)), np.full((1, 4), np.nan), np.zeros((1, 0))])
def test_an_embedding_must_be_one_finite_vector_per_text(wrong):
  with pytest.raises(UserError, match='a finite vector for each of 1 texts'):
    list(embedding.unit_vectors(lambda texts: wrong, ['a']))


def test_a_vector_of_zeros_stays_one():
  (vectors,) = embedding.unit_vectors(lambda texts: np.array([[0.0, 0.0], [0.0, 5.0]]), ['a', 'b'])
  assert vectors.tolist() == [[0, 0], [0, 1]]
