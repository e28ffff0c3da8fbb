"""A trace of some steps: of these and no others, readable, with the steps marked."""

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from iquest_jax.run_folder import StageFolder
from iquest_jax.train import profile

from tests.run.helpers import traced


def run(folder, steps, begin=0, end=5):
  """Runs steps begin + 1 .. end as the loops do."""
  tracing = profile.Profile(ConfigDict({'log': {'profile': steps}}), StageFolder(folder))
  step = jax.jit(lambda x: jnp.sin(x @ x))
  state = jnp.ones((64, 64))
  for done in range(begin, end):
    tracing.between(done, state)
    with profile.annotated(done + 1):
      state = step(state)
  tracing.close()


@pytest.mark.parametrize(
    ('steps', 'begin', 'marked'),
    [((2, 3), 0, [2, 3]), ((2, 4), 2, [3, 4]), ((1, 1), 0, [1]), ((4, 9), 0, [4, 5]), ((1, 2), 2, None), ((), 0, None)],
    ids=['inside', 'resumed in it', 'first step', 'beyond the end', 'resumed after it', 'off'],
)
def test_the_steps_named_are_traced_and_marked_and_no_others(tmp_path, steps, begin, marked):
  run(tmp_path, steps, begin)
  found = traced(tmp_path)
  if marked is None:
    assert found == {}
  else:
    (name,) = found
    # Where TensorBoard's plugin looks: plugins/profile/<session>/<host>.xplane.pb.
    assert name.startswith(f'plugins/profile/steps_{steps[0]}_{steps[1]}/') and name.endswith('_0.xplane.pb')
    assert found[name] == marked


def test_the_last_step_of_a_trace_is_completed_in_it(tmp_path, monkeypatch):
  waited, ended = [], []
  monkeypatch.setattr(profile.jax, 'block_until_ready', waited.append)
  stop = jax.profiler.stop_trace
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: (ended.append(list(waited)), stop()))
  tracing = profile.Profile(ConfigDict({'log': {'profile': (2, 3)}}), StageFolder(tmp_path))
  for done in range(5):
    tracing.between(done, f'state {done}')
  assert waited == ['state 1', 'state 3'] and ended == [waited]


def test_a_folder_that_refuses_a_trace_ends_no_run(tmp_path):
  (tmp_path / 'profile').write_text('a file where the folder should be')
  run(tmp_path, (2, 3))
  run(tmp_path / 'other', (2, 3))  # nothing of the first is left running
  assert len(traced(tmp_path / 'other')) == 1
