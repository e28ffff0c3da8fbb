"""Compiles a checkpointed layer of gated attention for a TPU; prints how many kernels it has, named values saved or not.

It runs in a process of its own, because libtpu reads its environment once, when it is loaded.
"""

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from iquest_jax.kernels.gated_attention import Ids, Keys, gated_attention, kernels_for


def kernels(names) -> int:
  chip = topologies.get_topology_desc(platform='tpu', topology_name='v5p:2x2x1').devices[0]
  sharding = jax.sharding.SingleDeviceSharding(chip)
  array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct((1, 512, *shape), dtype, sharding=sharding)
  q, k, ids = array(2, 128), array(1, 128), Ids(array(dtype=jnp.int32), array(dtype=jnp.int32))

  def loss(ids, *args):
    def layer(q, far_k, far_v, near_k, near_v, logits):
      far, near = Keys(far_k, far_v, ids), Keys(near_k, near_v, ids)
      return jnp.sin(gated_attention(q, ids, far, near, logits, 64)).sum()

    return jax.checkpoint(layer, policy=jax.checkpoint_policies.save_only_these_names(*names))(*args)

  with kernels_for('tpu'):
    step = jax.jit(jax.value_and_grad(loss, argnums=range(1, 7)))
    compiled = step.lower(ids, q, k, k, k, k, array(2, dtype=jnp.float32)).compile()
  return compiled.as_text().count('custom_call_target="tpu_custom_call"')


if __name__ == '__main__':
  print(kernels(('attention_output', 'attention_lse')), kernels(()))
