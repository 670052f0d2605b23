"""PBT moves Mix&Match's alpha: a toy whose best schedule is known, and how it begins."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random
from mtrl_jax.engine import pbt

MEMBERS, STEP, RAMP, ROUNDS = 8, 0.05, 60, 90
ALPHA = pbt.SearchRange(
    0.0, 1.0, rule="add", step=STEP, initial="default", resample_probability=0.0
)
CONFIG = pbt.PbtConfig(exploit="truncation", fraction=0.25, interval=1, min_episodes=0)


@functools.lru_cache
def tracked(seed):
    """Returns alpha [ROUNDS, P] under the reward 1 − (α − min(1, t/T))²."""
    keys = random.roots(seed, MEMBERS)
    hp = pbt.sample_initial(keys, {"alpha": 0.0}, {"alpha": ALPHA})

    @jax.jit
    def round_(t, hp, state):
        reward = 1.0 - jnp.square(hp["alpha"] - jnp.minimum(1.0, t / RAMP))
        fitness = pbt.Fitness(reward, jnp.ones(MEMBERS, bool), jnp.ones(MEMBERS, int))
        _, hp, state = pbt.round(
            random.at(keys, t, random.PBT),
            t,
            fitness,
            hp,
            state,
            ranges={"alpha": ALPHA},
            config=CONFIG,
        )
        return hp, state

    state, seen = pbt.init(MEMBERS), []
    for t in range(1, ROUNDS + 1):
        hp, state = round_(jnp.int32(t), hp, state)
        seen.append(np.asarray(hp["alpha"]))
    return np.stack(seen)


@pytest.mark.parametrize("seed", range(5))
def test_a_known_schedule_is_tracked_within_two_steps(seed):
    """The best of eight members is never further from the optimum than 2 · 0.05."""
    alpha = tracked(seed)
    optimum = np.minimum(1.0, np.arange(1, ROUNDS + 1) / RAMP)
    nearest = np.abs(alpha - optimum[:, None]).min(axis=1)
    assert nearest.max() <= 2 * STEP + 1e-6, nearest.max()
    assert np.median(alpha[-1]) >= 0.95


def test_alpha_starts_at_its_default_and_moves_by_exactly_one_step():
    """Not at a draw; always within [0, 1]; a change is ±δ unless an end is in the way."""
    alpha = tracked(0)
    assert (np.abs(alpha[0]) <= STEP + 1e-6).all()
    assert (alpha >= 0).all() and (alpha <= 1).all()
    for before, after in itertools.pairwise(alpha):
        distance = np.abs(after[:, None] - before[None])
        # A member's new value is some member's old one, or a step away from it.
        distance = np.minimum(distance, np.abs(distance - STEP)).min(axis=1)
        clipped = np.isclose(after, 0.0) | np.isclose(after, 1.0)
        assert ((distance < 1e-6) | clipped).all()


def test_multiplying_could_never_leave_zero():
    """Which is why the range's own rule is to add: "auto" gives it too."""
    auto = pbt.SearchRange(0.0, 1.0).resolve(CONFIG)
    assert auto.rule == "add"
    with pytest.raises(ValueError, match=r"low=0\.0 with rule='multiply'"):
        pbt.SearchRange(0.0, 1.0, rule="multiply")


def test_wrong_choices_are_refused():
    """By name, with what would work."""
    with pytest.raises(ValueError, match=r"initial='zero' is unknown.*draw, default"):
        pbt.SearchRange(0.0, 1.0, initial="zero")
    with pytest.raises(ValueError, match="resample_probability=2 is out of range"):
        pbt.SearchRange(0.0, 1.0, resample_probability=2)
