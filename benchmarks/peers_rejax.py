"""The rejax side of peers.py; runs in a venv of its own that has no mtrl_jax.

Reads one JSON object of settings from the first line of stdin and answers every further
line, ``hello``, ``train`` or ``test``, with one JSON object on stdout.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from typing import Any

import gymnax
import jax
from rejax import DQN, PPO
from rejax.buffers import ReplayBuffer
from rejax.evaluate import evaluate

PACKAGES = ("rejax", "gymnax", "jax", "jaxlib", "flax", "optax", "distrax")


def main() -> None:
    """Serves until stdin ends."""
    settings = json.loads(sys.stdin.readline())
    algo = algorithm(settings)
    keys = jax.random.split(jax.random.key(settings["seed"]), settings["population"])
    state = jax.jit(jax.vmap(algo.init_state))(keys)
    train = compiled(algo, state)
    for line in sys.stdin:
        match line.strip():
            case "train":
                start, spent = time.perf_counter(), time.process_time()
                state = jax.block_until_ready(train(state))
                wall = time.perf_counter() - start
                answer({"seconds": wall, "cpu_seconds": time.process_time() - spent})
            case "test":
                answer({"returns": test(settings, algo, state)})
            case _:
                answer(about())


def algorithm(settings: dict) -> Any:
    """Returns rejax's algorithm that trains ``updates`` and evaluates nothing."""
    steps = settings["updates"] * settings["slots"] * settings["unroll"]
    make = {"ppo": ppo, "dqn": dqn}[settings["algorithm"]]
    made = make(
        settings,
        {
            "env": settings["env"],
            "num_envs": settings["slots"],
            "total_timesteps": steps,
            "eval_freq": steps,
            "skip_initial_evaluation": True,
            **settings["hparams"],
        },
    )
    return made.replace(eval_callback=lambda algo, state, key: ())


def ppo(settings: dict, given: dict) -> PPO:
    """Returns its PPO."""
    return PPO.create(
        agent_kwargs={"hidden_layer_sizes": settings["hidden"], "activation": "tanh"},
        num_steps=settings["unroll"],
        num_epochs=settings["epochs"],
        num_minibatches=settings["minibatches"],
        **given,
    )


def dqn(settings: dict, given: dict) -> DQN:
    """Returns its DQN; exploration is as long as in a whole run, not in a turn."""
    if settings["replacement"]:
        ReplayBuffer.sample = with_replacement
    return DQN.create(
        agent="DuelingQNetwork",
        agent_kwargs={"activation": "swish"},
        buffer_size=settings["capacity"],
        fill_buffer=settings["fill"],
        batch_size=settings["batch"],
        num_epochs=settings["gradient_steps"],
        exploration_fraction=settings["explore"] / given["total_timesteps"],
        ddqn=True,
        **given,
    )


def with_replacement(buffer: ReplayBuffer, num: int, rng) -> Any:
    """Returns ``num`` of what it stores, each drawn for itself."""
    place = jax.random.randint(rng, (num,), 0, buffer.num_entries)
    return jax.tree.map(lambda x: x[place], buffer.data)


def compiled(algo: Any, state):
    """Returns rejax's own ``train`` as a program, vmapped over seeds, state donated."""

    def train(state):
        return algo.train(train_state=state)[0]

    return jax.jit(jax.vmap(train), donate_argnums=0).lower(state).compile()


def test(settings: dict, algo: Any, state) -> list[float]:
    """Returns every member's mean return over complete episodes, acting as it does."""
    env, params = gymnax.make(settings["env"])

    def one(state):
        act = algo.make_act(state)
        return evaluate(act, state.rng, env, params, settings["episodes"])[1].mean()

    return jax.jit(jax.vmap(one))(state).tolist()


def about() -> dict:
    """Returns where and with what this runs."""
    return {
        "device": jax.devices()[0].device_kind,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def answer(value: dict) -> None:
    """Print one line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
