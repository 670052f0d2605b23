"""DreamerV2 learns: what its model is for, on tasks whose best return is known."""

import jax
import numpy as np
import pytest

from mtrl_jax import random
from mtrl_jax.agents import dreamer_v2
from mtrl_jax.agents.common import sequences
from mtrl_jax.engine import fused_runner
from mtrl_jax.networks.world_models import latents, observation_config, rssm

MEMBERS, SLOTS, UNROLL, CHUNK = 2, 8, 4, 100  # updates
CONFIG = dreamer_v2.Config(
    rssm.RSSMConfig(latents.LatentConfig("categorical", 4, 4), deter=32, hidden=32),
    observation_config.ObservationConfig(units=32, layers=1),
    units=32,
    layers=1,
    replay=sequences.SequenceConfig(
        capacity=100_000, batch=8, length=8, train_every=4, prefill=200
    ),
    horizon=5,
    rewards="none",
)
HPARAMS = {
    "model_lr": 3e-3, "actor_lr": 2e-3, "critic_lr": 3e-3, "discount": 0.9,
    "entropy_cost": 3e-3,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("task", "steps"), [("both", 9_600), ("memory", 12_800)])
def test_it_learns_a_probe_in_imagination(task, steps, kit):
    """Observation and action, and a memory of three steps; the best return is 1.

    A random policy gets 0, and so does one without a memory.
    """
    env = kit.probe(task, batch=(MEMBERS, SLOTS))
    hp = kit.arrays(kit.changed(dreamer_v2.Hparams(), **HPARAMS), MEMBERS)
    runner = fused_runner.make(
        dreamer_v2.make(env.spec, CONFIG),
        env,
        unroll_length=UNROLL,
        updates_per_chunk=CHUNK,
    )
    state = runner.init(random.roots(0, MEMBERS), hp)
    chunk = jax.jit(runner.chunk, donate_argnums=0)
    for _ in range(steps // (CHUNK * UNROLL * SLOTS)):
        state, out = chunk(state, hp)
    assert np.asarray(out.finite).all()
    returns = out.episodes["return"] / out.episodes["episodes"]
    assert (np.asarray(returns) > 0.93).all(), returns
    # The model knows what it was shown: error of reward and image over a random guess.
    assert (np.asarray(out.metrics["image_loss"]) < 0.1).all()
    assert (np.asarray(out.metrics["kl"]) > 0).all()
