"""Names that do not exist are answered with names that do."""

import jax.numpy as jnp
import pytest

from mtrl_jax import envs, errors, types
from mtrl_jax.engine import statistics
from mtrl_jax.envs import core, foreign


def test_a_suggestion_is_the_nearest_names_whatever_their_case():
    """Did you mean, the best first, written as the name is."""
    near = errors.suggest("optimizer", ["network", "optimiser"])
    assert near == ", did you mean optimiser?"
    assert errors.suggest("ATARI5", ["Atari57"]) == ", did you mean Atari57?"


def test_where_nothing_is_near_there_is_a_list():
    """A short one, and none of nothing."""
    assert errors.suggest("zzz", ["a", "b"]) == "; there is a, b"
    assert errors.suggest("zzz", "abc", limit=2) == "; there is a, b, ..."
    assert errors.suggest("zzz", []) == ""


def test_an_unknown_option_is_named_with_all_that_are_allowed():
    """The owner, the option, the nearest and the rest; a known one passes."""
    errors.check_options("probe", ["length"], ["length"])
    with pytest.raises(ValueError, match=r"probe has no option 'x'.*\(allowed: none\)"):
        errors.check_options("probe", ["x"], [])
    for name, said in (
        ("zzz", "; there is a, b"),
        ("B", ", did you mean b? (allowed: a, b)"),
    ):
        with pytest.raises(ValueError) as error:
            errors.check_options("probe", [name], ["a", "b"])
        assert str(error.value) == f"options: probe has no option '{name}'{said}"


@pytest.mark.parametrize(
    "name", ["episodes", "return", "length", "normalised", "capped"]
)
def test_a_measure_has_no_name_of_what_every_run_counts(name):
    """It would take the place of it; wherever an environment comes from it is refused."""

    def reset(key, params):
        return (), {"vector": jnp.zeros(1)}

    def step(key, state, action, params):
        return state, {"vector": jnp.zeros(1)}, 1.0, False, False

    info = lambda state, params: {name: 1.0}  # noqa: E731
    said = f"info: no measure can be called '{name}'.*another name"
    with pytest.raises(ValueError, match=said):
        core.task("x", reset, step, types.Discrete(2), info=info)
    task = core.task("x", reset, step, types.Discrete(2))
    with pytest.raises(ValueError, match=f"a file: .*{said}"):
        foreign.check_task("a file", task._replace(info=info))
    env = core.vectorise(task, (1, 1))._replace(info=lambda state: {name: 1.0})
    with pytest.raises(ValueError, match=said):
        statistics.init(env, (), 1)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (jnp.ones(1, bool), r"action_mask is bool\[1\], give bool\[3\]"),
        (jnp.ones((), bool), r"action_mask is bool\[\], give bool\[3\]"),
        (jnp.ones(3, jnp.int32), r"action_mask is int32\[3\], give bool\[3\]"),
        (jnp.ones(3), r"action_mask is float32\[3\], give bool\[3\]"),
        ([True, True, True], r"action_mask is a list, give bool\[3\]"),
    ],
)
def test_legal_actions_are_a_bool_for_each_action(mask, said):
    """One mask for all would be broadcast, and be taken for legal actions."""

    def reset(key, params):
        return (), {"vector": jnp.zeros(1)}

    def step(key, state, action, params):
        return state, {"vector": jnp.zeros(1)}, 1.0, False, False

    own = {"action_mask": lambda state, params: mask}
    task = core.task("x", reset, step, types.Discrete(3), **own)
    with pytest.raises(ValueError, match=f"^a file: .*{said}"):
        foreign.check_task("a file", task)
    with pytest.raises(ValueError, match=said):
        core.vectorise(task, (1, 1))


@pytest.mark.parametrize("batch", [(4,), (), (0, 1), (1, 2, 3)])
def test_a_batch_that_is_not_two_sizes_is_refused(batch):
    """Of one environment, as of several."""
    with pytest.raises(ValueError, match=r"^batch: got .* give .members, slots."):
        envs.make("probe/action", batch)
