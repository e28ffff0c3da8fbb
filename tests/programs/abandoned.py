"""Abandons two coroutines, as a save does on a full disk, after the logs of Orbax have been quieted."""

from iquest_jax.checkpoint.quiet import quiet_orbax


async def async_serialize_from_host():
  pass


async def ours():
  pass


quiet_orbax()
async_serialize_from_host()
ours()
