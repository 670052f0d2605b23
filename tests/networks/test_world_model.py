"""What a world model says of a sequence of which it sees the beginning."""

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks.world_models import rssm, world_model


def test_an_open_loop_goes_on_by_the_actions_after_what_was_seen():
    """A model that adds up its actions, anew where an episode begins, and shows what it
    sees: three steps, then sums of what follows."""
    rng, steps, context = np.random.default_rng(0), 6, 3
    action = rng.normal(size=(steps, 2, 1)).astype(np.float32)
    obs = rng.normal(size=(steps, 2, 1)).astype(np.float32)
    first = np.zeros((steps, 2), bool)
    first[0] = first[2, 1] = True

    def observe(params, state, obs, action_tm1, first, key, unimix):
        found, total = [], state.deter
        for now, is_first in zip(action_tm1, first):
            total = jnp.where(is_first[:, None], 0.0, total + now)
            found.append(total)
        return rssm.Observed(rssm.State(jnp.stack(found), obs["x"]), None, None)

    def imagine(params, state, action, key, unimix):
        total = state.deter[None] + jnp.cumsum(action, axis=0)
        return rssm.State(total, jnp.zeros_like(total))

    fields = dict.fromkeys(world_model.WorldModel._fields)
    model = world_model.WorldModel(**fields)._replace(
        initial=lambda batch: rssm.State(*jnp.zeros((2, batch, 1))),
        observe=observe,
        imagine=imagine,
        decode=lambda params, features: features,
        means=lambda decoded: decoded,
    )
    said = world_model.open_loop(
        model, (), {"x": obs}, action, first, jax.random.key(0), context=context
    )
    total, expected = np.zeros((2, 1)), []
    for now, is_first in zip(action, first):
        total = np.where(is_first[:, None], 0.0, total + now)
        expected.append(total)
    shown = np.where(np.arange(steps)[:, None, None] < context, obs, 0.0)
    np.testing.assert_allclose(said[..., :1], shown, rtol=1e-6)
    np.testing.assert_allclose(said[..., 1:], expected, rtol=1e-5, atol=1e-6)
