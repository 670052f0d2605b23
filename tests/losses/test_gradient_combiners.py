"""Combiners of task gradients: their papers' properties, and a toy with known ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from mtrl_jax.losses import gradient_combiners as combiners

KEY = jax.random.key(0)


def _draw(tasks, seed=0, size=6):
    """Gradients [K, N], some pairs in conflict."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(tasks, size)).astype(np.float32)


def _combine(name, gradients, key, c=0.5):
    """The tree of Σ_k w_k g_k of gradients whose leaves are [K, ...]."""
    gram = combiners.gram(gradients)
    weights = combiners.weights(combiners.get(name), gram, key, c)
    return combiners.weighted(weights, gradients)


@functools.partial(jax.jit, static_argnums=0)
def _combined(name, gradients, c):
    return _combine(name, gradients, KEY, c)


def _direction(name, gradients, c=0.5):
    return jax.tree.map(np.asarray, _combined(name, gradients, c))


gram = jax.jit(combiners.gram)


@pytest.mark.parametrize("name", combiners.COMBINERS)
def test_a_tree_is_combined_as_one_vector(name):
    """Shapes of the leaves do not matter; K = 1 gives a multiple of the gradient."""
    flat = _draw(3)
    tree = {"a": flat[:, :2], "b": flat[:, 2:].reshape(3, 2, 2)}
    got = _direction(name, tree)
    together = np.concatenate([got["a"], got["b"].reshape(-1)])
    np.testing.assert_allclose(together, _direction(name, flat), rtol=1e-4, atol=1e-5)
    alone = flat[:1]
    scale = {"cagrad": 1.5 / 1.25}.get(name, 1.0)
    np.testing.assert_allclose(_direction(name, alone), scale * alone[0], rtol=1e-4)


@pytest.mark.parametrize("name", [x for x in combiners.COMBINERS if x != "pcgrad"])
def test_the_order_of_tasks_does_not_matter(name):
    """Relabelled tasks give the same direction; PCGrad's order is drawn."""
    g, order = _draw(4, seed=5), np.array([2, 0, 3, 1])
    wanted = _direction(name, g)
    np.testing.assert_allclose(_direction(name, g[order]), wanted, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("second", [[1.0, -0.2], [-30.0, 10.0]], ids=str)
@pytest.mark.parametrize("name", combiners.COMBINERS)
def test_a_task_without_a_gradient_has_no_say(name, second):
    """Two tasks that agree, or not: the same direction with a third without steps."""
    g = np.array([[1.0, 0.5], second])
    with_absent = np.concatenate([g, np.zeros((1, 2))])
    wanted = _direction(name, g) * (1.5 if name == "sum" else 1.0)
    got = _direction(name, with_absent)
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-4)
    nothing = _direction(name, np.zeros((3, 2)))
    np.testing.assert_array_equal(nothing, np.zeros(2))


def test_equal_norms_make_no_task_louder():
    """w_k ‖g_k‖ is the same for all tasks, whatever their scale."""
    g = _draw(3, seed=2) * np.array([[1.0], [10.0], [1e3]])
    norms = np.linalg.norm(g, axis=1)
    loud = np.asarray(jax.jit(combiners.equal_norm)(gram(g))) * norms
    np.testing.assert_allclose(loud, np.full(3, np.mean(loud)), rtol=1e-4)
    np.testing.assert_allclose(loud.sum(), norms.mean(), rtol=1e-4)


def test_pcgrad_of_two_tasks_is_orthogonal_to_what_it_gave_up():
    """p_1 · g_2 = 0 in conflict, whatever the length of g_2; without one the mean."""
    g = np.array([[1.0, 0.0], [-1.0, 1.0]])
    np.testing.assert_allclose(_direction("pcgrad", g), [0.25, 0.75], atol=1e-6)
    for scale in (1e-2, 1e2):
        scaled = g * np.array([[1.0], [scale]])
        first = 2 * _direction("pcgrad", scaled) - scale * np.array([0.0, 1.0])
        np.testing.assert_allclose(first, [0.5, 0.5], rtol=1e-3, atol=1e-4)
    agreeing = np.array([[1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(_direction("pcgrad", agreeing), [1.0, 0.5], atol=1e-6)


def test_pcgrad_is_the_algorithm_on_vectors():
    """The Gram matrix's version equals projections done on the vectors, same orders."""
    tasks = 5
    g = np.asarray(_draw(tasks, seed=3), np.float64)
    keys = jax.random.split(KEY, tasks)
    orders = [np.asarray(jax.random.permutation(k, tasks)) for k in keys]
    projected = g.copy()
    for i in range(tasks):
        for j in orders[i]:
            product = projected[i] @ g[j]
            if j != i and product < 0:
                projected[i] -= product / (g[j] @ g[j]) * g[j]
    assert not np.allclose(projected, g)
    got = _direction("pcgrad", g)
    np.testing.assert_allclose(got, projected.mean(0), rtol=1e-4, atol=1e-5)


def test_pcgrad_does_not_know_which_task_is_which():
    """Mean over 1,000 keys: relabelled tasks have the same, within 5 standard errors."""
    g, order, count = _draw(4, seed=5), np.array([2, 0, 3, 1]), 1000

    @jax.jit
    def drawn(g):
        of = combiners.get("pcgrad")
        keys, own = jax.random.split(KEY, count), combiners.gram(g)
        return jax.vmap(lambda key: combiners.weights(of, own, key))(keys) @ g

    one, other = np.asarray(drawn(g)), np.asarray(drawn(g[order]))
    error = np.sqrt((one.var(0) + other.var(0)) / count)
    assert (np.abs(one.mean(0) - other.mean(0)) < 5 * error).all()
    # The order is drawn and matters, and a thousand of them tell.
    assert 0 < np.linalg.norm(error) < 0.03 * np.linalg.norm(one.mean(0))


def _dual(weights, g, radius):
    """g_w · g_0 + radius ‖g_w‖, which CAGrad's weights minimise."""
    g_w = weights @ g
    return g_w @ g.mean(0) + radius * np.linalg.norm(g_w)


@pytest.mark.parametrize("tasks", [2, 4, 10])
def test_cagrad_solves_its_problem(tasks):
    """‖d − g_0‖ = c ‖g_0‖ before the rescale, and the worst task gains the dual's value."""
    c = 0.4
    for seed in range(4):
        g = _draw(tasks, seed, size=12)
        mean = g.mean(0)
        d = _direction("cagrad", g, c) * (1 + c**2)
        radius = c * np.linalg.norm(mean)
        np.testing.assert_allclose(np.linalg.norm(d - mean), radius, rtol=1e-3)

        dual = functools.partial(_dual, g=np.float64(g), radius=float(radius))
        best = scipy.optimize.minimize(
            dual,
            np.full(tasks, 1 / tasks),
            bounds=[(0, 1)] * tasks,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            tol=1e-12,
        ).fun
        assert (g @ d).min() >= (g @ mean).min() - 1e-5
        np.testing.assert_allclose((g @ d).min(), best, rtol=5e-3, atol=5e-3)


UNLIKE = [(1.0, 10.0, 100.0, 1e3), (1e-2, 1.0, 1e2, 1e4), (1.0, 1e2, 1e4, 1e6)]


def _scaled(seed, norms):
    """Gradients [K, 30] in float64 whose lengths differ by ``norms``."""
    g = np.random.default_rng(seed).normal(size=(len(norms), 30))
    return g * np.asarray(norms)[:, None]


@functools.partial(jax.jit, static_argnums=0)
def _of_gram(name, gram, absent=None):
    return combiners.weights(combiners.get(name), gram, KEY, absent=absent)


def _weights(name, g):
    """The weights of a combiner in float64, from the float32 Gram matrix."""
    return np.float64(_of_gram(name, np.float32(g @ g.T)))


@pytest.mark.parametrize("norms", UNLIKE, ids=str)
def test_cagrad_helps_the_worst_task_at_any_scale(norms):
    """Within 2 % of what any direction of the ball gives: the dual of every w bounds it."""
    for seed in range(4):
        g, c = _scaled(seed, norms), 0.5
        mean = g.mean(0)
        radius = c * np.linalg.norm(mean)
        d = _weights("cagrad", g) * (1 + c**2) @ g
        np.testing.assert_allclose(np.linalg.norm(d - mean), radius, rtol=1e-3)
        # w = v / ‖g‖, so that scipy's steps are of one size.
        bounds = [(0.0, None)] * len(g)
        unit = g / np.linalg.norm(g, axis=1, keepdims=True)

        def gain(v, g=g, mean=mean, radius=radius, unit=unit):
            w = v / np.linalg.norm(g, axis=1)
            return _dual(w / w.sum(), g, radius) / np.linalg.norm(mean) * len(unit)

        starts = np.concatenate([np.eye(len(g)) + 1e-3, np.ones((1, len(g)))])
        found = [scipy.optimize.minimize(gain, x, bounds=bounds).fun for x in starts]
        best = min(found) * np.linalg.norm(mean) / len(g)
        assert (g @ d).min() >= best - 0.02 * abs(best)


@pytest.mark.parametrize("norms", UNLIKE, ids=str)
def test_mgda_descends_every_task_at_any_scale(norms):
    """g_i · d >= ‖d‖² for all i: of the hull no point is nearer to 0."""
    for seed in range(4):
        g = _scaled(seed, norms)
        w = _weights("mgda", g)
        d = w @ g
        np.testing.assert_allclose(w.sum(), 1.0, rtol=1e-5)
        assert (g @ d).min() >= 0.95 * (d @ d)


def test_mgda_descends_tasks_that_nearly_oppose_each_other():
    """Ten along one direction, to both sides, but for a tenth of noise."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        g = rng.normal(size=(10, 1)) * rng.normal(size=200)
        g += 0.1 * rng.normal(size=(10, 200))
        d = _weights("mgda", g) @ g
        assert (g @ d).min() >= 0.9 * (d @ d)


@pytest.mark.parametrize("name", combiners.COMBINERS)
@pytest.mark.parametrize("unit", [1e-7, 1e5])
def test_the_unit_of_the_loss_does_not_matter(name, unit):
    """Every gradient times 1e-7, or 1e5: the same weights."""
    g = np.array([[1.0, 0.0], [-1.0, 1.0]])
    weights = _weights(name, unit * g)
    np.testing.assert_allclose(weights, _weights(name, g), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mean", [0.5, 0.5, 0.0]),
        ("sum", [1.5, 1.5, 0.0]),
        ("pcgrad", [0.5, 0.5, 0.0]),
        (
            "equal_norm",
            [*(np.sqrt([1.25, 1.04]).mean() / 2 / np.sqrt([1.25, 1.04])), 0],
        ),
        ("mgda", [2 / 7, 5 / 7, 0.0]),
    ],
)
def test_a_task_that_is_said_to_be_absent_has_no_say(name, wanted):
    """Also where something common to all gives it a gradient, against the others'."""
    g = np.array([[1.0, 0.5], [1.0, -0.2], [-0.5, 0.1]])
    absent = np.array([False, False, True])
    weights = _of_gram(name, gram(g), absent)
    np.testing.assert_allclose(weights, wanted, rtol=1e-4, atol=1e-6)


def test_the_ends_of_cagrad():
    """c = 0 is the mean; gradients that are equal are (1 + c) g before the rescale."""
    g = _draw(3)
    np.testing.assert_allclose(_direction("cagrad", g, 0.0), g.mean(0), atol=1e-6)
    same = np.broadcast_to(g[0], (3, 6))
    got = _direction("cagrad", same, 0.3) * (1 + 0.3**2)
    np.testing.assert_allclose(got, 1.3 * g[0], rtol=1e-5)


@pytest.mark.parametrize("tasks", [2, 5])
def test_mgda_is_the_least_norm_of_the_hull(tasks):
    """min_i g_i · d = ‖d‖² (its optimality condition); two tasks: the closed form."""
    for seed in range(4):
        g = _draw(tasks, seed) + 0.5
        d = _direction("mgda", g)
        assert (g @ d).min() >= d @ d - 2e-3 * (g * g).sum(-1).max()
        if tasks == 2:
            apart = g[0] - g[1]
            share = np.clip(g[1] @ (g[1] - g[0]) / (apart @ apart), 0, 1)
            np.testing.assert_allclose(
                d, share * g[0] + (1 - share) * g[1], rtol=1e-4, atol=1e-5
            )


def test_nothing_to_combine_is_zero_and_finite():
    """Gradients of zero, one or all of them, give finite directions."""
    one = _draw(3) * np.array([[1.0], [0.0], [1.0]])
    for name in combiners.COMBINERS:
        assert np.all(_direction(name, np.zeros((3, 6))) == 0), name
        assert np.all(np.isfinite(_direction(name, one))), name


def test_conflicts_are_counted_by_pairs():
    """One pair of three disagrees; of tasks that are absent none does."""
    g = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, 1.0]])
    conflicts = jax.jit(combiners.conflicts)
    np.testing.assert_allclose(conflicts(gram(g)), 1 / 3)
    for present, share in (([1, 1, 0], 1.0), ([0, 1, 1], 0.0), ([0, 1, 0], 0.0)):
        assert conflicts(gram(g), np.array(present, bool)) == share


def test_grad_norm_keeps_the_sum_and_rests_where_tasks_are_equal():
    """Weights sum to K; equal norms and losses leave them; the loud task is turned down."""
    stepped, one = jax.jit(combiners.grad_norm_weights), np.ones(3)
    equal = stepped(one, 2 * one, 0.7 * one, 0.12, 1e-3)
    np.testing.assert_allclose(equal, 1.0, rtol=1e-6)
    moved = np.asarray(stepped(one, np.array([10.0, 1.0, 1.0]), one, 0.12, 1e-3))
    np.testing.assert_allclose(moved.sum(), 3.0, rtol=1e-6)
    assert moved[0] < 1 < moved[1]
    # A loss that has changed its sign is the furthest ahead.
    ahead = np.asarray(stepped(one, one, np.array([-0.5, 1.0, 2.0]), 0.12, 1e-3))
    assert ahead[0] < 1 < ahead[2]


def test_a_step_of_grad_norm_is_its_equation():
    """|w n − G r^a| descended by w, G = mean(w n) a constant; then the sum is K."""
    w, n, ratios = np.array([[1.5, 1.05, 0.45], [3.0, 1.0, 1.0], [1.0, 0.35, 0.15]])
    target = np.mean(w * n) * (ratios / ratios.mean()) ** 1.5
    np.testing.assert_array_equal(w * n < target, [True, True, False])
    # Of a target by the norms alone, or by r, one of these would be another.
    assert np.mean(n) * (ratios / ratios.mean())[1] ** 1.5 < (w * n)[1]
    assert np.mean(w * n) * (ratios / ratios.mean())[0] < (w * n)[0]
    moved = w - 0.1 * np.sign(w * n - target) * n
    found = jax.jit(combiners.grad_norm_weights)(w, n, ratios, 1.5, 0.1)
    np.testing.assert_allclose(found, 3 * moved / moved.sum(), rtol=1e-5)


def test_an_unknown_combiner_is_named():
    """An error says what was given and what would work."""
    with pytest.raises(ValueError, match=r"combiner: 'nash'.*'cagrad'"):
        combiners.get("nash")


def _toy(x):
    """The two losses of the toy problem of CAGrad's paper, at x [2]."""
    x, y = x
    on = jnp.maximum(jnp.tanh(y / 2), 0.0), jnp.maximum(jnp.tanh(-y / 2), 0.0)

    def valley(inside, centre):
        logs = jnp.log(jnp.maximum(jnp.abs(inside), 5e-6)) + 6
        bowl = (jnp.square(-x + centre) + 0.1 * jnp.square(-y - 8)) / 10 - 20
        return on[0] * logs + on[1] * bowl

    return jnp.stack(
        [
            valley(0.5 * (-x - 7) - jnp.tanh(-y), 7),
            valley(0.5 * (-x + 3) + jnp.tanh(-y) + 2, -7),
        ]
    )


def _end_of_toy(name):
    """Returns where Adam (1e-3, 1e5 steps) ends from each start: (x [3, 2], mean loss)."""
    starts = jnp.array([[-8.5, 7.5], [-8.5, -5.0], [9.0, 9.0]])
    optimiser = optax.adam(1e-3)

    def end(start):
        def step(state, key):
            x, opt = state
            gradients = jax.jacrev(_toy)(x)
            direction = _combine(name, gradients, key)
            change, opt = optimiser.update(direction, opt)
            return (x + change, opt), None

        keys = jax.random.split(KEY, 100_000)
        (x, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), keys)
        return x, jnp.mean(_toy(x))

    return jax.jit(jax.vmap(end))(starts)


@pytest.mark.slow
def test_cagrad_finds_the_optimum_of_the_mean_and_the_mean_does_not():
    """-15.0916 from all three starts; the mean gradient is stuck from the outer two,
    at a kink where it jumps between 1.6 and 3.6 with the last bit."""
    np.testing.assert_allclose(_end_of_toy("cagrad")[1], -15.0916, atol=0.01)
    _, mean = _end_of_toy("mean")
    np.testing.assert_allclose(mean[1], -15.0916, atol=0.01)
    assert mean[0] > 0 and mean[2] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mgda", "pcgrad"])
def test_mgda_and_pcgrad_stop_on_the_pareto_set(name):
    """No direction lowers both losses there; it is not the optimum of the mean. Where on
    the set depends on rounding."""
    x, mean = _end_of_toy(name)
    assert np.all((mean > -15.0) & (mean < -10.0))
    for at in x:
        gradients = jax.jacrev(_toy)(at)
        least = _combine("mgda", gradients, KEY)
        largest = jnp.max(jnp.linalg.norm(gradients, axis=-1))
        assert jnp.linalg.norm(least) < 0.02 * largest
