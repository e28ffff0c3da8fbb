"""The train step of a model in eager PyTorch, which ours is compared with; a program of its own that imports torch alone.

  python torch_step.py '{"vocab": 1024, ...}' ROWS CONTEXT     model/sizes.py names the fields

Takes a step per line of stdin and answers with a line. Every row is one document, since SDPA knows no segments.
"""

import json
import sys
import types

import torch
from torch import nn
from torch.nn import functional as F

THREADS = 2


def weight(*shape: int) -> nn.Parameter:
  return nn.Parameter(0.02 * torch.randn(*shape))


def rotate(x_BHTK, cos_TK, sin_TK):
  first, second = x_BHTK.chunk(2, dim=-1)
  return torch.cat([first * cos_TK - second * sin_TK, second * cos_TK + first * sin_TK], dim=-1)


class Layer(nn.Module):
  """Attention, with the gate of the loop in later passes, and SwiGLU."""

  def __init__(self, m):
    super().__init__()
    self.m, D = m, m.d_model
    self.norms = nn.ParameterList([torch.ones(D), torch.ones(D)])
    self.qkv = weight((m.heads + 2 * m.kv_heads) * m.head_dim, D)
    self.out, self.widen, self.down = weight(D, m.heads * m.head_dim), weight(2 * m.d_ff, D), weight(D, m.d_ff)
    if m.loops > 1:
      self.gate, self.gate_bias = weight(m.heads, m.head_dim), nn.Parameter(torch.full((m.heads, 1), 2.0))

  def forward(self, x_BTD, angles, near_TT, first):
    m, (B, T, _) = self.m, x_BTD.shape
    normed = F.rms_norm(x_BTD, x_BTD.shape[-1:], self.norms[0], m.norm_eps)
    heads = F.linear(normed, self.qkv).view(B, T, -1, m.head_dim).transpose(1, 2)
    q, k, v = heads.split([m.heads, m.kv_heads, m.kv_heads], dim=1)
    q, k = rotate(q, *angles), rotate(k, *angles)
    far = F.scaled_dot_product_attention(q, *(first or (k, v)), is_causal=True, enable_gqa=True)
    if first:
      gate = torch.sigmoid((q * self.gate[:, None]).sum(-1) + self.gate_bias)[..., None]
      near = F.scaled_dot_product_attention(q, k, v, attn_mask=near_TT, enable_gqa=True)
      far = gate * far + (1 - gate) * near
    x_BTD = x_BTD + F.linear(far.transpose(1, 2).reshape(B, T, -1), self.out)
    gated, up = F.linear(F.rms_norm(x_BTD, x_BTD.shape[-1:], self.norms[1], m.norm_eps), self.widen).chunk(2, dim=-1)
    return x_BTD + F.linear(F.silu(gated) * up, self.down), (k, v)


class Model(nn.Module):
  """The loss of a batch of tokens [B, T], whose targets are the same tokens."""

  def __init__(self, m):
    super().__init__()
    self.m, self.layers = m, nn.ModuleList(Layer(m) for _ in range(m.layers))
    self.embedding, self.head = weight(m.vocab, m.d_model), weight(m.vocab, m.d_model)
    self.norm = nn.Parameter(torch.ones(m.d_model))

  def forward(self, tokens_BT):
    m, T = self.m, tokens_BT.shape[1]
    half = m.head_dim // 2
    angles_TK = torch.arange(T)[:, None] * m.rope_theta ** (-torch.arange(half) / half)
    age_TT = torch.arange(T)[:, None] - torch.arange(T)
    near_TT = (age_TT >= 0) & (age_TT < m.loop_window)
    x_BTD, first = F.embedding(tokens_BT, self.embedding), [None] * m.layers
    for _ in range(m.loops):
      keys = []
      for layer, kv in zip(self.layers, first, strict=True):
        x_BTD, own = layer(x_BTD, (angles_TK.cos(), angles_TK.sin()), near_TT, kv)
        keys.append(own)
      first = keys
    logits = F.linear(F.rms_norm(x_BTD, x_BTD.shape[-1:], self.norm, m.norm_eps), self.head).flatten(0, 1)
    return F.cross_entropy(logits, tokens_BT.flatten())


def main(model: str, rows: str, context: str) -> None:
  torch.set_num_threads(THREADS)
  torch.manual_seed(0)
  m = types.SimpleNamespace(**json.loads(model))
  net, tokens_BT = Model(m), torch.randint(0, m.vocab, (int(rows), int(context)))
  adamw = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
  for _ in sys.stdin:
    adamw.zero_grad()
    net(tokens_BT).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    adamw.step()
    print('done', flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
