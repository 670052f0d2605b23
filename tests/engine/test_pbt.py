"""Rounds of population-based training: the invariants, the toy problem, the lineage.

PB2 (a Gaussian process instead of random perturbations) is not built, so the kernel
invariants of the sheet have nothing to test here.
"""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtrl_jax import random
from mtrl_jax.agents.common import optimiser
from mtrl_jax.engine import pbt

P = 8
RANGES = {
    "learning_rate": pbt.SearchRange(1e-5, 1e-2, log=True),
    "alpha": pbt.SearchRange(0.0, 1.0, rule="add", step=0.05),
}


_start = jax.jit(pbt.init, static_argnums=0)


@functools.partial(jax.jit, static_argnums=1)
def _keys(seed=0, population=P):
    return random.at(random.roots(seed, population), 0, random.PBT)


def _fitness(score, **changes):
    score = jnp.asarray(score, jnp.float32)
    fitness = pbt.Fitness(
        score, np.ones(score.shape, bool), np.full(score.shape, 100, np.int32)
    )
    return fitness._replace(**changes)


def _hparams(population=P):
    return {
        "learning_rate": np.geomspace(1e-4, 1e-3, population, dtype=np.float32),
        "alpha": np.linspace(0.1, 0.9, population, dtype=np.float32),
        "discount": np.linspace(0.9, 0.99, population, dtype=np.float32),
    }


def _first_round(config, update, fitness, hparams, ranges=RANGES):
    """Returns (source, hparams, state) after a population's first round."""
    population = len(fitness.score)
    step = jax.jit(functools.partial(pbt.round, ranges=ranges, config=config))
    keys, state = _keys(0, population), _start(population)
    return jax.device_get(step(keys, update, fitness, hparams, state))


def test_apply_gathers_every_learner_row_exactly():
    """Row i of every learner leaf is the old row source[i], of whatever dtype."""
    rng = np.random.default_rng(3)
    learner = {
        "w": rng.normal(size=(P, 3, 2)).astype(np.float32),
        "count": np.arange(P, dtype=np.int32),
        "mean": rng.normal(size=P).astype(jnp.bfloat16),
        "noise": _keys(3),
        "nan": np.full((P, 2), np.nan, np.float32),
    }
    source = np.array([0, 7, 7, 3, 4, 0, 6, 7], np.int32)
    new = jax.jit(pbt.apply)(learner, source)
    for name in ("w", "count", "mean", "nan"):
        np.testing.assert_array_equal(np.asarray(new[name]), learner[name][source])
    np.testing.assert_array_equal(
        jax.random.key_data(new["noise"]),
        np.asarray(jax.random.key_data(learner["noise"]))[source],
    )


def test_a_round_changes_only_the_hyperparameters_of_copies():
    """A member that copies nobody keeps its values bit for bit; a copy inherits first."""
    config = pbt.PbtConfig(resample_probability=0.0, perturb_probability=0.0)
    hparams = _hparams()
    fitness = _fitness(np.arange(P))
    source, new, state = _first_round(config, 500, fitness, hparams)
    assert (source != np.arange(P)).sum() == 2
    for name, old in hparams.items():
        np.testing.assert_array_equal(new[name], old[source])
    np.testing.assert_array_equal(state.last_copy, [500, 500] + [0] * 6)
    np.testing.assert_array_equal(state.copies, [1, 1] + [0] * 6)
    assert state.rounds == 1


def test_copies_are_perturbed_and_others_are_not():
    """Explore follows exploit for the copied members alone."""
    config = pbt.PbtConfig(resample_probability=0.0, perturb_probability=1.0)
    hparams = _hparams()
    source, new, _ = _first_round(config, 1, _fitness(np.arange(P)), hparams)
    ratio = new["learning_rate"] / hparams["learning_rate"][source]
    np.testing.assert_allclose(np.maximum(ratio, 1 / ratio)[:2], 1.2, rtol=1e-5)
    np.testing.assert_array_equal(ratio[2:], 1.0)
    np.testing.assert_array_equal(new["discount"], hparams["discount"][source])


def test_weights_only_copies_keep_their_own_hyperparameters():
    """copy_hparams=False copies the learner and nothing else."""
    config = pbt.PbtConfig(copy_hparams=False, explore="none", resample_probability=0.0)
    ranges = {"learning_rate": pbt.SearchRange(1e-5, 1e-2, rule="none")}
    hparams = _hparams()
    fitness = _fitness(np.arange(P))
    source, new, _ = _first_round(config, 1, fitness, hparams, ranges)
    assert (source != np.arange(P)).any()
    jax.tree.map(np.testing.assert_array_equal, new, hparams)


def test_the_burn_in_replaces_broken_members_and_nobody_else():
    """Before burn_in updates the ranking changes nothing; a NaN member is still saved."""
    config = pbt.PbtConfig(burn_in=1000, explore_all=True)
    keep = np.arange(P) != 5
    fitness, old = _fitness(np.arange(P), finite=keep), _hparams()
    early, hparams, _ = _first_round(config, 999, fitness, old)
    late, _, _ = _first_round(config, 1000, fitness, old)
    assert np.flatnonzero(early != np.arange(P)).tolist() == [5]
    assert np.flatnonzero(late != np.arange(P)).tolist() == [0, 5]
    np.testing.assert_array_equal(
        hparams["learning_rate"][keep], old["learning_rate"][keep]
    )


def test_lineage_chains_end_at_generation_zero_and_states_replay():
    """Every child has one parent; following sources back gives the recorded ancestor."""
    config = pbt.PbtConfig(fraction=0.5)

    @jax.jit
    def step(i, score, hparams, state):
        keys = random.at(random.roots(0, P), i, random.PBT)
        return pbt.round(
            keys, 10 * i, _fitness(score), hparams, state, ranges=RANGES, config=config
        )

    def run():
        state, hparams, sources = _start(P), _hparams(), []
        for i in range(1, 7):
            score = np.random.default_rng(i).normal(size=P)
            source, hparams, state = step(i, score, hparams, state)
            sources.append(np.asarray(source))
        return sources, hparams, state

    sources, hparams, state = run()
    chain = np.arange(P)
    for source in reversed(sources):
        chain = source[chain]
    np.testing.assert_array_equal(state.ancestor, chain)
    assert len(set(chain.tolist())) < P
    again = run()
    np.testing.assert_array_equal(np.stack(sources), np.stack(again[0]))
    jax.tree.map(np.testing.assert_array_equal, hparams, again[1])


def test_a_population_of_one_never_changes():
    """P = 1 with exploit off is plain training: same values, bit for bit."""
    config = pbt.PbtConfig(exploit="none")
    hparams = _hparams(1)
    source, new, _ = _first_round(config, 1, _fitness([1.0]), hparams, ranges={})
    assert source.tolist() == [0]
    jax.tree.map(np.testing.assert_array_equal, new, hparams)


def test_a_round_is_traced_once():
    """Scores, updates and hyperparameters are data: no second compilation."""
    traces = []

    @jax.jit
    def step(key, update, fitness, hparams, state):
        traces.append(1)
        return pbt.round(
            key, update, fitness, hparams, state, ranges=RANGES, config=pbt.PbtConfig()
        )

    given = {"learning_rate": 3e-4, "alpha": 0.5, "n": 2}
    hparams = jax.jit(lambda keys: pbt.sample_initial(keys, given, RANGES))(_keys())
    state = _start(P)
    for update in range(1, 4):
        _, hparams, state = step(
            _keys(update),
            jnp.int32(update),
            _fitness(np.arange(P) * update),
            hparams,
            state,
        )
    assert len(traces) == 1


def test_a_sharded_round_equals_an_unsharded_one():
    """Placing members on eight devices changes no decision and no value."""
    mesh = jax.make_mesh((8,), ("pop",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("pop"))
    step = jax.jit(
        lambda f, h, learner: (
            *(
                r := pbt.round(
                    _keys(), 7, f, h, pbt.init(P), ranges=RANGES, config=pbt.PbtConfig()
                )
            )[:2],
            pbt.apply(learner, r[0]),
        )
    )
    plain = (
        _fitness(np.arange(P)),
        _hparams(),
        {"w": np.random.default_rng(0).normal(size=(P, 5)).astype(np.float32)},
    )
    sharded = jax.device_put(plain, place)
    for x, y in zip(jax.tree.leaves(step(*plain)), jax.tree.leaves(step(*sharded))):
        np.testing.assert_array_equal(x, y)


def test_members_with_rates_of_their_own_learn_as_optimisers_built_with_these():
    """Of traced rates h [P], vmapped, the kit's Adam is optax.adam(h_i), h_i a number."""
    rates, params = (1e-2, 3e-4), np.zeros((2, 4), np.float32)
    grads = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)

    def learned(kind, params, grads):
        state = kind.init(params)
        for grad in grads:
            change, state = kind.update(grad, state, params)
            params = params + change
        return params

    def member(params, grads, rate):
        hp = optimiser.Hparams(learning_rate=rate, max_grad_norm=np.inf)
        return learned(optimiser.make("adam", hp), params, grads)

    @jax.jit
    def both(params, grads, h):
        found = jax.vmap(member, in_axes=(0, 1, 0))(params, grads, h)
        built = [
            learned(optax.adam(rate), params[i], grads[:, i])
            for i, rate in enumerate(rates)
        ]
        return found, jnp.stack(built)

    found, expected = both(params, grads, np.float32(rates))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(found[0]).min() > np.abs(found[1]).max()


def _toy():
    path = pathlib.Path(__file__).parents[2] / "benchmarks" / "pbt_toy.py"
    spec = importlib.util.spec_from_file_location("pbt_toy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_toy_problem_reproduces_its_numbers():
    """Mean best Q over 200 seeds equals an independent implementation's, in its order."""
    toy = _toy()
    best = {name: toy.final_best(name, 200) for name in toy.VARIANTS}
    mean = {name: q.mean() for name, q in best.items()}
    # Four standard errors of the mean over 200 seeds, measured on 2000.
    tolerance = dict(zip(best, (1e-4, 0.022, 0.0008, 1e-4, 0.04, 0.013)))
    for name in best:
        assert abs(mean[name] - toy.EXPECTED[name]) < tolerance[name], name
    assert best["PBT, every 5, std 0.2"].min() >= 1.15
    parts = mean["weights only, every 5"], mean["explore only, every 5, std 0.2"]
    assert mean["PBT, every 5, std 0.2"] > max(parts)
    assert min(parts) > mean["grid search"] + 0.5
