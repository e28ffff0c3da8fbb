"""Lineage, scores, mixture, data and speed: what is computed from the files, and what is not claimed."""

import json
import re
import subprocess
import sys

import pytest

from iquest_jax.report import curves, layers, lineage, mixture, scores, speed
from iquest_jax.report.markup import duration, short

from tests.report.small_chain import Page, learning, lines, results
from tests.report.small_chain import lineage as record


def rows(markup):
  """Texts of the cells of each row of the tables."""
  return [
      [re.sub('<[^>]*>', '', cell) for cell in re.findall('<t[hd][^>]*>(.*?)</t[hd]>', row)]
      for row in markup.split('<tr>')[1:]
  ]


def test_broken_lineage_is_said(read, files):
  assert 'began' not in lineage.lineage(read(files))
  files['rl_thinking/lineage.json'] = json.dumps(record('rl_thinking', 'sft_thinking', start_fingerprint='0' * 16))
  text = Page(lineage.lineage(read(files))).text
  assert 'rl_thinking began with 0000000000000000, not with the bbbb000000000002 it names' in text
  files['pretrain/lineage.json'] = json.dumps(record('pretrain', end_fingerprint='9' * 16))
  text = Page(lineage.lineage(read(files))).text
  assert 'pretrain now ends with 9999999999999999, but sft_thinking began from another checkpoint' in text


def test_silent_errors_are_said_with_the_hosts_to_cordon(read, files):
  devices = [{'id': 5, 'process': 1, 'host': 'tpu-<1>'}, {'id': 6, 'process': 1, 'host': 'tpu-<1>'}]
  found = {'time': 1, 'step': 1200, 'finding': 'params/head on device 5', 'what': [], 'devices': devices}
  files['pretrain/silent_errors/7_0.json'] = json.dumps(found)
  files['pretrain/silent_errors/8_1.json'] = json.dumps(found | {'step': None, 'finding': 'SDC', 'devices': 3})
  files['pretrain/silent_errors/9_1.json'] = '[damaged'
  chain = read(files)
  text = Page(lineage.lineage(chain)).text
  assert 'pretrain: silent error after step 1,200: params/head on device 5; cordon tpu-<1>' in text
  assert 'pretrain: silent error: SDC; cordon' in text
  assert chain.files.problems == ['pretrain/silent_errors/9_1.json: cannot be read (JSONDecodeError)']


def test_a_change_is_to_the_nearest_stage_before_with_the_same_problems(read, files):
  place = '{}/evaluation/{}/small_programs/results.json'
  del files[place.format('sft_thinking', 20)]
  files[place.format('pretrain', 5)] = json.dumps(results('pretrain', 5, 10.0))
  files[place.format('pretrain', 20)] = json.dumps(results('pretrain', 20, 75.0))
  table = {row[0]: row for row in rows(scores.evaluation(read(files)))}
  assert table['rl_thinking'][:4] == ['rl_thinking', '15', '62.5 −12.5', 'pretrain']
  files[place.format('sft_thinking', 20)] = json.dumps(results('sft_thinking', 20, 62.5, problems='others'))
  table = {row[0]: row for row in rows(scores.evaluation(read(files)))}
  assert table['sft_thinking'][2:4] == ['62.5', '–'] and table['rl_thinking'][2:4] == ['62.5 −12.5', 'pretrain']
  assert table['rl_thinking'][-1] == '1'  # a missing problem is counted


@pytest.mark.parametrize(('suite', 'better'), [('small_programs', 'up'), ('bits_per_byte', 'down')])
def test_fewer_bits_are_better_and_more_solved_problems_too(read, files, suite, better):
  for stage, step, value in (('pretrain', 20, 1.5), ('sft_thinking', 20, 2.75)):
    files[f'{stage}/evaluation/{step}/{suite}/results.json'] = json.dumps(results(stage, step, value, 'same'))
  assert re.search(rf'<span class="tag {better}">\+1\.25', scores.evaluation(read(files)).replace('+1.2<', '+1.25<'))


def test_what_is_made_beside_the_documents_is_not_counted_as_read(read, files):
  shown = scores.funnel(read(files))
  summaries = [
      re.findall('<(?:b|span)>([^<]*)<', row) for row in re.findall('<span class="row">(.*?)<span class="bar"', shown)
  ]
  assert summaries == [['made', '12', '0', '12'], ['text', '1,000', '45', '955']]
  assert ['make', '4,000', '3,988', '12', '− check: wrong 3,988'] in rows(shown)


def test_shares_epochs_and_decisions_are_those_of_the_files(read, files):
  found = rows(mixture.mixture(read(files)))
  assert ['code', '25.0 %', '37.5 %', '1.5', '60', '120', '600'] in found
  assert ['facts', '75.0 %', '–', '–', '0', '0', '0'] in found
  assert ['10', 'code 50.0%, facts 50.0%', 'code plateau, facts no score'] in found


def test_speed_is_the_median_and_rl_steps_are_split(read, files):
  found = speed.throughput(read(files))
  table = rows(found)
  assert ['pretrain', '4,321', '25.0 %', '0.5 s', '20.0 %', '90 s', '4 × TPU v6e'] in table
  assert ['rollout', '3.5 s', ''] in table and ['grading', '1.5 s', ''] in table
  widths = [float(width) for width in re.findall(r'<b style="width:([\d.]+)%"', found)]
  assert widths == [100.0, pytest.approx(100 * 1.5 / 3.5, abs=0.01)]


def test_the_loss_of_a_policy_is_not_drawn_as_a_loss(read, files):
  names = re.findall('<b>([^<]*)</b>', curves.losses(read(files)))
  assert 'rl_thinking' not in curves.losses(read(files)) and {'pretrain', 'sft_thinking'} <= set(names)


def test_a_stage_of_preferences_is_shown_by_its_accuracy(read, files):
  values = [{'kind': kind, 'step': step, 'loss': 0.6, 'accuracy': 0.5 + step / 10, 'margin': 0.1}
            for step in range(4) for kind in ('eval', 'train')]  # fmt: skip
  files['rl_thinking/metrics.jsonl'] = lines(values)
  shown = curves.rewards(read(files))
  assert 'accuracy, held out <span class="tag up">0.500 → 0.800</span>' in shown and 'margin' in shown


def test_a_reward_that_is_the_pass_rate_is_drawn_once(read, files):
  values = [{'kind': 'train', 'step': step, 'reward': step / 8, 'reward_pass_rate': step / 8} for step in range(8)]
  files['rl_thinking/metrics.jsonl'] = lines(values)
  shown = curves.rewards(read(files))
  assert 'reward, sampled' in shown and 'pass rate, sampled' not in shown


def test_a_falling_reward_is_marked_as_one(read, files):
  files['rl_thinking/metrics.jsonl'] = lines(learning([0.9 - 0.02 * step for step in range(11)]))
  assert 'pass rate, held out <span class="tag down">0.900 → 0.700</span>' in curves.rewards(read(files))


@pytest.mark.parametrize(
    ('count', 'shown'),
    [(0, '0'), (9_999, '9,999'), (12_345, '12.3k'), (491_520, '492k'), (4.5e6, '4.5M'), (10e12, '10T')],
)
def test_counts_are_short(count, shown):
  assert short(count) == shown


@pytest.mark.parametrize(
    ('seconds', 'shown'),
    [(0.0312, '0.031 s'), (8.04, '8 s'), (75, '75 s'), (310, '5 min'), (7_500, '2 h 05 min'), (2e6, '23.1 days')],
)
def test_durations_are_in_words(seconds, shown):
  assert duration(seconds) == shown


def test_the_command_writes_the_page_and_says_where(read, files, tmp_path):
  read(files)
  command = [sys.executable, '-m', 'launch.report', f'--workdir={tmp_path / "run"}']
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert done.stdout == f'report: {tmp_path / "run" / "report.html"}\n' and done.stderr == ''
  text = Page((tmp_path / 'run' / 'report.html').read_text()).text
  assert 'sft_instruct' in text and 'loop_adapt' not in text  # the chain of this size
  command[-1] = f'--workdir={tmp_path / "none"}'
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and re.fullmatch(r'error: --workdir: \S+ holds no stage; [^\n]*\n', done.stderr)


def test_layer_groups_are_drawn_in_their_own_section_a_line_each_and_nowhere_else(read, files):
  by_layer = {'layer_grad_norms': {'head': 0.5, 'mlp_0': 0.25}, 'layer_update_ratios': {'head': 0.01, 'mlp_0': 0.02}}
  files['rl_thinking/metrics.jsonl'] = lines(record | by_layer for record in learning([0.1, 0.2, 0.3]))
  chain = read(files)
  drawn = layers.layers(chain)
  parts = drawn.split('<h3>')
  (part,) = [part for part in parts if part.startswith('rl_thinking')]
  assert part.count('<svg') == 2 and len(re.findall('class="line ', part)) == 4 and 'mlp 0' in part
  assert 'z-loss of rl_thinking' not in part and 'z-loss of pretrain' in drawn
  assert 'mlp' not in Page(curves.rewards(chain)).text and 'layer' not in Page(curves.rewards(chain)).text
