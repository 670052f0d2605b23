"""Names of environments: what there is and what is said of an unknown one."""

import subprocess
import sys

import pytest

from mtrl_jax import envs
from mtrl_jax.envs import reference_scores


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnaz/Catch-bsuite", "did you mean gymnax"),
        ("Catch-bsuite", "has no family"),
        ("gymnax/Cach-bsuite", "did you mean Catch-bsuite"),
        ("probe/memorry", "did you mean memory"),
    ],
)
def test_of_an_unknown_name_the_nearest_is_named(name, message):
    """One line that says what would work."""
    with pytest.raises(ValueError, match=message) as error:
        envs.make(name, (1, 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "gymnax/MemoryChain-bsuite",
            {"memory_lenght": 3},
            "did you mean memory_length",
        ),
        (
            "gymnax/MemoryChain-bsuite",
            {"memory_length": "long"},
            "options.memory_length",
        ),
        ("gymnax/CartPole-v1", {"max_steps_in_episode": 1.5}, "max_steps_in_episode"),
        ("probe/memory", {"length": 0}, "options.length"),
        ("probe/action", {"length": 3}, "no option 'length'"),
    ],
)
def test_a_wrong_option_is_named(name, options, message):
    """Options are checked by name and by type before anything runs."""
    with pytest.raises(ValueError, match=message):
        envs.make(name, (1, 1), options)


def test_who_is_asked_for_the_best_action_knows_it_or_says_who_does():
    """A family's own function; of others, one line with the families that have one."""
    from mtrl_jax.envs import bandits

    assert envs.optimal_action("bandit/odd") is bandits.optimal_action
    with pytest.raises(ValueError, match=r"probe/action no optimal .* dark, bandit"):
        envs.optimal_action("probe/action")


@pytest.mark.parametrize("batch", [(0, 1), (1, 0), (1, -2)])
def test_a_batch_has_positive_sizes(batch):
    """A batch of nothing is refused by name."""
    with pytest.raises(ValueError, match="batch"):
        envs.make("probe/constant", batch)


@pytest.mark.parametrize(
    ("name", "hosted"),
    [
        ("envpool/Pong-v5", True),
        ("gymnax/CartPole-v1", False),
        ("probe/memory", False),
    ],
)
def test_what_runs_on_the_host_is_known_by_its_family(name, hosted):
    """Only pools step outside the program; pure environments go where it goes."""
    assert envs.runs_on_host(name) == hosted


def test_suites_hold_the_games_they_are_named_for():
    """The suites are what papers mean by these names, and their names exist."""
    assert len(envs.suite("atari57")) == 57
    assert len(envs.suite("mt10")) == 10
    assert len(set(envs.suite("labyrinth12"))) == 12
    assert set(envs.suite("labyrinth12")) <= set(envs.names())
    assert set(envs.suite("minatar")) <= {
        f"gymnax/{n}" for n in envs.ENVS["gymnax"].names()
    }
    with pytest.raises(ValueError, match="did you mean atari57"):
        envs.suite("atari75")


def test_importing_the_registry_imports_no_environment():
    """`mtrl --help` must not wait for gymnax or envpool."""
    code = (
        "import sys, mtrl_jax.envs; "
        "assert not {'gymnax', 'envpool', 'mtrl_jax.envs.gymnax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("Catch-bsuite", 0.2), ("CartPole-v1", 3.0)],
)
def test_the_table_of_random_scores_is_what_a_random_policy_gets(name, tolerance):
    """The table can be measured again, within four standard errors of a difference."""
    options = {"max_steps_in_episode": 150}  # Longer than nearly all random episodes.
    env = envs.make(f"gymnax/{name}", (1, 512), options)
    measured = reference_scores.measure_random(env, seed=7)
    assert measured == pytest.approx(reference_scores.GYMNAX[name][0], abs=tolerance)
