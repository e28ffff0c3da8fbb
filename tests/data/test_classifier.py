"""Quality classifiers: no label leaks by a near-duplicate, the report is about the stored weights, thresholds drop."""

import base64
import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iquest_jax.bench import quality as bench
from iquest_jax.data.clean import classifier, classifier_training, shingles
from iquest_jax.data.clean.classifier import Classifier
from iquest_jax.data.clean.classifier_training import Label
from iquest_jax.data.documents import Drop
from iquest_jax.errors import UserError

from tests import processes
from tests.data import raw

TAUGHT = ('because', 'for', 'example', 'therefore', 'note', 'that', 'returns', 'explains', 'means', 'suppose')


def text(number: int, education: int) -> str:
  """Prose of its own for each number, with the more words of a teacher the higher the label."""
  rng = random.Random(f'text:{number}')
  lines = raw.prose(number, 8).splitlines()
  return '\n'.join(f'{line} {" ".join(rng.choices(TAUGHT, k=education))}' for line in lines)


def some_labels(count: int = 120) -> list[Label]:
  rng = random.Random(0)
  values = [rng.randint(0, 5) for _ in range(count)]
  return [
      Label(f'{number}', text(number, value), {'education': float(value), 'density': float(value > 2)})
      for number, value in enumerate(values)
  ]


@pytest.fixture(name='model', scope='module')
def _model():
  return classifier_training.train(some_labels(), 'text')


@pytest.fixture(name='path')
def _path(model, tmp_path):
  (tmp_path / 'text.json').write_text(json.dumps(model))
  return tmp_path / 'text.json'


def test_a_classifier_beats_always_the_majority_on_texts_held_out(model):
  assert list(model['scores']) == ['density', 'education'] and model['kind'] == 'text'
  for part in model['scores'].values():
    about = part['report']
    assert (about['trained'], about['held_out']) == (96, 24) and about['rank_correlation'] > 0.7
    assert about['accuracy'] > about['majority_accuracy']
  at = model['scores']['education']['report']['thresholds']['2.5']
  assert at['accuracy'] > at['majority_accuracy'] and at['balanced_accuracy'] > 0.8 and at['f1'] > at['majority_f1']
  assert 'always the majority' in classifier_training.lines(model)[0]


def test_the_report_is_about_the_stored_weights_on_texts_that_they_never_saw(model, path):
  labels = {label.text: label.scores for label in some_labels()}
  ordered = sorted(labels, key=classifier_training.minhash.exact_digest)
  is_held_out = classifier_training.split(classifier_training.near_duplicates(ordered), 0)
  predicted = Classifier.load(path).scores([text for text, held in zip(ordered, is_held_out) if held])
  for name, part in model['scores'].items():
    truth, trained = (
        np.array([labels[text][name] for text, held in zip(ordered, is_held_out) if held == side]) for side in (True, False)
    )
    assert classifier_training.report(truth, predicted[name], trained) == part['report']
  # Other labels of the held-out texts change the report and no weight.
  changed = [
      Label(text, text, scores if not held else {name: 5 - value for name, value in scores.items()})
      for (text, scores), held in zip(((text, labels[text]) for text in ordered), is_held_out)
  ]
  other = classifier_training.train(changed, 'text')
  for name, part in model['scores'].items():
    assert other['scores'][name]['words'] == part['words'] and other['scores'][name]['report'] != part['report']


def near_copies(groups: int = 16, copies: int = 6) -> list[Label]:
  """Groups of near-duplicates whose labels follow from nothing but the group."""
  rng, labels = random.Random(1), []
  for group in range(groups):
    value = float(rng.randint(0, 5))
    lines = raw.prose(1000 + group, 40).splitlines()
    for copy in range(copies):
      changed = [*lines[:copy], f'Copy {copy} of it.', *lines[copy + 1 :]]
      labels.append(Label(f'{group}/{copy}', '\n'.join(changed), {'education': value}))
  return labels


def test_near_duplicates_are_on_one_side_so_that_no_label_leaks(monkeypatch):
  labels = near_copies()
  groups = classifier_training.near_duplicates([label.text for label in labels])
  assert groups.tolist() == [row - row % 6 for row in range(len(labels))]
  sides = classifier_training.split(groups, 0)
  assert 0 < sides.sum() <= 0.2 * len(labels)
  assert all(len(set(sides[groups == group])) == 1 for group in set(groups))
  honest = classifier_training.train(labels)['scores']['education']['report']
  monkeypatch.setattr(classifier_training, 'near_duplicates', lambda texts: np.arange(len(texts)))
  leaking = classifier_training.train(labels)['scores']['education']['report']
  assert leaking['rank_correlation'] > 0.9 and leaking['accuracy'] > 0.9
  assert honest['rank_correlation'] < 0.5 and honest['accuracy'] < 0.5


def test_labels_of_one_cluster_cannot_be_split():
  copies = [Label(f'{n}', f'{raw.prose(7, 60)}Copy {n}.', {'education': float(n % 3)}) for n in range(45)]
  with pytest.raises(UserError, match='45 texts are 1 clusters of near-duplicates'):
    classifier_training.train(copies)


def test_the_same_labels_and_seed_give_the_same_bytes_in_any_order(model):
  shuffled = random.Random(3).sample(some_labels(), 120)
  assert json.dumps(classifier_training.train(shuffled, 'text')) == json.dumps(model)
  other = classifier_training.train(shuffled, 'text', seed=1)
  assert other['scores']['education']['words'] != model['scores']['education']['words']


def test_the_number_of_threads_changes_nothing(tmp_path):
  # Large enough for BLAS to divide its work.
  rng = random.Random(5)
  labels = [
      {
          'id': n,
          'text': ' '.join(f'{rng.getrandbits(40):x}' for _ in range(300 if n else 6000)),
          'scores': {'density': n % 6, 'education': n % 5, 'toxicity': n % 2},
      }
      for n in range(45)
  ]
  (tmp_path / 'labels.jsonl').write_text('\n'.join(map(json.dumps, labels)))
  program = (
      'from iquest_jax.data.clean import classifier, classifier_training as training\n'
      'from iquest_jax.data.read import records\n'
      f'labels, _, _ = training.read_labels(records.records({str(tmp_path / "labels.jsonl")!r}))\n'
      'model = training.train(labels)\n'
      'scores = classifier.Classifier(model).scores([label.text for label in labels])\n'
      'print(model["sha256"], [values.tobytes() for values in scores.values()])'
  )
  run = lambda threads: subprocess.run(
      [sys.executable, '-c', program], capture_output=True, check=True, cwd=processes.ROOT,
      env=os.environ | dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), threads),
  ).stdout  # fmt: skip
  assert run('1') == run('2')


@pytest.mark.parametrize(
    ('labels', 'said'),
    [
        ([], 'none is left'),
        (some_labels(39), '39 of "density"; training needs at least 40'),
        ([Label(label.id, label.text, {'toxicity': 1.0}) for label in some_labels(60)], 'every text has the same scores'),
    ],
)
def test_labels_that_teach_nothing_are_one_clear_line(labels, said):
  with pytest.raises(UserError, match=said):
    classifier_training.train(labels)


GOOD = {'id': 'a', 'text': 'x = 1', 'scores': {'density': 3, 'toxicity': 0.5}, 'kind': 'code', 'path': 'a.py'}
BAD = [
    ('label: no id', {'id': ''}),
    ('label: no id', {'id': None}),
    ('label: no id', {'id': True}),
    ('label: no text', {'text': ' \n'}),
    ('label: no text', {'text': 3}),
    ('label: no scores', {'scores': {}}),
    ('label: no scores', {'scores': [3]}),
    ('label: unknown score', {'scores': {'beauty': 3}}),
    ('label: outside the scale', {'scores': {'density': 6}}),
    ('label: outside the scale', {'scores': {'density': -0.1}}),
    ('label: outside the scale', {'scores': {'density': math.nan}}),
    ('label: outside the scale', {'scores': {'density': True}}),
    ('label: outside the scale', {'scores': {'density': '3'}}),
    ('label: outside the scale', {'scores': {'density': 3, 'education': None}}),
    ('label: the same id twice', {'text': 'another'}),
    ('label: the same text twice', {'id': 'b'}),
    ('label: the same text twice', {'id': 'b', 'text': ' x  = 1'}),
]


@pytest.mark.parametrize(('rule', 'changes'), BAD)
def test_a_malformed_label_is_a_counted_drop_and_nothing_else_is_lost(rule, changes):
  last = GOOD | {'id': 'z', 'text': 'y = 2'}
  lines = [('f:1', GOOD), ('f:2', Drop('line: not JSON')), ('f:3', GOOD | changes), ('f:4', last)]
  labels, kind, funnel = classifier_training.read_labels(lines)
  assert [label.id for label in labels] == ['a', 'z'] and kind == 'code'
  assert labels[0].scores == {'density': 3.0, 'toxicity': 0.5}
  funnel.check()
  assert funnel.drops == {'line: not JSON': 1, rule: 1}


def test_kinds_of_text_are_not_mixed():
  with pytest.raises(UserError, match='f:1 is of kind "code", f:2 of "text"; train one classifier per kind'):
    classifier_training.read_labels([('f:1', GOOD), ('f:2', GOOD | {'id': 'b', 'text': 'b', 'kind': 'text'})])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['density', 'x']), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.sampled_from(['id', 'text', 'scores']), _JSON, max_size=3), max_size=5))
def test_whatever_a_line_holds_it_is_a_label_on_the_scale_or_counted(records):
  labels, _, funnel = classifier_training.read_labels((f'f:{n}', record) for n, record in enumerate(records))
  funnel.check()
  assert (funnel.read, funnel.kept) == (len(records), len(labels))
  assert all(0 <= value <= 5 for label in labels for value in label.scores.values())


def test_the_report_agrees_with_its_definitions():
  rng = np.random.default_rng(0)
  truth, trained = rng.integers(0, 6, 60).astype(float), np.array([4.0, 4, 4, 1, 5])
  predicted = np.clip(truth + rng.normal(0, 1.5, 60), 0, 5)

  def ranks(values):
    return [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]

  a, b = (np.array(ranks(values)) - 30.5 for values in (truth, predicted))
  found = classifier_training.report(truth, predicted, trained)
  assert found['rank_correlation'] == pytest.approx((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()), abs=1e-4)
  assert found['accuracy'] == pytest.approx(np.mean(np.rint(predicted) == truth), abs=1e-4)
  assert found['majority_accuracy'] == pytest.approx(np.mean(truth == 4), abs=1e-4)
  for threshold, at in found['thresholds'].items():
    hits = [(t >= float(threshold), p >= float(threshold)) for t, p in zip(truth, predicted)]
    pairs = [(True, True), (True, False), (False, True), (False, False)]
    both, missed, wrong, neither = map(hits.count, pairs)
    assert at['accuracy'] == pytest.approx((both + neither) / 60, abs=1e-4)
    balanced = (both / (both + missed) + neither / (neither + wrong)) / 2
    assert at['balanced_accuracy'] == pytest.approx(balanced, abs=1e-4)
    assert at['f1'] == pytest.approx(2 * both / (2 * both + missed + wrong), abs=1e-4)
    above, is_above = (both + missed) / 60, float(threshold) < 4
    assert at['majority_accuracy'] == pytest.approx(above if is_above else 1 - above, abs=1e-4)
    assert at['majority_f1'] == pytest.approx(2 * above / (above + 1) if is_above else 0, abs=1e-4)
  assert list(found['thresholds']) == ['0.5', '1.5', '2.5', '3.5', '4.5']


@pytest.mark.parametrize('given_text', ['', 'one', 'a a b A b a', 'x = f(x)\n' * 30, raw.prose(1)])
def test_features_are_the_signed_logarithmic_counts_of_words_and_pairs(given_text):
  words = [int(word) for word in shingles.words(given_text)]
  pairs = [int(pair) for pair in shingles.ngrams(shingles.words(given_text), 2)]
  counts, expected = {}, {}
  for gram in words + pairs:
    counts[gram >> 45] = counts.get(gram >> 45, 0) + 1
  for key, count in counts.items():
    expected[key >> 1] = expected.get(key >> 1, 0.0) + (1 + math.log(count)) * (1 if key & 1 else -1)
  length = math.sqrt(sum(value * value for value in expected.values())) or 1.0
  buckets, values, measures = classifier.features(given_text)
  assert buckets.tolist() == sorted(expected) and len(measures) == classifier.MEASURES
  np.testing.assert_allclose(values, [expected[bucket] / length for bucket in sorted(expected)], rtol=1e-6)


def at_signs(intercept: float) -> Classifier:
  """One that was trained on texts with at most a tenth of @, and adds ten times their share."""
  place = list(classifier._PUNCTUATION).index(ord('@'))  # pylint: disable=protected-access
  measures, most = np.zeros(classifier.MEASURES), np.ones(classifier.MEASURES)
  measures[place], most[place] = 10.0, 0.1
  words = base64.b64encode(bytes(2 * classifier.BUCKETS)).decode()
  part = {'intercept': intercept, 'measures': measures.tolist(), 'words': words}
  span = [np.zeros(classifier.MEASURES).tolist(), most.tolist()]
  return Classifier({'kind': '', 'sha256': '', 'range': span, 'scores': {'density': part}})


def test_scores_stay_on_the_scale_and_measures_within_what_training_saw():
  score = lambda intercept, given_text: at_signs(intercept).scores([given_text])['density'][0]
  assert score(1, 'ab@ab' * 4 + 'x' * 80) == pytest.approx(1 + 10 * 0.04)
  assert score(1, '@' * 100) == pytest.approx(2)
  assert score(4.5, '@') == 5 and score(-1, 'x') == 0


def test_a_long_text_is_scored_by_its_head_its_middle_and_its_tail():
  piece = classifier.PIECE
  long = 'a' * (10 * piece) + 'b' * piece + 'c' * (10 * piece)
  assert classifier.excerpt(long) == 'a' * piece + '\n' + 'b' * piece + '\n' + 'c' * piece
  assert classifier.excerpt(long[: 3 * piece]) == long[: 3 * piece]


@given(st.lists(st.text(st.characters(), max_size=40), max_size=4))
def test_every_text_has_a_score_on_the_scale_whatever_it_is_scored_with(model, texts):
  found = Classifier(model)
  scores = found.scores([*texts, 'x' * 100])
  for name, values in scores.items():
    assert values.shape == (len(texts) + 1,) and (values >= 0).all() and (values <= 5).all()
    assert [found.scores([one])[name][0] for one in texts] == values[:-1].tolist()


def test_scoring_needs_numpy_alone(path):
  program = (
      'import sys\nfrom iquest_jax.data.clean.classifier import Classifier\n'
      f'Classifier.load({str(path)!r}).scores(["x"])\n'
      'print([name for name in ("sklearn", "scipy", "jax", "tensorflow") if name in sys.modules])'
  )
  assert subprocess.run([sys.executable, '-c', program], capture_output=True, cwd=processes.ROOT).stdout == b'[]\n'


def test_a_document_that_misses_a_threshold_is_dropped_by_its_rule(path):
  def rule(given_text, **thresholds):
    quality = classifier.parse('s', {'model': path.name, **thresholds}, path.parent)
    drop = classifier.check(given_text, quality)
    return drop and drop.rule

  good, bad = text(500, 5), text(501, 0)
  assert rule(good, education=2.5, density=0.5) is None
  assert rule(bad, education=2.5) == 'quality: education below the threshold'
  assert rule(bad, density=0.5, education=2.5) == 'quality: density below the threshold'
  assert rule(bad, education=0) is None


def test_harm_is_at_most_and_value_at_least(tmp_path, model):
  harmful = {**model, 'scores': {'toxicity': model['scores']['education']}}
  (tmp_path / 'm.json').write_text(json.dumps({**harmful, 'sha256': classifier.digest(harmful)}))
  quality = classifier.parse('s', {'model': 'm.json', 'toxicity': 2.5}, tmp_path)
  assert classifier.check(text(501, 0), quality) is None
  assert classifier.check(text(500, 5), quality).rule == 'quality: toxicity above the threshold'


@pytest.mark.parametrize(
    ('table', 'said'),
    [
        ({'model': 'text.json', 'educaton': 2}, r'"educaton" does not exist; did you mean "education"\?'),
        ({'education': 2}, '"model" must name the file'),
        ({'model': '', 'education': 2}, '"model" must name the file'),
        ({'model': 'text.json'}, 'has no threshold'),
        ({'model': 'text.json', 'education': 6}, r'education must be a number in \[0, 5\], got 6'),
        ({'model': 'text.json', 'education': True}, 'must be a number'),
        ({'model': 'text.json', 'education': '2'}, 'must be a number'),
        ({'model': 'text.json', 'education': math.nan}, 'must be a number'),
        ({'model': 'text.json', 'toxicity': 2}, 'has no score "toxicity"; it was trained on labels of density, education'),
        ({'model': 'other.json', 'education': 2}, 'other.json is missing'),
    ],
)
def test_a_wrong_quality_table_is_one_clear_line(path, table, said):
  with pytest.raises(UserError, match=said):
    classifier.parse('sources.toml, input 1, [quality]', table, path.parent)


def test_a_damaged_or_foreign_classifier_is_refused(path, model):
  content = path.read_text()
  for broken in ('', '[]', '{}', content[:-20], content.replace('"seed": 0', '"seed": 1')):
    path.write_text(broken)
    with pytest.raises(UserError, match='is not a classifier, or is damaged'):
      Classifier.load(path)
  for changes in ({'version': 0}, {'settings': {}}):
    other = {**model, **changes}
    path.write_text(json.dumps({**other, 'sha256': classifier.digest(other)}))
    with pytest.raises(UserError, match='of another version'):
      Classifier.load(path)


def test_a_classifier_that_was_replaced_in_the_middle_stops_the_run(path, model):
  quality = classifier.parse('s', {'model': 'text.json', 'education': 1}, path.parent)
  other = {**model, 'seed': 7}
  path.write_text(json.dumps({**other, 'sha256': classifier.digest(other)}))
  with pytest.raises(UserError, match='was replaced while it was in use'):
    classifier.check('x', quality)


def test_the_command_trains_from_lines_and_says_what_it_left_out(tmp_path, commands):
  lines = [json.dumps(vars(label) | {'kind': 'text'}) for label in some_labels()]
  (tmp_path / 'labels.jsonl').write_text('\n'.join([*lines, 'nonsense', lines[0]]))
  arguments = ['-m', 'launch.prepare', 'train-quality', str(tmp_path / 'labels.jsonl')]
  done = commands.run([*arguments, f'--out={tmp_path / "quality/text.json"}'], fresh=True)
  assert '120 labels of 122; 1 dropped, label: the same id twice; 1 dropped, line: not JSON' in done.stdout
  assert 'education: 96 labels for training, 24 held out; rank correlation 0.' in done.stdout
  assert Classifier.load(tmp_path / 'quality/text.json').kind == 'text'


def test_the_bench_scores_every_text():
  result = bench.scoring('code', ['x = 1\n' * 100, 'y' * 100_000])
  assert result['mb'] == 0.1 and result['mb_per_second'] > result['of_excerpts'] > 0


def test_a_score_that_is_the_same_everywhere_is_left_out_and_the_others_are_learned():
  labels = [Label(label.id, label.text, {**label.scores, 'toxicity': 0.0}) for label in some_labels(80)]
  model = classifier_training.train(labels, 'code', 0)
  assert 'toxicity' not in model['scores'] and model['scores']
