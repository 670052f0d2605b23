"""A DreamerV2 that is small enough to compile in a test."""

from mtrl_jax.agents.common import sequences
from mtrl_jax.networks import latents, observation_config, rssm

# Static settings; of the replay: 6 steps that an unroll has, of 12 slots or 4.
SMALL = {
    "rssm": rssm.RSSMConfig(
        latents.LatentConfig("categorical", 3, 4), deter=8, hidden=8
    ),
    "observation": observation_config.ObservationConfig(depth=4, units=8, layers=1),
    "units": 8,
    "layers": 1,
    "replay": sequences.SequenceConfig(
        capacity=400, batch=6, length=5, train_every=12, prefill=0
    ),
    "horizon": 4,
    "actor_gradient": "mix",
    "slow_critic_period": 1,
}
