"""Each case of the bench: its arithmetic, and what it does when a library refuses."""

import dataclasses
import math

import jax

from iquest_jax.bench import attention, decode, loader, machine, packing, tokenize, train_step
from iquest_jax.model import sizes
from launch import command


def test_a_library_that_refuses_is_reported_and_the_others_count():
  def refuses(*args, **options):
    raise NotImplementedError('only on Hopper\nand more')

  libraries = {'jax.nn': jax.nn.dot_product_attention, 'refuses': refuses}
  result = attention.measure(T=128, heads=(2, 1), dtype='float32', repeats=1, libraries=libraries)
  milliseconds = result['two_calls_and_mix_milliseconds']
  assert milliseconds['refuses'] == 'NotImplementedError: only on Hopper'
  assert result['time_over_best_two_calls'] == round(result['milliseconds'] / milliseconds['jax.nn'], 3)


def test_flops_of_attention_are_those_of_visible_pairs():
  result = attention.measure(T=128, heads=(2, 1), dtype='float32', repeats=1, libraries={})
  pairs = 128 * 129 // 2 + sum(min(i + 1, 64) for i in range(128))
  flops = result['tflops_per_second'] * result['milliseconds'] * 1e9
  assert abs(flops - 14 * 128 * 2 * pairs) < 1e7 * result['milliseconds']  # two decimals of TFLOP/s
  assert result['time_over_best_two_calls'] is None


def test_the_train_step_reports_useful_flops_of_a_real_stage():
  config = command.experiment('pretrain:size=tiny')
  config.model.layers, config.train.batch_rows, config.data.context = 1, 8, 32
  result = train_step.measure(config)
  assert result['context'] == 32 and result['mfu'] == 'peak unknown'
  m = config.model
  matrices = m.d_model * (2 * (m.heads + m.kv_heads) * m.head_dim + 3 * m.d_ff + m.vocab)
  per_token = 3 * (2 * matrices + 4 * m.heads * m.head_dim * (1 + 32) / 2)  # a row of 32 is one document
  flops = result['gflops_per_second'] * 1e9
  assert abs(flops - per_token * result['tokens_per_second']) < 0.06e9 + per_token  # as rounded in the result


def test_loader_and_packing_measure_rows_of_the_given_context():
  read = loader.measure(context=64, batch_rows=2, documents=50, steps=10)
  assert read['context'] == 64
  assert all(math.isfinite(read[name]) and read[name] > 0 for name in read)
  assert packing.measure(context=64, documents=50)['mb_per_second'] > 0


def test_tokenising_is_measured_from_documents_to_rows():
  result = tokenize.measure(size=60_000, vocabulary=400, context=256)
  assert result['context'] == 256 and all(value > 0 for value in result.values())


def test_decoding_is_measured_with_all_slots_live():
  model = dataclasses.replace(sizes.get('tiny_loop'), layers=1, d_model=16, d_ff=16, vocab=64)
  seconds, peer_seconds = decode.measure(model, slots=3, prompt=4, steps=2, with_peer=False)
  assert seconds > 0 and peer_seconds is None


def test_a_result_names_its_machine():
  described = machine.describe()
  assert described['devices'] == jax.device_count() and described['jax'] == jax.__version__ and described['cores'] >= 1


def test_the_median_leaves_out_the_first_call():
  calls = []
  machine.median_seconds(lambda: calls.append(0), repeats=3)
  assert len(calls) == 4
