"""A DreamerV2 that is small enough to compile in a test."""

from mtrl_jax.agents.common import sequences
from mtrl_jax.networks.world_models import latents, observation_config, rssm

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

# The same as settings of a run: two members on pictures, 12 updates of 8 steps.
RUN = {
    "tasks": [{"env": "gymnax/Breakout-MinAtar", "slots": 4}],
    "agent": {
        "name": "dreamer_v2",
        "config": {
            "rssm": {"latent": {"latents": 2, "classes": 3}, "deter": 6, "hidden": 6},
            "observation": {"depth": 2, "units": 6, "layers": 1},
            "units": 6,
            "layers": 1,
            "replay": {
                "capacity": 80, "batch": 3, "length": 4, "train_every": 4, "prefill": 16,
            },
            "horizon": 3,
        },
    },
    "population": {"size": 2},
    "training": {"env_steps": 96, "unroll_length": 2, "updates_per_chunk": 4},
    "evaluation": {"every_updates": 0, "episodes": 2, "max_steps": 4},
    "checkpoint": {"every_updates": 4, "keep": 3},
}  # fmt: skip
