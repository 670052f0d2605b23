"""How the tests of agents build one and play it."""

import jax
import jax.numpy as jnp
import pytest

from mtrl_jax import agents, envs, random, types
from mtrl_jax.envs import mixture
from mtrl_jax.networks import actor_critic as networks

# Static settings that make an agent small; an agent not named here gets its defaults
# with a small network where it has one.
SMALL = {
    "impala": {"optimiser": "adam"},
    "ppo": {"epochs": 2, "minibatches": 2},
}
# Traced settings under which a small agent learns a probe quickly.
QUICK = {
    "learning_rate": 5e-3,
    "entropy_cost": 0.01,
    "discount": 0.9,
    "max_grad_norm": 1.0,
    "epsilon": 1e-5,
}


def small_config(name, **network):
    """Returns the agent's Config with a small network."""
    config = agents.get(name).Config
    settings = dict(SMALL.get(name, {}))
    if "network" in config.__dataclass_fields__:
        sizes = {"hidden": (16,), "core_size": 8}
        settings["network"] = networks.NetworkConfig(**(sizes | network))
    return config(**settings)


def small(name, spec, **network):
    """Returns the agent ``name`` for ``spec`` with a small network."""
    return agents.get(name).make(spec, small_config(name, **network))


def quick(name, **changes):
    """Returns Hparams of the agent ``name``; fields it does not have are ignored."""
    hp = agents.get(name).Hparams()
    settings = QUICK | changes
    return hp._replace(**{k: v for k, v in settings.items() if k in hp._fields})


def arrays(hp, members=None):
    """Returns hp as float32 arrays, with a leading axis [P] if there are members."""
    shape = () if members is None else (members,)
    return jax.tree.map(lambda x: jnp.full(shape, x, jnp.float32), hp)


def probe(*names, batch=(1, 4)):
    """Returns a probe, or the mixture of several."""
    parts = [envs.make(f"probe/{name}", batch) for name in names]
    return parts[0] if len(parts) == 1 else mixture.make(parts)


def member(tree, index=0):
    """Returns one member's part of a tree of ``[P, ...]``."""
    return jax.tree.map(lambda x: x[index], tree)


def collect(agent, env, hp, steps, seed=0, behaviour=None):
    """Returns (state, rollout) of one member: ``[T + 1, B]``, ``carry [B]``.

    ``behaviour`` is the state that acts, the returned one by default.
    """

    @jax.jit
    def run(root, hp, behaviour):
        state = agent.init(random.at(root, 0, random.INIT), hp)
        actor = state if behaviour is None else behaviour
        env_state, ts = env.reset(random.at(root, 0, random.ENV)[None], env.params)
        carry = agent.carry(env.batch[1])

        def step(scanned, t):
            memory, env_state, ts = scanned
            key = random.fold(random.at(root, 0, random.ACT), t)
            action, memory, extras = agent.act(actor, memory, member(ts), key, hp)
            env_state, after = env.step(env_state, action[None], env.params)
            return (memory, env_state, after), (member(ts), action, extras)

        start = (carry, env_state, ts)
        (_, _, last), (ts, action, extras) = jax.lax.scan(
            step, start, jnp.arange(steps)
        )
        ts = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), ts, last)
        return state, types.Rollout(ts, action, extras, carry)

    return run(random.roots(seed, 1)[0], hp, behaviour)


@pytest.fixture(name="kit", scope="session")
def _kit():
    """The functions above."""
    import types as python_types

    return python_types.SimpleNamespace(
        small=small, small_config=small_config, quick=quick, arrays=arrays,
        probe=probe, member=member, collect=collect,
    )  # fmt: skip
