"""Tests run on eight CPU devices in one process; set before jax is imported anywhere."""

import os

from hypothesis import settings

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
    [os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8', '--xla_backend_optimization_level=0']
)

# Hypothesis limits the wall time of an example by default, which fails by chance on a busy machine.
settings.register_profile('without deadline', deadline=None)
settings.load_profile('without deadline')
