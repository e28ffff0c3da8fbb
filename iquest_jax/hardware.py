"""What accelerators can do: published peak rates, the denominators of every utilisation figure.

Imports nothing. Sources: the vendors' data sheets; dense bf16 matrix rate without sparsity.
"""

# Prefix of jax's device_kind -> bf16 FLOP/s of one device.
_PEAK_FLOPS = {
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5p': 459e12,
    'TPU v5': 459e12,
    'TPU v6': 918e12,
    'NVIDIA A100': 312e12,
    'NVIDIA H100': 989e12,
    'NVIDIA H200': 989e12,
}


def peak_flops(device_kind: str) -> float | None:
  """bf16 FLOP/s of one device; None where it is not known, and then no utilisation is reported."""
  for prefix, flops in _PEAK_FLOPS.items():
    if device_kind.startswith(prefix):
      return flops
  return None
