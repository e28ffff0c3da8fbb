"""A trace of some steps of a stage, asked for on the command line, lies where TensorBoard and xprof look for it."""

import socket

from tests.run.helpers import traced


def test_the_steps_that_a_command_names_are_traced(shared):
  assert traced(shared.straight / 'anneal') == {
      f'plugins/profile/steps_3_4/{socket.gethostname()}_0.xplane.pb': [3, 4]
  }
