"""Whether the process and its machine can run the kit, in one line before anything."""

from __future__ import annotations

import os

from mtrl_jax import errors


def check() -> None:
    """Raises ConfigError unless JAX starts here as the kit needs it."""
    import jax

    if jax.config.read("jax_enable_x64"):
        raise errors.ConfigError(
            "JAX_ENABLE_X64: the kit computes in 32 bits; unset it (it is "
            f"{os.environ.get('JAX_ENABLE_X64', 'on')!r})"
        )
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        said = (str(error).strip().splitlines() or ["no device"])[0]
        raise errors.ConfigError(
            f"JAX_PLATFORMS={platforms!r}: no such device here ({said[:160]}); install "
            "jax for it (jax[cuda12]), or give JAX_PLATFORMS=cpu"
        ) from error


def explain(error: BaseException) -> str | None:
    """Returns one line for an error of the machine, None for any other: no memory."""
    if isinstance(error, MemoryError):
        said = ""
    elif type(error).__name__ in ("XlaRuntimeError", "JaxRuntimeError") and (
        "RESOURCE_EXHAUSTED" in str(error)
    ):
        lines = str(error).partition("RESOURCE_EXHAUSTED:")[2].strip().splitlines()
        said = f" ({lines[0][:120]})" if lines else ""
    else:
        return None
    return (
        f"out of memory{said}; give fewer members, slots or a shorter unroll. What is "
        "saved of the run is kept"
    )
