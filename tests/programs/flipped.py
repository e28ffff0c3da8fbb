"""`flipped STEP DEVICE -m MODULE FLAGS`: after STEP steps a bit of what one device holds is wrong, and stays so."""

import sys

from tests.programs import wrap

if __name__ == '__main__':
  first, number, *command = sys.argv[1:]

  def flipping(inner):
    def compare(self, done, state):
      if done >= int(first):
        import jax

        from tests.train import faulty

        head = faulty.flipped(state.params['head'], jax.devices()[int(number)], 7, 12)
        state = state.replace(params=state.params | {'head': head})
      return inner(self, done, state)

    return compare

  wrap.replace('iquest_jax.train.health.checks:Health.compare_replicas', flipping)
  wrap.run(command)
