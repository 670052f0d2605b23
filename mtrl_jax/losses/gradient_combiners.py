"""One direction from a gradient for each task: d = Σ_k w_k g_k.

Every method here needs the tasks' inner products alone, so it is a function of the Gram
matrix G = [g_i · g_j] to the weights w [K] (``Combiner``); ``gram`` and ``weighted`` are
of trees of any shape.

    mean      w = 1/K
    sum       w = 1
    pcgrad    g_i loses its part along every g_j it conflicts with, in random order; mean
    cagrad    the best for the worst task within c ‖g_0‖ of the mean g_0
    mgda      the least norm in the convex hull: a common descent direction, to the
              precision of its steps (of nearly opposing gradients not always one)
    equal_norm  the mean of gradients brought to the same norm, their mean norm

Ref: Yu et al. 2020 (arXiv:2001.06782), algorithm 1; Liu et al. 2021 (arXiv:2110.14048),
equations 3 and 5; Désidéri 2012; Sener & Koltun 2018 (arXiv:1810.04650), equation 3.

Deviations: the programs of CAGrad and MGDA over the simplex are solved for u >= 0, of
which w is the direction, by accelerated projected gradients of a fixed number of steps on
gradients of length one, so that norms may differ by orders of magnitude (tests compare
with scipy's solver and the closed form of two tasks).
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Key, Scalar, Tree

COMBINERS = ("sum", "mean", "equal_norm", "pcgrad", "cagrad", "mgda")
_STEPS, _RESTARTS = 200, 10  # of MGDA's program, at most
_SHORT = 0.01  # of ‖d‖², what a task may miss where MGDA's program ends
_ROUNDS, _ROUND = 12, 50  # of CAGrad's: worst gains that are tried, steps for each
_TINY = 1e-12
_LEAST = float(jnp.finfo(jnp.float32).tiny)

# (gram [K, K], present [K], key, c) -> weights [K], 0 of tasks that are not present
Combiner = Callable[[Array, Array, Key, Scalar], Array]


def get(name: str) -> Combiner:
    """Returns the combiner of that name; raises ValueError for an unknown one.

    ``c`` is read by CAGrad alone, the key by PCGrad alone.
    """
    if name not in COMBINERS:
        raise ValueError(f"combiner: {name!r} is not known, use one of {COMBINERS}")
    return {
        "sum": lambda gram, present, key, c: len(gram) * _even(present),
        "mean": lambda gram, present, key, c: _even(present),
        "equal_norm": lambda gram, present, key, c: equal_norm(gram, present),
        "pcgrad": lambda gram, present, key, c: pcgrad(gram, key, present),
        "cagrad": lambda gram, present, key, c: _stood_in(
            lambda gram: cagrad(gram, c), gram, present
        ),
        "mgda": lambda gram, present, key, c: _stood_in(mgda, gram, present),
    }[name]


def weights(
    combiner: Combiner,
    gram: Array,
    key: Key,
    c: Scalar = 0.5,
    absent: Array | None = None,
) -> Array:
    """Returns w [K], in which a task without a gradient of its own has no say.

    Those that are not ``absent`` [K] (g_k = 0 by default: none of its steps are in the
    batch) are combined as if there were no others; ``sum`` is K times their mean.
    """
    absent = jnp.diag(gram) <= 0 if absent is None else absent
    return combiner(gram, ~absent, key, c)


def weighted(weights: Array, gradients: Tree) -> Tree:
    """Returns the tree of Σ_k w_k g_k for gradients whose leaves are ``[K, ...]``."""
    return jax.tree.map(lambda g: jnp.tensordot(weights, g, axes=1), gradients)


def gram(gradients: Tree) -> Array:
    """Returns the inner products [K, K] of gradients whose leaves are ``[K, ...]``."""

    def of(leaf):
        rows = jnp.reshape(leaf, (len(leaf), -1))
        return rows @ rows.T

    return sum(map(of, jax.tree.leaves(gradients)))


def conflicts(gram: Array, present: Array | None = None) -> Array:
    """Returns the share [] of pairs of tasks whose gradients' product is negative.

    Of pairs that are both ``present`` [K], all by default; 0 of none.

    >>> gram = jnp.array([[1.0, -1.0, 0.0], [-1.0, 2.0, 1.0], [0.0, 1.0, 1.0]])
    >>> f"{conflicts(gram):.3f}"
    '0.333'
    """
    here = _all(gram) if present is None else present
    pairs = jnp.triu(here[:, None] & here[None], k=1)
    return jnp.sum(pairs & (gram < 0)) / jnp.maximum(jnp.sum(pairs), 1)


def equal_norm(gram: Array, present: Array | None = None) -> Array:
    """Returns w_k = mean_j ‖g_j‖ / (K ‖g_k‖): no task is louder than another.

    GradNorm's balance for equal rates of training (asymmetry 0), without its weights.
    Mean and K are of the tasks that are ``present`` [K], all by default.

    >>> print(equal_norm(jnp.array([[1.0, 0.0], [0.0, 4.0]])))
    [0.75  0.375]
    """
    even = _even(_all(gram) if present is None else present)
    norms = jnp.sqrt(jnp.maximum(jnp.diag(gram), _LEAST))
    return even * jnp.sum(even * norms) / norms


def pcgrad(gram: Array, key: Key, present: Array | None = None) -> Array:
    """Returns weights [K] of the mean of projected gradients.

    For each i, over the others j in random order: where p_i · g_j < 0,
    p_i -= (p_i · g_j / ‖g_j‖²) g_j, with the g_j as they were before any projection. All
    of it is of the tasks that are ``present`` [K], all by default.
    """
    chex.assert_rank(gram, 2)
    tasks = len(gram)
    here = _all(gram) if present is None else present
    orders = jax.vmap(lambda k: jax.random.permutation(k, tasks))(
        jax.random.split(key, tasks)
    )

    def projected(i, order):
        def remove(weights, j):
            product = weights @ gram[:, j]
            share = product / jnp.maximum(gram[j, j], _LEAST)
            share = jnp.where((product < 0) & (i != j) & here[j], share, 0.0)
            return weights.at[j].add(-share), None

        own = jnp.zeros(tasks).at[i].set(1.0)
        return jax.lax.scan(remove, own, order)[0]

    return _even(here) @ jax.vmap(projected)(jnp.arange(tasks), orders)


def cagrad(gram: Array, c: Scalar) -> Array:
    """Returns weights [K] of the conflict-averse direction, over 1 + c².

    max_d min_i g_i · d with ‖d − g_0‖ <= r = c ‖g_0‖, by its dual over the simplex:
    d = g_0 + r g_w / ‖g_w‖ of the w that minimises F = g_w · g_0 + r ‖g_w‖. With u = t w
    and the best t, F is (u · m + ½ u'Gu + ½ r²) / Σ u, m_i = g_i · g_0: its least value is
    the F at which min_u ½ u'Gu + u · (m − F) + ½ r² is 0 (Dinkelbach 1967).
    """
    tasks = len(gram)
    mean = jnp.full(tasks, 1.0 / tasks)
    gram, norms, cosines = _in_units(gram)
    gains = gram @ mean
    radius = c * jnp.sqrt(jnp.maximum(mean @ gains, 0.0))

    def norm(u):
        return jnp.sqrt(jnp.maximum(u @ cosines @ u, _TINY * u @ u + _LEAST))

    def gain(u):
        w = u / norms / jnp.maximum(jnp.sum(u / norms), _LEAST)
        return w @ gains + radius * norm(w * norms)

    def attempt(best, _):
        slack = (gain(best) - gains) / norms
        size = jnp.maximum(jnp.max(jnp.abs(slack)), _LEAST)
        found = _nonnegative(cosines, slack / size, best / norm(best), _ROUND)
        is_better = (jnp.sum(found) > 0) & (gain(found) < gain(best))
        return jnp.where(is_better, found, best), None

    best, _ = jax.lax.scan(attempt, mean * norms, None, _ROUNDS)
    return (mean + radius * best / norm(best) / norms) / (1.0 + jnp.square(c))


def mgda(gram: Array) -> Array:
    """Returns weights [K] on the simplex of the least ‖Σ_k w_k g_k‖.

    w ∝ u, the least of ½ u'Gu − Σ u over u >= 0. It is sought until g_k · d >= 0.99 ‖d‖²
    of every task, for so many steps at most.
    """
    _, norms, cosines = _in_units(gram)
    wanted = jnp.min(norms) / norms

    def is_short(state):
        u, rounds = state
        return jnp.any(cosines @ u < (1.0 - _SHORT) * wanted) & (rounds < _RESTARTS)

    def go_on(state):
        u, rounds = state
        return _nonnegative(cosines, wanted, u, _STEPS), rounds + 1

    u, _ = jax.lax.while_loop(is_short, go_on, go_on((wanted, 0)))
    u = u / norms
    return u / jnp.maximum(jnp.sum(u), _LEAST)


def _all(gram: Array) -> Array:
    return jnp.ones(len(gram), bool)


def _even(present: Array) -> Array:
    """Returns the weights [K] of the mean of the tasks that are present."""
    return present / jnp.maximum(jnp.sum(present), 1)


def _stood_in(of: Callable[[Array], Array], gram: Array, present: Array) -> Array:
    """Returns weights [K] with the mean of those present in the place of others.

    It is in their hull, within reach of their mean, and no worst task.
    """
    others = _even(present)
    stand_in = jnp.where(present[:, None], jnp.eye(len(gram)), others[None])
    return of(stand_in @ gram @ stand_in.T) @ stand_in


def _in_units(gram: Array) -> tuple[Array, Array, Array]:
    """Returns (Gram matrix in a unit near the norms', norms ‖g_k‖, cosines between g_k)."""
    gram = gram / jnp.maximum(jnp.max(jnp.diag(gram)), _LEAST)
    norms = jnp.sqrt(jnp.maximum(jnp.diag(gram), _LEAST))
    return gram, norms, gram / jnp.outer(norms, norms)


def _nonnegative(matrix: Array, linear: Array, start: Array, steps: int) -> Array:
    """Returns the u >= 0 [K] with the least ½ u'Mu − b · u, M semidefinite."""
    step_size = 1.0 / jnp.maximum(jnp.linalg.norm(matrix), _TINY)

    def step(state, now):
        before, ahead = state
        after = jnp.maximum(ahead - step_size * (matrix @ ahead - linear), 0.0)
        return (after, after + now / (now + 3.0) * (after - before)), None

    counts = jnp.arange(steps, dtype=jnp.float32)
    return jax.lax.scan(step, (start, start), counts)[0][0]


def grad_norm_weights(
    weights: Array, norms: Array, ratios: Array, asymmetry: Scalar, rate: Scalar
) -> Array:
    """Returns task weights [K] after a step of GradNorm; they sum to K.

    L = Σ_k |w_k n_k − sg(mean(w n) · r_k^a)| is descended by w: ``norms`` n_k are the
    norms of the tasks' gradients, ``ratios`` the losses over their first values, r_k that
    over its mean; below 0, which has no power a, it is 0.

    Ref: Chen et al. 2018 (arXiv:1711.02257), equation 2.
    """
    ratios = jnp.maximum(ratios, 0.0)
    relative = ratios / jnp.maximum(jnp.mean(ratios), _TINY)
    target = jnp.mean(weights * norms) * relative**asymmetry
    slope = jnp.sign(weights * norms - target) * norms
    moved = jnp.maximum(weights - rate * slope, _TINY)
    return moved * len(moved) / jnp.sum(moved)
