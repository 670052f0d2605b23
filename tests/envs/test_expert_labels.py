"""Environments that say what is best: one leaf more, and nothing else."""

import jax
import numpy as np
from playing import played

from mtrl_jax import types
from mtrl_jax.envs import core, dark, expert_labels


def test_labels_are_one_leaf_of_the_observation_and_change_nothing_else():
    """Specs agree with what is seen; taking it away gives the environment's own spec."""
    options = {"size": 5, "length": 6, "tasks": "train"}
    goals = dark.tasks_of("room", options)
    env = core.spread(dark.task("room", options), goals, (3, 2))

    def best(state):
        return dark.optimal_action(state.params, state.inner)

    labelled = expert_labels.give(env, best)
    plain, ours = (
        played(one, 14, lambda key, state: best(state)) for one in (env, labelled)
    )
    found = ours[0].obs.pop(types.OPTIMAL)
    jax.tree.map(np.testing.assert_array_equal, plain, ours)
    leaf = labelled.spec.obs[types.OPTIMAL]
    assert (found.shape[3:], found.dtype) == (leaf.shape, leaf.dtype)
    assert labelled.spec.tasks[0].obs == labelled.spec.obs
    assert (
        expert_labels.without(labelled.spec)
        == env.spec
        == expert_labels.without(env.spec)
    )
    # At the goal there is nothing better than to stay: this step is paid as well.
    np.testing.assert_array_equal((found == 0) & ~ours[0].first, plain[0].reward > 0)
