"""Norms per group of layers: the embedder, attention and mlp at up to four depths, the final norm, the head."""

from typing import Any

import jax
import jax.numpy as jnp

# Consecutive layers form this many groups, so that a norm also says how deep.
_DEPTHS = 4


def names(params: Any) -> tuple[str, ...]:
  """Names of the groups of a Transformer's parameters, such as 'attention_0-19', in the order of `norms`."""
  return tuple(sorted(jax.eval_shape(_squares, params)))


def norms(tree: Any) -> jax.Array:
  """L2 norm per group, float32 [number of groups], of parameters or of a tree shaped like them.

  The sum of their squares is the square of the global norm. A norm scale belongs to what it scales the input of.
  """
  return jnp.sqrt(jnp.stack([square for _, square in sorted(_squares(tree).items())]))


def _squares(tree: Any) -> dict[str, jax.Array]:
  """{group: sum of squares}."""
  sums = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    kind, *inner = (key.key for key in path)
    squares = jnp.square(leaf.astype(jnp.float32))
    if kind != 'layers':
      sums[kind] = sums.get(kind, 0) + jnp.sum(squares)
      continue
    kind, count = inner[0].removesuffix('_norm'), leaf.shape[0]
    by_layer = jnp.sum(squares.reshape(count, -1), axis=1)
    edges = [count * part // _DEPTHS for part in range(_DEPTHS + 1)]
    for first, end in zip(edges, edges[1:]):
      if first < end:
        name = f'{kind}_{first}-{end - 1}' if end - first > 1 else f'{kind}_{first}'
        sums[name] = sums.get(name, 0) + jnp.sum(by_layer[first:end])
  return sums
