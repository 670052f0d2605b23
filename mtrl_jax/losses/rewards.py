"""Reward transforms an agent may put between the task and its learner."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from mtrl_jax.losses import symlog
from mtrl_jax.types import Array


def identity(r_t: Array) -> Array:
    """Returns the reward as it is."""
    return r_t


def clip(r_t: Array) -> Array:
    """Returns min(max(r, −1), 1), the Atari convention."""
    return jnp.clip(r_t, -1.0, 1.0)


def tanh(r_t: Array) -> Array:
    """Returns tanh r, as DreamerV2 on Atari."""
    return jnp.tanh(r_t)


def oac_paper(r_t: Array) -> Array:
    """Returns 0.3·min(tanh r, 0) + 5·max(tanh r, 0): optimistic asymmetric clipping.

    Ref: Espeholt et al. 2018 (arXiv:1802.01561), as drawn in the paper.
    """
    squashed = jnp.tanh(r_t)
    return 0.3 * jnp.minimum(squashed, 0.0) + 5.0 * jnp.maximum(squashed, 0.0)


def oac_code(r_t: Array) -> Array:
    """Returns 5·tanh(r/5), times 0.3 where r < 0: the form of the authors' program.

    It differs from ``oac_paper``; both are in use.
    """
    squashed = 5.0 * jnp.tanh(r_t / 5.0)
    return jnp.where(r_t < 0.0, 0.3 * squashed, squashed)


def signed_hyperbolic(r_t: Array) -> Array:
    """Returns sign(r)·(√(|r| + 1) − 1) + 1e-3·r.

    Ref: Pohlen et al. 2018 (arXiv:1805.11593). Of the reward, not of the return.

    >>> print(signed_hyperbolic(jnp.array([-8.0, 0.0, 3.0])))
    [-2.008  0.     1.003]
    """
    return jnp.sign(r_t) * (jnp.sqrt(jnp.abs(r_t) + 1.0) - 1.0) + 1e-3 * r_t


TRANSFORMS: dict[str, Callable[[Array], Array]] = {
    "none": identity,
    "clip": clip,
    "tanh": tanh,
    "oac_paper": oac_paper,
    "oac_code": oac_code,
    "symlog": symlog.symlog,  # of the reward, not of the return
    "signed_hyperbolic": signed_hyperbolic,
}


def get(name: str) -> Callable[[Array], Array]:
    """Returns the transform called ``name``.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"rewards: unknown {name!r}; one of {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]
