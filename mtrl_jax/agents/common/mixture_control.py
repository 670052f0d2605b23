"""Who is in control of a mixture, and who teaches whom: the weights of Mix&Match.

``alpha`` is how far the control has moved from the first component to the last. The
weights it asks for are ``planned``; those of what acts are the same for a mixture, and
one component's alone where the control is drawn or divided (the ablations).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.losses import mixing
from mtrl_jax.types import Array, Scalar

# "mixture": all of them, by their weights. "step", "episode": one, drawn by the weights
# at every step or at an episode's first. "slot": each has its share of the slots.
CONTROLS = ("mixture", "step", "episode", "slot")
# "within_support" compares on the easier one's actions only; see mixture.matching_loss.
MATCHINGS = (*mixing.FORMS, "within_support")


class Control(NamedTuple):
    """The static choices that weights depend on; see ``mix_and_match.Config``."""

    components: int
    kind: str = "mixture"
    experts: bool = False
    matching: str = "adjacent"
    fades: bool = True

    def planned(self, alpha: Scalar, task: Array) -> Array:
        """Returns the weights [..., K] that alpha asks for; ``task`` [...] int."""
        if self.experts:
            return mixing.task_weights(alpha, task, self.components - 1)
        path = mixing.path_weights(alpha, self.components)
        path = path.reshape((1,) * task.ndim + path.shape)
        return jnp.broadcast_to(path, (*task.shape, self.components))

    def choose(self, before: Array, drawn: Array, first: Array) -> Array:
        """Returns the component [...] whose turn it is; of no consequence in a mixture.

        ``before`` is that of the step before, ``drawn`` one drawn by the weights.
        """
        if self.kind == "slot":
            return before
        return jnp.where(first, drawn, before) if self.kind == "episode" else drawn

    def acting(self, planned: Array, choice: Array) -> Array:
        """Returns the weights [..., K] of what acts."""
        if self.kind == "mixture":
            return planned
        return jax.nn.one_hot(choice, self.components)

    def baseline(self, planned: Array, choice: Array) -> Array:
        """Returns the weights [..., K] of the value.

        A component drawn for a while does not change what the state is worth to the
        mixture; one that has its slots for good does.
        """
        return self.acting(planned, choice) if self.kind == "slot" else planned

    def pairs(self, alpha: Scalar, task: Array) -> dict[tuple[int, int], Array]:
        """Returns {(i, j): weight [...]}: how strongly j is matched to i."""
        weights = self.planned(alpha if self.fades else 0.0, task)
        if self.experts:
            last = self.components - 1
            return {(i, last): weights[..., i] for i in range(last)}
        form = "all" if self.matching == "all" else "adjacent"
        return mixing.matching_weights(weights, form)

    def all_pairs(self, task: Array) -> dict[tuple[int, int], Array]:
        """Returns the pairs as if nothing had faded: each matching term in full."""
        return self.pairs(0.0, task)
