"""Runs: everything is in results.json, a killed run resumes to the same results, and settings never mix."""

import itertools
import json
import math
import threading

import pytest

from iquest_jax.errors import UserError
from iquest_jax.eval import run as runs
from iquest_jax.eval.suite import Outcome, pass_at
from iquest_jax.sandbox.verdict import FAILED, PASSED

from tests.eval.scripted import Scripted, Sums, question, right

SUITE = Sums()


def run(folder, answers, chat=True, suite=SUITE, **changes):
  return runs.run(suite, suite.problems(), runs.Plan.of(suite, chat, **changes), answers, folder, pool=None)


def stored(folder):
  return json.loads((folder / 'results.json').read_text())


def test_results_hold_every_prompt_answer_verdict_and_setting(tmp_path):
  answers = Scripted(lambda asked: '4' if asked.id >> 21 else right(asked))  # sample 1 always says 4
  results = run(tmp_path, answers)
  assert results == stored(tmp_path)
  settings = results['settings']
  assert settings['sampling'] == {'temperature': 0.5, 'top_p': 1.0, 'top_k': 0, 'seed': 3}
  assert (settings['suite'], settings['length'], settings['samples'], settings['chat']) == ('sums', 7, 2, True)
  assert settings['answers'] == {'model': 'script'}
  assert results['figures'] == {'pass@1': 60.0} and results['scored'] == 5  # 5 of 5, and 1 of 5
  assert results['missing'] == {'sum/5': 'no abacus'}
  three = results['results']['sum/3']
  assert three['prompt']['messages'] == [{'role': 'user', 'content': '3 + 3 ='}] and three['figures'] == {'pass@1': 50.0}
  first, second = three['samples']
  assert (first['answers'], first['status'], first['reason'], first['figures']) == (['6'], 'passed', '', {'length': 1.0})
  assert (second['answers'], second['status'], second['reason']) == (['4'], 'failed', 'said 4')
  assert all(asked.length == 7 and asked.sampling == SUITE.sampling for asked in answers.asked)


def test_a_problem_and_sample_has_one_id_whatever_else_is_run(tmp_path):
  def ids(name, **changes):
    answers = Scripted()
    run(tmp_path / name, answers, **changes)
    return {(question(asked), asked.id >> 21): asked.id for asked in answers.asked}

  every = ids('all', samples=3)
  assert len(set(every.values())) == 18 and all(0 <= one < 2**31 for one in every.values())
  assert ids('few', samples=1, limit=4).items() <= every.items()


@pytest.mark.parametrize('dies', [0, 1, 5, 11])
def test_a_killed_run_resumes_and_ends_with_the_same_results(tmp_path, dies):
  wrong = lambda asked: '4' if asked.id >> 21 else right(asked)
  run(tmp_path / 'straight', Scripted(wrong))
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path / 'killed', Scripted(wrong, dies=dies))
  path = tmp_path / 'killed/records.jsonl'
  kept = path.read_bytes()
  assert kept.count(b'\n') <= 1 + dies and not (tmp_path / 'killed/results.json').exists()
  path.write_bytes(kept + b'{"problem": "sum/1", "sam')  # a write that a kill cut off
  again = Scripted(wrong)
  run(tmp_path / 'killed', again)
  assert len(again.asked) == 12 - (kept.count(b'\n') - 1)
  assert stored(tmp_path / 'killed') == stored(tmp_path / 'straight')
  finished = Scripted(wrong)
  run(tmp_path / 'killed', finished)
  assert not finished.asked


def test_other_settings_are_refused_and_named(tmp_path):
  run(tmp_path, Scripted())
  before = (tmp_path / 'records.jsonl').read_bytes(), stored(tmp_path)
  hot = SUITE.sampling._replace(temperature=0.8)
  for changes, named in (
      (dict(samples=3), 'samples 2 -> 3'),
      (dict(sampling=hot), 'sampling.temperature 0.5 -> 0.8'),
      (dict(chat=False), 'chat True -> False'),
      (dict(answers=Scripted(model='other')), 'answers.model script -> other'),
  ):
    with pytest.raises(UserError, match='holds a run with other settings') as error:
      run(tmp_path, **({'answers': Scripted()} | changes))
    assert f'({named})' in str(error.value) and 'name another --out' in str(error.value)
  assert ((tmp_path / 'records.jsonl').read_bytes(), stored(tmp_path)) == before


def test_changed_problems_are_other_settings(tmp_path):
  class Other(Sums):
    def problems(self, folder=None):
      return super().problems()[::-1]

  run(tmp_path, Scripted())
  with pytest.raises(UserError, match='problems [0-9a-f]+ -> [0-9a-f]+'):
    run(tmp_path, Scripted(), suite=Other())


def test_a_damaged_record_is_named_and_nothing_is_lost(tmp_path):
  run(tmp_path, Scripted())
  path = tmp_path / 'records.jsonl'
  lines = path.read_bytes().splitlines(True)
  path.write_bytes(b''.join([*lines[:3], lines[3][:-9] + b'\n', *lines[4:]]))
  with pytest.raises(UserError, match='records.jsonl: line 4 is damaged; delete that line'):
    run(tmp_path, Scripted())
  path.write_bytes(b''.join([*lines[:3], *lines[4:]]))
  again = Scripted()
  run(tmp_path, again)
  assert len(again.asked) == 1


def test_a_conversation_goes_on_with_what_was_said(tmp_path):
  say = lambda asked: 'again' if len(asked.prompt.messages) < 2 * int(question(asked)[0]) else right(asked)
  answers = Scripted(say)
  results = run(tmp_path, answers, samples=1)['results']
  assert results['sum/3']['samples'][0]['answers'] == ['again', 'again', 'again', '6']
  assert results['sum/3']['samples'][0]['messages'][:3] == [
      {'role': 'assistant', 'content': 'again'}, {'role': 'user', 'content': 'Well?'},
      {'role': 'assistant', 'content': 'again'},
  ]  # fmt: skip
  assert results['sum/0']['samples'][0]['answers'] == ['0'] and results['sum/4']['figures'] == {'pass@1': 100.0}
  assert len({asked.id for asked in answers.asked}) == len(answers.asked) == sum(1 + a for a in range(6))


def test_a_base_model_is_given_the_text_and_its_stop_words(tmp_path):
  answers = Scripted()
  run(tmp_path / 'base', answers, chat=False)
  assert all(asked.prompt.text and not asked.prompt.messages and asked.prompt.stop == ['.'] for asked in answers.asked)
  answers = Scripted()
  run(tmp_path / 'chat', answers)
  assert all(asked.prompt.messages and not asked.prompt.text and not asked.prompt.stop for asked in answers.asked)


def test_answers_are_graded_while_others_are_drawn(tmp_path):
  graded = threading.Event()

  class Noticing(Sums):
    def grade(self, problem, extracted, pool):
      graded.set()
      return super().grade(problem, extracted, pool)

  def say(asked):
    assert not asked.id or len(answers.asked) < 2 or graded.wait(20)
    return right(asked)

  answers = Scripted(say)
  run(tmp_path, answers, suite=Noticing())


def test_a_megabyte_and_odd_characters_survive(tmp_path):
  text = 'x\ud800\0"\n' * 200_000
  results = run(tmp_path, Scripted(lambda asked: text), samples=1, limit=1)
  assert [sample['answers'] for sample in results['results']['sum/0']['samples']] == [[text]]
  assert run(tmp_path, Scripted(), samples=1, limit=1) == results


@pytest.mark.parametrize(('n', 'k'), [(1, 1), (3, 1), (4, 2), (5, 5), (6, 3)])
def test_pass_at_k_is_the_share_of_draws_with_a_pass(n, k):
  """Against counting all ways to draw k of n samples."""
  for c in range(n + 1):
    samples = [Outcome(PASSED)] * c + [Outcome(FAILED)] * (n - c)
    drawn = list(itertools.combinations(samples, k))
    share = sum(any(one.status == PASSED for one in some) for some in drawn) / len(drawn)
    assert math.isclose(pass_at(k, {'a': samples}), 100 * share, abs_tol=1e-9)
  assert pass_at(1, {'a': [Outcome(PASSED)], 'b': [Outcome(FAILED)]}) == 50


def test_k_beyond_the_samples_is_not_reported():
  outcomes = {'a': [Outcome(PASSED), Outcome(FAILED)]}

  class Many(Sums):
    ks = (1, 2, 10)

  assert Many().score({}, outcomes) == {'pass@1': 50, 'pass@2': 100}
