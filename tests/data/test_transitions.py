"""Transitions: R_old + P is R_new, starts lie within 40 to 80 % of a life, windows never overlap, ends are meaningful."""

import collections
import itertools
import random
import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from iquest_jax.bench import transitions as bench
from iquest_jax.data.build import edits, excerpts, neighbours, patches, significance, transitions
from iquest_jax.data.documents import Drop, LogEntry, Transition
from iquest_jax.data.format import transition as transition_format
from iquest_jax.data.read import states
from iquest_jax.data.read.git import Store
from iquest_jax.data.read.repositories import History, read_repository
from iquest_jax.data.tiny import history
from iquest_jax.text.example import build
from iquest_jax.text.tokenizer import Tokenizer

from tests.data.raw_git import LINK, Change, git, write

HORIZON = transitions.HORIZON


def entry(number, message='Teach the parser to read nested lists', parents=1, changes=(('src/a.py', 30, 10),), files=None):
  return LogEntry(f'{number:040x}', parents, 3600 * number, message, changes, len(changes) if files is None else files)


MESSAGES = ('Teach the parser to read nested lists', 'fix', 'Revert "Teach it"', 'Bump x from 1.0 to 1.1', 'Run black')
PATHS = ('src/a.py', 'tests/test_a.py', 'b.md', 'yarn.lock', 'vendor/v.js')
CHANGES = st.lists(st.tuples(st.sampled_from(PATHS), st.integers(-1, 300), st.integers(0, 300)), max_size=3).map(tuple)
ENTRIES = st.lists(st.tuples(st.sampled_from(MESSAGES), st.sampled_from([1, 1, 1, 2]), CHANGES), min_size=1, max_size=90)


@settings(max_examples=60, deadline=None)
@given(ENTRIES, st.integers(0, 9))
def test_windows_never_overlap_and_end_where_a_change_is_meaningful(entries, seed):
  log = [entry(number, *values) for number, values in enumerate(entries)]
  starts = transitions.eligible([commit.time for commit in log])
  assume(starts)
  read = lambda history: list(transitions.windows(history, len(starts), random.Random(seed)))
  found = read(log[starts.start :])
  windows = [window for window in found if not isinstance(window, Drop)]
  assert found == read(iter(log[starts.start :])) and len(found) == max(1, len(starts) // HORIZON)
  last = 0
  for window in windows:
    begin = log.index(window.start)
    end = log.index(window.commits[-1])
    assert begin in starts and last <= begin < end <= begin + HORIZON
    assert window.commits == tuple(log[begin + 1 : end + 1])
    last = end
    final = window.commits[-1]
    assert final.parents == 1 and final.message[:4] not in ('Reve', 'Bump', 'Run ')
    assert not any(commit.message.startswith('Revert') for commit in window.commits)
    assert all(added >= 0 for commit in window.commits for _, added, _ in commit.changes)
    assert window.score >= significance.MEANINGFUL


@pytest.mark.parametrize('count', [2, 3, 10, 11, 57, 100, 1001])
def test_a_life_is_measured_by_commits_or_by_dates(count):
  even = [100 * number for number in range(count)]
  inside = [number for number in range(count) if 2 * (count - 1) <= 5 * number <= 4 * (count - 1)]
  assert list(transitions.eligible(even)) == list(transitions.eligible(even, 'dates')) == inside
  # All but the last commit in the first hour of a year.
  late = [*range(count - 1), 31_536_000]
  assert list(transitions.eligible(late)) == inside and not transitions.eligible(late, 'dates')
  with pytest.raises(ValueError, match='commits or dates'):
    transitions.eligible(even, 'years')


def test_windows_are_spread_over_the_life():
  log = [entry(number) for number in range(1000)]
  starts = transitions.eligible([commit.time for commit in log])
  windows = list(transitions.windows(log[starts.start :], len(starts), random.Random(0)))
  begins = [int(window.start.hash, 16) for window in windows]
  assert len(begins) == len(starts) // HORIZON
  quarters = collections.Counter(4 * (begin - starts.start) // len(starts) for begin in begins)
  assert max(quarters.values()) - min(quarters.values()) <= 1


@pytest.mark.parametrize('seed', range(5))
def test_windows_of_many_small_commits_leave_each_other_room(seed):
  log = [entry(number, changes=(('src/a.py', 4, 0), ('tests/test_a.py', 2, 0))) for number in range(400)]
  windows = list(transitions.windows(log[160:], 160, random.Random(seed)))
  spans = [(int(window.start.hash, 16), int(window.commits[-1].hash, 16)) for window in windows]
  assert len(spans) == 10 and max(end - begin for begin, end in spans) > 4
  assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


GOOD = dict(changes=(('src/a.py', 60, 20), ('tests/test_a.py', 20, 0)))
NOT_ENDS = {
    'merge': entry(0, parents=2),
    'nothing': entry(0, changes=()),
    'revert': entry(0, 'Revert "x"'),
    'revert by body': entry(0, 'Undo it\n\nThis reverts commit 1234.\n'),
    'formatting': entry(0, 'Reformat all files with black'),
    'bump': entry(0, 'Bump lodash from 4.17.20 to 4.17.21'),
    'dependencies': entry(0, 'chore(deps): update dependency x'),
    'manifests': entry(0, changes=(('package.json', 40, 40), ('yarn.lock', 200, 1))),
    'release': entry(0, 'Release 1.2.3'),
}


@pytest.mark.parametrize('name', NOT_ENDS)
def test_merges_reverts_formatting_dependencies_and_releases_are_no_ends(name):
  assert not significance.is_end(NOT_ENDS[name]) and significance.is_end(entry(0, **GOOD))
  assert transitions.search([entry(1), NOT_ENDS[name]]) is None


WORSE = {
    'too small': dict(changes=(('src/a.py', 3, 1),)),
    'too large': dict(changes=(('src/a.py', 900, 300),)),
    'mostly prose': dict(changes=(('src/a.py', 40, 0), ('README.md', 60, 0))),
    'vendored': dict(changes=(('third_party/a.py', 60, 20),)),
    'generated': dict(changes=(('src/a_pb2.py', 60, 20),)),
    'tests alone': dict(changes=(('tests/test_a.py', 60, 20),)),
    'a message that says nothing': dict(message='fixed some stuff', **GOOD),
    'markup': dict(changes=(('a.html', 60, 20),)),
}


@pytest.mark.parametrize('name', WORSE)
def test_a_change_that_is_not_meaningful_scores_nothing(name):
  assert significance.score([entry(0, **WORSE[name])]) == 0 < significance.score([entry(0, **GOOD)])


def test_the_score_is_the_weighted_mean_of_its_parts():
  # 100 of 165 lines are code, within bounds and with tests; five words tell something; 80 are by the leading commit.
  commits = [
      entry(0, changes=(('src/a.py', 60, 0), ('tests/test_a.py', 20, 0), ('a.md', 25, 0))),
      entry(1, 'Bump x from 1 to 2'),
      entry(2, changes=(('src/b.py', 20, 0),)),
  ]
  assert significance.message_quality(commits[0]) == pytest.approx(0.7)
  assert significance.message_quality(entry(0, 'Fix the parser\n\nsix words in a body here')) == pytest.approx(0.14 + 0.15)
  assert significance.score(commits) == pytest.approx(0.25 + 0.2 * 100 / 165 + 0.15 + 0.2 * 0.7 + 0.2 * 0.8)
  for lines in (16, 512):  # half way, in logarithms, from 8 to 32 and from 256 to 1024
    score = significance.score([entry(0, changes=(('src/a.py', lines, 0),))])
    assert score == pytest.approx(0.25 * 0.5 + 0.2 + 0.2 * 0.7 + 0.2)


def test_binary_or_sweeping_commits_end_the_search():
  binary, sweeping = entry(2, changes=(('a.png', -1, -1),)), entry(2, files=100)
  for wall in (binary, sweeping, entry(2, 'Revert "x"')):
    assert transitions.search([entry(0), wall, entry(3, **GOOD)]) is None
    assert transitions.search([entry(0), entry(1, **GOOD), wall, entry(3, **GOOD)]).commits == (entry(1, **GOOD),)


def test_the_message_leads_with_the_commit_that_changes_most_code():
  small = entry(1, 'Explain the cache of parsed files\n\nLong.', changes=(('src/b.py', 5, 0),))
  merge = entry(2, 'Merge pull request #7 from a/b\n\nTeach the parser to read nested lists\n', parents=2)
  assert significance.message_of([small, merge, entry(3, 'wip'), entry(4, 'Bump x from 1.0 to 2.0')]) == (
      'Teach the parser to read nested lists\n\n- Explain the cache of parsed files\n'
  )


# Real histories.


def apply(files, patch):
  """Applies a patch to {path: text}: ten lines of our own, independent of git."""
  result = dict(files)
  for part in re.split(r'^(?=diff --git )', patch, flags=re.M)[1:]:
    head = part.partition('\n@@')[0]
    name = lambda sign: (re.search(rf'^{sign} (?:[ab]/)?(.*?)\t?$', head, re.M) or [None, '/dev/null'])[1]
    rename = re.search(r'^rename from (.*)\nrename to (.*)$', head, re.M)
    old, new = rename.groups() if rename else (name('---'), name(r'\+\+\+'))
    if old == new == '/dev/null':
      path = re.search(r'a/(.*) b/\1$', head, re.M)[1]
      if 'new file mode' in head:
        result[path] = ''
      elif 'deleted file mode' in head:
        del result[path]
      continue
    lines, output, at = result.pop(old, '').split('\n'), [], 0
    lines = [line + '\n' for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    for hunk in re.split(r'^(?=@@ )', part, flags=re.M)[1:]:
      first, count = re.match(r'@@ -(\d+)(?:,(\d+))?', hunk).groups()
      start = int(first) - (count != '0')
      output += lines[at:start]
      at, last = start, ''
      for line in re.findall(r'.*\n', hunk)[1:]:
        if line[0] == '\\':
          if last in ' +':
            output[-1] = output[-1][:-1]
          continue
        at += line[0] in ' -'
        output += [line[1:]] if line[0] in ' +' else []
        last = line[0]
    if new != '/dev/null':
      result[new] = ''.join(output + lines[at:])
  return result


def tree(folder, commit):
  names = git(folder, 'ls-tree', '-r', '-z', '--name-only', commit).decode().split('\0')[:-1]
  return {name: git(folder, 'show', f'{commit}:{name}').decode() for name in names}


def check_triplet(folder, transition):
  old, new = (tree(folder, commit) for commit in transition.span)
  assert apply(old, transition.patch) == new
  beside = dict(transition.context)
  assert not beside.keys() & dict(transition.files).keys()
  assert dict(transition.files).items() | beside.items() <= old.items()
  assert {path for path in old if old[path] != new.get(path)} == dict(transition.files).keys()


@pytest.fixture(name='repository', scope='module')
def _repository(tmp_path_factory):
  folder = tmp_path_factory.mktemp('repository')
  history.generated_repository(folder, seed=3, count=200)
  return folder


@pytest.fixture(name='found', scope='module')
def _found(repository):
  return list(read_repository(repository, (Transition,), transitions=transitions.transitions))


def test_every_triplet_of_a_history_leads_from_the_old_state_to_the_new(repository, found):
  hashes = git(repository, 'rev-list', '--reverse', 'main').decode().split()
  triplets = [document for document in found if isinstance(document, Transition)]
  assert len(triplets) >= 3 and len(found) == 5
  last = 0
  for transition in triplets:
    check_triplet(repository, transition)
    begin, end = map(hashes.index, transition.span)
    assert 0.4 <= begin / (len(hashes) - 1) <= 0.8 and last <= begin < end
    last = end
  assert found == list(read_repository(repository, (Transition,), transitions=transitions.transitions))


LINES = (b'x = 1\n', b'\xc3\xa4 = 2\r\n', b'-- y\n', b'\n', b'  return\n', b'no end', b'$Id$\n')
FILES = (b'a.py', b'b/c d.py', b'.gitattributes', b'b/"q".py', b'run.sh')
TEXTS = st.lists(st.sampled_from(LINES), max_size=30).map(b''.join)
CONTENTS = st.one_of(st.none(), st.tuples(st.sampled_from([b'100644', b'100755']), TEXTS))
STATES = st.dictionaries(st.sampled_from(FILES), CONTENTS, min_size=1)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STATES, STATES)
def test_a_patch_between_any_two_states_is_verified(tmp_path_factory, first, second):
  """Also with attributes that convert line ends, odd names, modes, renames, and lines without an end."""
  folder = tmp_path_factory.mktemp('states')
  always = {b'keep': b'x\n', b'.gitattributes': b'* text eol=crlf ident\n'}
  first = always | {path: data for path, data in first.items() if data}
  second = {path: data for path, data in second.items() if data is not None or path in first}
  write(folder, [Change(b'First', first), Change(b'Second', second)])
  with Store(folder) as store:
    result = states.patch(store, git(folder, 'rev-parse', 'main~1').decode().strip(), store.head)
    if isinstance(result, Drop):
      assert result.rule == 'transition: no change' and tree(folder, 'main~1') == tree(folder, 'main')
    else:
      assert {path for path, _ in result[1]} <= tree(folder, 'main~1').keys()
      assert b'"q"' in b''.join(second) or apply(tree(folder, 'main~1'), result[0]) == tree(folder, 'main')


def test_a_patch_that_does_not_give_the_new_state_is_dropped(repository, monkeypatch):
  with Store(repository) as store:
    start = git(repository, 'rev-parse', 'main~9').decode().strip()
    patch, _ = states.patch(store, start, store.head)
    for broken in (lambda data: data.replace(b'return', b'yield', 1), lambda data: data.rpartition(b'diff --git')[0]):
      monkeypatch.setattr(states, 'without_hashes', lambda data: broken(data))
      assert broken(patch.encode()) != patch.encode()
      assert states.patch(store, start, store.head).rule == 'transition: git apply gives another state'


ODD = {
    'transition: binary files': {b'i.bin': b'\0\1'},
    'transition: a symbolic link or a submodule': {b'link': (LINK, b'a.py')},
    'transition: not UTF-8': {b'a.py': b'caf\xe9\n'},
    'transition: an invalid path': {b'line\nbreak.py': b'x\n'},
    'transition: a huge patch': {b'a.txt': b'0123456789\n' * 100_000},
    'transition: no change': {},
}


@pytest.mark.parametrize('rule', ODD)
def test_what_no_patch_can_tell_is_a_counted_drop(tmp_path, rule):
  write(tmp_path, [Change(b'First', {b'a.py': b'x = 1\n'}), Change(b'Second', ODD[rule])])
  with Store(tmp_path) as store:
    assert states.patch(store, git(tmp_path, 'rev-parse', 'main~1').decode().strip(), store.head).rule == rule


def test_trees_that_name_places_outside_are_not_written(tmp_path):
  write(tmp_path, [Change(b'First', {b'a.py': b'x = 1\n'})])
  blob = git(tmp_path, 'rev-parse', 'main:a.py').decode().strip()
  inner = git(tmp_path, 'mktree', stdin=b'100644 blob %s\tescaped\n' % blob.encode()).strip()
  raw = b'40000 ..\0' + bytes.fromhex(inner.decode())
  outer = git(tmp_path, 'hash-object', '-t', 'tree', '-w', '--literally', '--stdin', stdin=raw).decode().strip()
  commit = git(tmp_path, '-c', 'user.name=a', '-c', 'user.email=a', 'commit-tree', outer, '-m', 'x').decode().strip()
  with Store(tmp_path) as store:
    assert states.patch(store, commit, store.head).rule == 'transition: an invalid path'


def test_a_history_that_is_too_short_says_so(tmp_path):
  write(tmp_path, [Change(b'Number %d' % n, {b'a.py': b'x = %d\n' % n}) for n in range(9)])
  [drop] = read_repository(tmp_path, (Transition,), transitions=transitions.transitions)
  assert drop.rule == 'transition: a short history' and '9 commits' in drop.evidence


def test_formatting_alone_is_no_transition(tmp_path):
  plain = b"def f(a, b):\n  return {'a': a, 'b': b}\n" * 10
  black = b'def f(\n    a, b\n):\n    return {"a": a, "b": b,}\n' * 10
  write(tmp_path, [Change(b'Write the parser', {b'a.py': plain}), Change(b'Improve how it reads', {b'a.py': black})])
  with Store(tmp_path) as store:
    start, end = History(store).log(2)
    window = transitions.Window(start, (end,), 1.0)
    assert transitions.triplet(History(store), window, neighbours.Names(None)).rule == 'transition: only formatting'


def test_the_context_holds_imports_first_then_the_most_similar(monkeypatch):
  texts = {
      'app/main.py': 'from app import far',
      'app/far.py': 'nothing_shared',
      'app/near.py': 'alpha beta gamma delta epsilon',
      'app/some.py': 'alpha zeta eta_ theta iota kappa',
      'app/none.py': 'omega',
      'notes.md': 'alpha beta gamma delta',
      'app/new_import.py': 'omicron',
  }
  names = neighbours.Names(lambda hashes: {name: texts[name] for name in hashes})
  files = (('app/main.py', texts['app/main.py']),)
  hunk = '@@ -0,0 +2 @@\n+from app import new_import\n+alpha beta gamma delta\n'
  patch = f'diff --git a/app/b.py b/app/b.py\n--- /dev/null\n+++ b/app/b.py\n{hunk}'
  found = [path for path, _ in neighbours.around(files, patch, {path: path for path in texts}, names)]
  assert found == ['app/far.py', 'app/new_import.py', 'app/near.py', 'app/some.py']
  monkeypatch.setattr(neighbours, 'MAX_CONTEXT_BYTES', 50)
  found = neighbours.around(files, patch, {path: path for path in texts}, names)
  assert [path for path, _ in found] == ['app/far.py', 'app/new_import.py']


# Rendering.


def test_a_view_fits_its_row_and_keeps_the_whole_patch(found):
  triplets = [document for document in found if isinstance(document, Transition)]
  tokenizer = Tokenizer.train([text for t in triplets for _, text in t.files] + [t.patch for t in triplets], 700)
  shown = collections.Counter()
  for transition, length in itertools.product(triplets, (64, 512, 1024, 2048, 8192)):
    view = transitions.view(transition, length, tokenizer)
    tokens = build(tokenizer, transition_format.segments(view)).tokens
    assert view.patch == transition.patch and view.message == transition.message
    if len(tokens) > length:
      assert not view.files and not view.context and len(tokenizer.encode(transition.patch)) > length - 300
      assert isinstance(edits.repository_conversation(transition, length, tokenizer), Drop)
      shown['patch alone'] += 1
      continue
    whole, cut = view.files == transition.files, set(view.files) - set(transition.files)
    assert whole or not view.context or len(tokens) > length / 2 or not view.files
    for path, text in cut:
      assert set(text.replace(excerpts.GAP, '').splitlines()) <= set(dict(transition.files)[path].splitlines())
    shown['whole' if whole else 'cut'] += 1
    edit = edits.repository_conversation(transition, length, tokenizer)
    if not isinstance(edit, Drop):
      assert transition.patch in edit.messages[1]['content'] and view.files[0][0] in edit.messages[0]['content']
      shown['edit'] += 1
  assert {'patch alone', 'whole', 'edit'} <= set(shown)


def test_excerpts_hold_the_lines_around_hunks():
  text = ''.join(f'{number}\n' for number in range(1, 21))
  assert excerpts.excerpt(text, [(5, 1), (15, 2)], 1) == '...\n4\n5\n6\n...\n14\n15\n16\n17\n...\n'
  assert excerpts.excerpt(text, [(1, 1), (4, 1)], 1) == '1\n2\n3\n4\n5\n...\n'
  assert excerpts.excerpt(text, [(10, 1)], 50) == text and excerpts.excerpt(text, [], 3) == ''
  assert excerpts.excerpt('a\nb', [(2, 1)], 0) == '...\nb'


def test_the_format_is_context_then_files_then_the_change():
  transition = Transition('1', 'r', 'Say y\n', 'diff\n', (('a.py', 'x'),), (('far.py', '1\n'), ('near.py', '2\n')))
  tokenizer = Tokenizer.train(['x'], 300)
  example = build(tokenizer, transition_format.segments(transition))
  assert tokenizer.decode(example.tokens) == (
      '<|repo_name|>r\n<|file_sep|>near.py\n2\n<|file_sep|>far.py\n1\n<|file_sep|>a.py\nx\n'
      '<|file_sep|>change.patch\nSay y\n\ndiff\n<|endoftext|>'
  )
  assert example.loss_weights.min() == 1


def test_patches_are_read_file_by_file():
  patch = (
      'diff --git a/a b b/a b\n--- a/a b\t\n+++ b/a b\t\n@@ -1,2 +1,2 @@ f\n same\n--- x\n+++ y\n@@ -9 +9 @@\n-p\n+q\n'
      'diff --git a/c b/c\nnew file mode 100644\n--- /dev/null\n+++ b/c\n@@ -0,0 +1 @@\n+z\n\\ No newline at end of file\n'
  )
  first, second = patches.changes(patch)
  assert (first.old_path, first.new_path, first.ranges) == ('a b', 'a b', [(1, 2), (9, 1)])
  assert (''.join(first.old), ''.join(first.new)) == ('same\n-- x\np\n', 'same\n++ y\nq\n')
  assert (second.old_path, second.new_path, second.ranges, second.old, second.new) == ('', 'c', [(0, 0)], [], ['z\n'])


def test_the_benchmark_counts_commits(repository):
  for kind in bench.KINDS:
    result = bench.measure(repository, kind, commits=200)
    assert result['kind'] == kind and result['commits_per_second'] > 0 and result['documents'] > 2
