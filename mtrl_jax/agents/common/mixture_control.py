"""Who is in control of a mixture, and who teaches whom: the weights of Mix&Match.

``alpha`` is how far the control has moved from the first component to the last. The
weights it asks for are ``planned``; those of what acts are the same for a mixture, and
one component's alone where the control is drawn or divided (the ablations).
"""

from __future__ import annotations

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.losses import mixing
from mtrl_jax.types import Array, Scalar

# "mixture": all of them, by their weights. "step", "episode": one, drawn by the weights
# at every step or at an episode's first. "slot": each has its share of the slots.
CONTROLS = ("mixture", "step", "episode", "slot")
# "within_support" compares on the easier one's actions only, "reversed" is the divergence
# the other way round; see policy_mixture.matching_loss.
MATCHINGS = (*mixing.FORMS, "within_support", "reversed")


class Control(NamedTuple):
    """The static choices that weights depend on; see ``mix_and_match.Config``."""

    components: int
    kind: str = "mixture"
    experts: bool = False
    matching: str = "adjacent"
    fades: bool = True

    def planned(self, alpha: Scalar, task: Array, possible: Array) -> Array:
        """Returns the weights [..., K] that alpha asks for; ``task`` [...] int.

        ``possible`` bool [..., K], here and below, are the components with a legal action.
        """
        return mixing.within_possible(self._asked(alpha, task), possible)

    def choose(self, before: Array, drawn: Array, first: Array) -> Array:
        """Returns the component [...] whose turn it is; of no consequence in a mixture.

        ``before`` is that of the step before, ``drawn`` one drawn by the weights.
        """
        if self.kind == "slot":
            return before
        return jnp.where(first, drawn, before) if self.kind == "episode" else drawn

    def acting(self, planned: Array, choice: Array, possible: Array) -> Array:
        """Returns the weights [..., K] of what acts."""
        if self.kind == "mixture":
            return planned
        chosen = jax.nn.one_hot(choice, self.components)
        return mixing.within_possible(chosen, possible)

    def baseline(self, planned: Array, choice: Array, possible: Array) -> Array:
        """Returns the weights [..., K] of the value.

        A component drawn for a while does not change what the state is worth to the
        mixture; one that has its slots for good does.
        """
        if self.kind != "slot":
            return planned
        return self.acting(planned, choice, possible)

    def pairs(
        self, alpha: Scalar, task: Array, possible: Array
    ) -> dict[tuple[int, int], Array]:
        """Returns {(i, j): weight [...]}: how strongly j is matched to i.

        Where nothing fades each of the m teachers of a student has 1/m: one if adjacent.
        A component without a legal action neither teaches nor is taught.
        """
        if self.experts:
            found = self._expert_pairs(alpha if self.fades else 0.0, task)
        else:
            form = "all" if self.matching == "all" else "adjacent"
            found = mixing.matching_weights(self._asked(alpha, task), form)
            if not self.fades:
                teachers = collections.Counter(j for _, j in found)
                found = {
                    (i, j): jnp.full(task.shape, 1.0 / teachers[j]) for i, j in found
                }
        return _possible(found, possible)

    def ends(self, task: Array, possible: Array) -> dict[tuple[int, int], Array]:
        """Returns the pair of the first component and the last in full, as ``pairs`` does.

        With experts, in task i that of expert i.
        """
        last = self.components - 1
        found = {(0, last): jnp.ones(task.shape)} if last else {}
        return _possible(
            self._expert_pairs(0.0, task) if self.experts else found, possible
        )

    def _expert_pairs(self, alpha: Scalar, task: Array) -> dict[tuple[int, int], Array]:
        weights, last = self._asked(alpha, task), self.components - 1
        return {(i, last): weights[..., i] for i in range(last)}

    def _asked(self, alpha: Scalar, task: Array) -> Array:
        """Returns the weights [..., K] as if every component had a legal action."""
        if self.experts:
            return mixing.task_weights(alpha, task, self.components - 1)
        path = mixing.path_weights(alpha, self.components)
        path = path.reshape((1,) * task.ndim + path.shape)
        return jnp.broadcast_to(path, (*task.shape, self.components))


def _possible(
    pairs: dict[tuple[int, int], Array], possible: Array
) -> dict[tuple[int, int], Array]:
    """Returns the pairs with weight 0 where one of the two has no legal action."""
    return {
        (i, j): jnp.where(possible[..., i] & possible[..., j], weight, 0.0)
        for (i, j), weight in pairs.items()
    }
