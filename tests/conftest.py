"""Settings of the whole suite: strict promotion, 8 virtual CPU devices."""

import os

# Before jax is imported anywhere: sharding tests need several devices.
_FLAGS = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
