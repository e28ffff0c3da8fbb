"""Counting bundles in libtpu's dump of a kernel. Needs no libtpu."""

from iquest_jax.aot import bundles


def bundle(text='', label='', comment='', inside=True):
  return f' 0x0 {label:4}: {">" if inside else ""} {{ {text} }} {comment}\n'


def skip(region):
  return bundle(f'%1 = sbr.rel (%p) target = $region{region}')


def target(region):
  return bundle(label='PF', comment=f'/* Start/End empty region {region} */')


def exponentials(count):
  return bundle('%v = vpow2.f32 %v ;; ' * count)


# Two bundles before the loop; in it, a branch around everything else (8), the start of a query block (4), a visible pair
# (5), a masked one (6) and a local stream (7); then the branch back and the end.
KERNEL = [
    bundle(inside=False), bundle(inside=False), bundle(label='LB', comment='/* Start region 9 */'), skip(8),
    skip(4), bundle(), bundle(), target(4),
    skip(5), exponentials(300), bundle(), exponentials(212), target(5),
    skip(6), bundle(), exponentials(512), bundle(), bundle(), target(6),
    skip(7), exponentials(128), bundle(), target(7),
    target(8), bundle('%2 = sbr.rel (!%p) target = $region9'), bundle(inside=False),
]  # fmt: skip


def counted(folder, kernel=KERNEL):
  (folder / '1-gated_attention_forward-final_bundles.txt').write_text('preamble\n' + ''.join(kernel))
  (folder / '1-gated_attention_forward-schedule-analysis_final_bundles.txt').write_text('0x0 : { vpow2 }\n')
  (folder / '2-copy-final_bundles.txt').write_text(bundle())
  return bundles.count(str(folder))


def test_pairs_and_the_local_stream_are_told_from_what_every_step_runs(tmp_path):
  """By hand: a block begins with its branch. Every step runs the head of the loop, the branches around the start of a query
  block, everything and the local stream, the five targets and the branch back."""
  assert counted(tmp_path) == {'forward': [4, 5], 'forward_step': {'step': 1 + 3 + 5 + 1, 'local': 3}}


def test_newer_compilers_spell_the_exponential_differently(tmp_path):
  renamed = [line.replace('vpow2', 'vexp2') for line in KERNEL]
  assert counted(tmp_path, renamed)['forward'] == [4, 5]


def test_the_latest_count_of_a_generation_is_read(tmp_path):
  path = tmp_path / 'bundles.jsonl'
  path.write_text('{"topology": "v5p:2x2x1", "n": 1}\n{"topology": "v6e:2x2", "n": 2}\n{"topology": "v5p:2x2x1", "n": 3}\n')
  assert {name: record['n'] for name, record in bundles.load(path).items()} == {'v5p': 3, 'v6e': 2}
