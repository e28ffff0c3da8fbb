"""Published rates of accelerators: the denominators of every utilisation figure and estimate.

Sources: the vendors' data sheets (dense bf16 matrix rate, no sparsity); for memory, memory bandwidth, links, cores and
matrix units of TPUs, the v5p, v5e and v6e pages of the Cloud TPU documentation.
"""

import dataclasses

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
  """bf16 FLOP/s of one device; None if unknown, in which case no utilisation is reported."""
  return next((flops for prefix, flops in _PEAK_FLOPS.items() if device_kind.startswith(prefix)), None)


@dataclasses.dataclass(frozen=True)
class Chip:
  """One TPU chip, for ahead-of-time estimates.

  Attributes:
    peak_flops: bf16 FLOP/s.
    hbm_bytes: memory that a program may use, from the out-of-memory errors of libtpu 0.0.42; it differs slightly from the
      data sheet (v5p 95 GiB, v6e 32 GB).
    hbm_bandwidth: bytes/s.
    link_bandwidth: bytes/s of one link in one direction: the documented sum, divided by the links and by two directions
      (v5p 1200 GB/s over 6 links, v6e 800 and v5e 400 over 4).
    clock_hz: cycles/s behind the compiler's cycle counts: peak rate over operations per cycle of the matrix units.
    cores: TensorCores of a chip, which share a kernel.
    matrix_width: side of a matrix unit.
    host_bandwidth: bytes/s between a chip and its host, in one direction. An assumption: the vendor publishes none. 15 GB/s
      is what "How to Scale Your Model" (jax-ml.github.io/scaling-book) calculates with.
    network_bandwidth: bytes/s of a chip to chips of other slices, in one direction: v5p 50 Gbit/s per chip, v5e 6.4 and
      v6e 25.6 Tbit/s per pod of 256.
    host_memory: bytes of a host's memory per chip: v5p 448 GB for four, v5e 512 and v6e 1536 GiB for eight.
  """

  peak_flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  link_bandwidth: float
  clock_hz: float
  network_bandwidth: float
  host_memory: float
  cores: int = 1
  matrix_width: int = 128
  host_bandwidth: float = 15e9


# By generation, as in the names of topologies.
CHIPS = {
    'v5e': Chip(_PEAK_FLOPS['TPU v5e'], int(15.75 * 2**30), 819e9, 50e9, 1.5e9, 3.125e9, 64 * 2**30),
    'v5p': Chip(_PEAK_FLOPS['TPU v5p'], int(95.74 * 2**30), 2765e9, 100e9, 1.75e9, 6.25e9, 112e9, cores=2),
    'v6e': Chip(_PEAK_FLOPS['TPU v6'], int(31.25 * 2**30), 1638e9, 100e9, 1.75e9, 12.5e9, 192 * 2**30, matrix_width=256),
}
