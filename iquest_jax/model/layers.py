"""The parts of a layer. Legend: B batch, T positions, D model width, F ffn width, K head size, V vocab."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from iquest_jax import sharding
from iquest_jax.kernels.product import product
from iquest_jax.kernels.swiglu import swiglu
from iquest_jax.model.sizes import ModelConfig


def param(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init) -> jax.Array:
  """A float32 parameter with logical axis names."""
  return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)


def linear(subscripts: str, x, weight, names: tuple[str, ...], dtype: jnp.dtype) -> jax.Array:
  """einsum of activations [B, T, ...] with a float32 weight, which is cast to `dtype` and gathered just before use."""
  multiply = lambda weight, x: product(subscripts, x, weight)
  return sharding.with_gathered_weight(multiply, weight, names, dtype, x)


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis, statistics in float32."""

  eps: float

  @nn.compact
  def __call__(self, x):
    scale_D = param(self, 'scale', (x.shape[-1],), ('norm',), nn.initializers.ones_init())
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
    return (wide * scale_D).astype(x.dtype)


class Embedder(nn.Module):
  """Token ids [B, T] to vectors [B, T, D] in the compute dtype."""

  config: ModelConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, tokens_BT):
    c = self.config
    embedding_VD = param(
        self, 'embedding', (c.vocab, c.d_model), ('vocab', 'embed'), nn.initializers.normal(c.init_std)
    )
    look_up = lambda weight, tokens: jnp.take(weight, tokens, axis=0)
    return sharding.with_gathered_weight(look_up, embedding_VD, ('vocab', 'embed'), self.dtype, tokens_BT)


class Mlp(nn.Module):
  """SwiGLU: (silu(x gate) * (x up)) down, no biases."""

  config: ModelConfig
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BTD):
    c = self.config
    init = nn.initializers.normal(c.init_std)
    gate_DF = param(self, 'gate', (c.d_model, c.d_ff), ('embed', 'ffn'), init)
    up_DF = param(self, 'up', (c.d_model, c.d_ff), ('embed', 'ffn'), init)
    down_FD = param(self, 'down', (c.d_ff, c.d_model), ('ffn', 'embed'), init)
    widen = lambda weight: linear('btd,df->btf', x_BTD, weight, ('embed', 'ffn'), self.dtype)
    return linear('btf,fd->btd', swiglu(widen(gate_DF), widen(up_DF)), down_FD, ('ffn', 'embed'), self.dtype)


def rotate(x_BTHK, positions_BT, theta):
  """Rotary position embedding, half-split pairs (k, k + K/2) as in Llama; angles in float32."""
  half = x_BTHK.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions_BT[:, :, None, None].astype(jnp.float32) * frequencies
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTHK.dtype)
