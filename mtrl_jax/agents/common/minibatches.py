"""Minibatches: the rows of a batch, in an order cheap enough to draw anew each pass.

    i -> (a·i + b) mod rows,    gcd(a, rows) = 1

A full random permutation sorts its keys, which takes longer than the gradient steps of a
small network; an affine bijection of the index costs a multiplication.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.agents.common import packing
from mtrl_jax.types import Array, Key, Tree

_MOST = 1 << 24  # rows: 256 times as many still fit into 32 bits


@dataclasses.dataclass(frozen=True)
class Rows:
    """A batch that can be taken apart: ``take(index)`` gives some of its rows.

    With ``groups``, the group of each row, minibatches are alike: each has its share of
    every group, one group after the other.
    """

    batch: Tree
    number: int
    unit: str  # what a row is, in the plural
    take: Callable[[Array], Tree]
    groups: tuple[int, ...] = ()

    def order(self, key: Key, epochs: int, minibatches: int) -> Array:
        """Returns the rows of each step, int32 [epochs · minibatches, rows].

        Raises:
          ValueError: at trace time, rows that do not divide into the minibatches.
        """
        if self.number % minibatches:
            raise ValueError(
                f"minibatches: {minibatches} does not divide the {self.number} "
                f"{self.unit} of a rollout; {_instead(minibatches, self.number)}"
            )
        keys = jax.random.split(key, epochs)
        if self.groups:
            grouped(self.groups, minibatches, self.unit)
            order = jax.vmap(lambda k: self._by_group(k, minibatches))(keys)
        else:
            order = jax.vmap(lambda k: shuffled(k, self.number))(keys)
        return order.reshape(epochs * minibatches, -1)

    def _by_group(self, key: Key, minibatches: int) -> Array:
        """Returns the rows of each minibatch of a pass, [minibatches, rows]."""
        parts = []
        for k in sorted(set(self.groups)):
            own = np.flatnonzero(np.asarray(self.groups) == k)
            order = shuffled(jax.random.fold_in(key, k), len(own))
            parts.append(jnp.asarray(own)[order].reshape(minibatches, -1))
        return jnp.concatenate(parts, axis=1)


def grouped(
    groups: Sequence[int], minibatches: int, unit: str = "slots"
) -> tuple[int, ...]:
    """Returns the group of each row of every minibatch, one group after the other.

    Raises:
      ValueError: a group whose rows do not divide into the minibatches.
    """
    found: list[int] = []
    every = collections.Counter(groups)
    for k, number in sorted(every.items()):
        if number % minibatches:
            instead = _instead(minibatches, math.gcd(*every.values()))
            raise ValueError(
                f"minibatches: {minibatches} does not divide the {number} {unit} of task "
                f"{k}, whose share is to be the same in each; {instead}"
            )
        found += [k] * (number // minibatches)
    return tuple(found)


def _instead(minibatches: int, number: int) -> str:
    """Returns what to use in place of a number of minibatches that does not divide."""
    divisors = [n for n in range(1, number + 1) if number % n == 0]
    below = max(n for n in divisors if n <= minibatches)
    above = [n for n in divisors if n > minibatches][:1]
    return "use " + " or ".join(str(n) for n in (below, *above))


def leading(batch: Tree, unit: str, groups: tuple[int, ...] = ()) -> Rows:
    """Returns the rows of a batch with leaves ``[N, ...]``."""
    number = len(jax.tree.leaves(batch)[0])
    return Rows(batch, number, unit, packing.taker(batch, axes=1), groups)


def slots(rollout: types.Rollout, slot_tasks: tuple[int, ...] = ()) -> Rows:
    """Returns the slots of a rollout, whole unrolls; its carry has no time axis.

    With ``slot_tasks`` they are grouped by task.
    """
    # The steps are T + 1 and the actions T, so they cannot share an array.
    steps = packing.taker(rollout.ts, axes=2)
    actions = packing.taker((rollout.action, rollout.extras), axes=2)

    def take(index: Array) -> types.Rollout:
        action, extras = actions(index)
        carry = jax.tree.map(lambda x: x[index], rollout.carry)
        return types.Rollout(steps(index), action, extras, carry)

    return Rows(rollout, rollout.ts.first.shape[1], "slots", take, slot_tasks)


def whole(batch: Tree) -> Rows:
    """Returns a batch that is not taken apart, one row."""
    return Rows(batch, 1, "batches", lambda index: batch)


def shuffled(key: Key, rows: int) -> Array:
    """Returns a random bijection i -> (a·i + b) mod rows of ``arange(rows)``, int32.

    Up to 256 rows it is any permutation: few rows have few multipliers, and the slots
    of a mixture lie side by side, so that minibatches would be of one task. So it is
    above 2^24, where the multiplication would overflow.
    ``a`` is drawn from numbers coprime to ``rows`` that spread any run of i evenly over
    the rows: a minibatch is a stratified sample of the rollout, another one each pass,
    at the price of a multiplication instead of a sort.
    """
    if not 256 < rows <= _MOST:
        return jax.random.permutation(key, rows).astype(jnp.int32)
    coprime = multipliers(rows)
    multiplier_key, offset_key = jax.random.split(key)
    a = jnp.asarray(coprime)[jax.random.randint(multiplier_key, (), 0, len(coprime))]
    b = jax.random.randint(offset_key, (), 0, rows)
    # uint32 would overflow for large products: fold the multiplication in halves.
    i = jnp.arange(rows, dtype=jnp.uint32)
    low, high = i & 0xFF, i >> 8
    n = jnp.uint32(rows)
    a = a.astype(jnp.uint32)
    product = ((high * a) % n * 256 % n + low * a) % n
    return ((product + b.astype(jnp.uint32)) % n).astype(jnp.int32)


def multipliers(rows: int, most: int = 256) -> np.ndarray:
    """Returns up to ``most`` multipliers coprime to ``rows`` that spread a run evenly.

    The more even the first steps of the continued fraction of a/rows, the more evenly
    any run of i falls over the rows: with a near rows/2, say, a minibatch would take
    its rows from two narrow bands of the rollout.
    """
    limit = min(rows, 1 << 16)
    found = [a for a in range(1, limit + 1) if math.gcd(a, rows) == 1]
    found = found[:: max(1, len(found) // 4096)]
    found.sort(key=lambda a: _largest_quotient(a, rows))
    return np.asarray(found[: min(most, max(8, len(found) // 8))], np.int32)


def _largest_quotient(a: int, rows: int) -> int:
    """Returns the largest partial quotient of the continued fraction of a/rows."""
    largest = 1
    while a:
        largest = max(largest, rows // a)
        rows, a = a, rows % a
    return largest
