"""MinAtar's games seen otherwise: a family of environments from outside the package.

    GAME-mirrored    the picture from right to left; actions keep their meaning
    GAME-inverted    the picture upside down
    GAME-recoloured  each channel shown in the place of the next

The game itself, its rewards and its scores are as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from mtrl_jax import envs, errors, types
from mtrl_jax.envs import core, gymnax, wrapping
from mtrl_jax.types import Array

VARIANTS: dict[str, Callable[[Array], Array]] = {
    "mirrored": lambda image: jnp.flip(image, axis=-2),
    "inverted": lambda image: jnp.flip(image, axis=-3),
    "recoloured": lambda image: jnp.roll(image, 1, axis=-1),
}


def names() -> list[str]:
    """Returns the names that ``task`` takes."""
    return [f"{game}-{variant}" for game in envs.MINATAR for variant in VARIANTS]


def task(name: str, options: Mapping[str, Any] | None = None) -> core.PureTask:
    """Returns the game ``name``; raises ValueError for an unknown one."""
    errors.check("env", name, names())
    game, _, variant = name.partition("-")
    made = gymnax.task(f"{game}-MinAtar", options)
    made = made._replace(spec=made.spec._replace(name=f"minatar_variants/{name}"))
    return wrapping.wrap(made, _MAKERS[variant])


def _maker(change: Callable[[Array], Array]) -> Callable[[types.EnvSpec], Any]:
    """Returns a wrapper of the time steps whose image is changed."""

    def make(spec: types.EnvSpec) -> wrapping.Wrapper:
        def step(memory: Any, ts: types.TimeStep) -> tuple[Any, types.TimeStep]:
            return memory, ts._replace(obs=ts.obs | {"image": change(ts.obs["image"])})

        return wrapping.Wrapper(spec, lambda ts: (), step)

    return make


# One each, so that slots of a variant share their code.
_MAKERS = {variant: _maker(change) for variant, change in VARIANTS.items()}
