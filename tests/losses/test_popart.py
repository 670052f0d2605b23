"""PopArt's statistics and head against the sheet's golden numbers and properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.losses import popart

LOWEST = 1e-4

update = jax.jit(popart.update, static_argnames=("mode", "debias"))
deviation = jax.jit(popart.std)
rewrite = jax.jit(popart.rewrite)
unnormalised = jax.jit(popart.unnormalised)


def fold(stats, targets, tasks=None, live=None, step_size=0.1, **options):
    """Returns the statistics after a batch ``[n]``, of task 0 unless said."""
    targets = jnp.asarray(targets, jnp.float32)
    tasks = np.zeros(targets.shape, np.int32) if tasks is None else np.array(tasks)
    live = np.ones(targets.shape, bool) if live is None else np.array(live)
    return update(stats, targets, live, tasks, step_size, **options)


def host(stats):
    return jax.tree.map(np.asarray, stats)


@pytest.mark.parametrize(
    ("mode", "mean", "second", "std"),
    [
        ("sequential", 5.61, 134.829, 10.1665),
        ("mean", 2.0, 47.5667, 6.6005),
        ("sum", 6.0, 140.7, 10.2323),
    ],
)
def test_each_batch_mode_gives_the_golden_numbers(mode, mean, second, std):
    """From μ = 0, ν = 1 with β = 0.1 and G = [10, 20, 30]."""
    stats = host(fold(popart.init(1), [10.0, 20.0, 30.0], mode=mode))
    np.testing.assert_allclose(stats.mean, [mean], rtol=1e-5)
    np.testing.assert_allclose(stats.variance + stats.mean**2, [second], rtol=1e-5)
    np.testing.assert_allclose(deviation(stats, LOWEST), [std], rtol=1e-5)


def test_the_golden_head_is_rewritten():
    """w = 2, b = .5 from (0, 1) to (3, 5): w' = .4, b' = −.5."""
    head = popart.Head(np.array([[2.0]]), np.array([0.5]))
    one = np.ones(1)
    found = rewrite(head, 0 * one, one, 3 * one, 5 * one)
    np.testing.assert_allclose(found.kernel, [[0.4]], rtol=1e-6)
    np.testing.assert_allclose(found.bias, [-0.5], rtol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(33.0, 0.01), (1e4, 1.0), (1e6, 1.0)])
def test_a_head_whose_statistics_rest_keeps_its_bits_and_learns(mean, std):
    """Steps of 1e-4 are not lost beside μ/σ; nor does a task that was not there change."""
    mean, std = np.float32([mean, mean]), np.float32([std, std])
    moved = mean + np.float32([0.0, 1.0]), std * np.float32([1.0, 1.1])
    head = start = popart.Head(np.float32([[0.3, 0.3]]), np.float32([0.1, 0.1]))
    for _ in range(100):
        head = head._replace(bias=head.bias + np.float32(1e-4))
        rested = rewrite(head, mean, std, mean, std)
        jax.tree.map(np.testing.assert_array_equal, rested, head)
        head = rested
    np.testing.assert_allclose(head.bias, 0.11, rtol=1e-5)
    found = rewrite(start, mean, std, *moved)
    assert found.bias[0] == start.bias[0] and found.bias[1] != start.bias[1]
    assert found.kernel[0, 0] == start.kernel[0, 0]


@pytest.mark.parametrize("ratio", [1e-6, 1.0, 1e6])
def test_rewriting_preserves_every_output_and_composes(ratio):
    """|Δv| ≤ 1e-5 max(1, |v|) for any σ; old to middle to new is old to new."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    head, h, task = popart.Head(draw(8, 3), draw(3)), draw(50, 8), np.arange(50) % 3
    old = draw(3), np.exp(draw(3))
    middle = draw(3), np.exp(draw(3))
    new = draw(3), np.float32(ratio) * np.exp(draw(3))

    def outputs(head, moments):
        n = h @ head.kernel + head.bias
        return np.asarray(unnormalised(n, *moments, task))

    before = outputs(head, old)
    after = host(rewrite(head, *old, *new))
    bound = 1e-5 * np.maximum(1.0, np.abs(before))
    assert (np.abs(outputs(after, new) - before) <= bound).all()
    twice = rewrite(rewrite(head, *old, *middle), *middle, *new)
    for x, y in zip(twice, after):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 / min(ratio, 1.0))


@pytest.mark.parametrize("mode", popart.MODES)
def test_only_live_targets_of_a_task_move_its_statistics(mode):
    """A task without any keeps its own to the bit."""
    start = popart.Statistics(*np.float32([[0, 1, 2], [1, 1, 1], [0, 0, 0]]))
    live = [True, False, True, True]
    found = host(fold(start, [5.0, 9e9, 7.0, 8.0], [0, 0, 0, 2], live, mode=mode))
    for x, y in zip(found, start):
        np.testing.assert_array_equal(x[1], y[1])
    alone = host(fold(popart.init(1), [5.0, 7.0], mode=mode))
    np.testing.assert_allclose(found.mean[0], alone.mean[0], rtol=1e-6)
    np.testing.assert_allclose(found.variance[0], alone.variance[0], rtol=1e-6)
    assert found.mean[2] > 2.0


@pytest.mark.parametrize("mode", popart.MODES)
def test_statistics_converge_to_those_of_the_targets(mode):
    """Targets are normalised, once the start (1e4 away) is forgotten; μ ≫ σ costs nothing."""
    rng = np.random.default_rng(1)
    targets = 1e4 + 3.0 * rng.normal(size=(12000, 8))
    # A smaller step where each of the 8 is one of its own: μ itself varies by σ √(β / 2).
    size = 0.0025 if mode == "mean" else 0.0025 / 8

    def step(stats, batch):
        return fold(stats, batch, step_size=size, mode=mode), ()

    stats, _ = jax.lax.scan(step, popart.init(1), jnp.asarray(targets, jnp.float32))
    mean, std = np.asarray(stats.mean), np.asarray(deviation(stats, 1e-4))
    assert abs(1e4 - mean[0]) / std[0] < 0.05 and abs(3.0 / std[0] - 1) < 0.05


def test_a_constant_target_ends_at_the_lowest_deviation():
    """μ → c and σ at its bound, never beneath it nor above 1e6."""
    stats = popart.init(1)
    for _ in range(300):
        stats = fold(stats, [7.0, 7.0])
    np.testing.assert_allclose(stats.mean, [7.0], rtol=1e-5)
    np.testing.assert_allclose(deviation(stats, 1e-2), [1e-2])
    wide = fold(popart.init(1), [1e9, -1e9])
    np.testing.assert_allclose(deviation(wide, LOWEST), [1e6])


@pytest.mark.parametrize("mode", popart.MODES)
def test_without_the_initial_values_statistics_scale_and_shift_with_targets(mode):
    """G' = kG + c gives kμ + c and kσ from the first batch on."""
    batches = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    plain = moved = popart.init(1)
    for batch in batches:
        plain = fold(plain, batch, mode=mode, debias=True)
        moved = fold(moved, 100.0 * batch + 30.0, mode=mode, debias=True)
    plain, moved = host(plain), host(moved)
    np.testing.assert_allclose(moved.mean, 100 * plain.mean + 30, rtol=1e-4)
    np.testing.assert_allclose(moved.variance, 1e4 * plain.variance, rtol=1e-3)
    first = fold(popart.init(1), batches[0], mode="mean", debias=True)
    np.testing.assert_allclose(first.mean, [batches[0].mean()], rtol=1e-5)
    np.testing.assert_allclose(first.variance, [batches[0].var()], rtol=1e-5)


@pytest.mark.parametrize("mode", popart.MODES)
def test_without_the_initial_values_targets_count_as_in_adams_corrected_mean(mode):
    """By (1 − s)^(batches since), over the sum of all: mean and deviation in float64."""
    batches, size = np.random.default_rng(3).normal(size=(4, 6)), 0.1
    stats = popart.init(1)
    for batch in batches:
        stats = fold(stats, batch, step_size=size, mode=mode, debias=True)
    each = np.full(6, size / 6 if mode == "mean" else size)
    if mode == "sequential":
        each *= (1 - size) ** np.arange(5, -1, -1)
    since = np.arange(3, -1, -1)[:, None]
    weight = (1 - each.sum()) ** since * each
    mean = np.average(batches, weights=weight)
    variance = np.average((batches - mean) ** 2, weights=weight)
    np.testing.assert_allclose(stats.mean, [mean], rtol=1e-5)
    np.testing.assert_allclose(stats.variance, [variance], rtol=1e-5)
    np.testing.assert_allclose(stats.weight, [weight.sum()], rtol=1e-5)


def test_targets_are_taken_in_the_order_of_time():
    """Of [T, B] the last step counts most, whatever its slot."""
    targets = np.float32([[1.0, 2.0], [3.0, 40.0], [5.0, 6.0]])
    found = fold(popart.init(1), targets, mode="sequential")
    for x, y in zip(found, fold(popart.init(1), targets.ravel(), mode="sequential")):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_a_sum_of_steps_is_at_most_the_whole_way():
    """β · count of 1.5: mean and variance of the batch itself."""
    found = fold(popart.init(1), [10.0, 20.0, 30.0], step_size=0.5, mode="sum")
    np.testing.assert_allclose(found.mean, [20.0], rtol=1e-6)
    np.testing.assert_allclose(found.variance, [200 / 3], rtol=1e-6)
    np.testing.assert_array_equal(found.weight, [1.0])


def test_a_step_size_of_zero_moves_nothing_and_no_gradient_flows():
    """Also without the initial values; statistics are constants of the loss."""
    stats = fold(popart.init(2), [3.0, 4.0])
    for debias in (False, True):
        found = fold(stats, [9.0, 5.0], step_size=0.0, debias=debias)
        for x, y in zip(found, stats):
            np.testing.assert_array_equal(x, y)
    slope = jax.jit(
        jax.grad(lambda g: fold(stats, g).mean.sum() + fold(stats, g).variance.sum())
    )
    np.testing.assert_array_equal(slope(np.array([1.0, 2.0])), 0.0)


def test_relabelled_tasks_have_each_others_statistics():
    """A task's own targets decide, not its number; values follow their heads."""
    rng = np.random.default_rng(1)
    targets, tasks = rng.normal(3.0, 2.0, 30), rng.integers(0, 3, 30)
    order = np.array([2, 0, 1])
    plain = fold(popart.init(3), targets, tasks)
    other = fold(popart.init(3), targets, order[tasks])
    std = [deviation(x, LOWEST) for x in (plain, other)]
    for x, y in zip(plain, other):
        np.testing.assert_array_equal(x, np.asarray(y)[order])
    n = rng.normal(size=(30, 3)).astype(np.float32)
    moved = np.zeros_like(n)
    moved[:, order] = n
    np.testing.assert_array_equal(
        unnormalised(n, plain.mean, std[0], tasks),
        unnormalised(moved, other.mean, std[1], order[tasks]),
    )


def test_an_advantage_is_the_same_in_both_units():
    """(r + γ v' − μ)/σ − n = (r + γ v' − v)/σ: μ cancels, σ divides."""
    stats = host(fold(popart.init(1), [10.0, 20.0, 30.0]))
    std, task = np.asarray(deviation(stats, LOWEST)), np.zeros(4, np.int32)
    n, q = np.float32([-1.0, 0.0, 0.5, 2.0]), np.float32([3.0, -7.0, 12.0, 40.0])
    v = np.asarray(unnormalised(n[:, None], stats.mean, std, task))
    np.testing.assert_allclose(
        (q - stats.mean[0]) / std[0] - n, (q - v) / std[0], rtol=1e-5, atol=1e-6
    )
