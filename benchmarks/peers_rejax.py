"""The rejax side of peers.py; runs in a venv of its own that has no mtrl_jax.

Reads one JSON object of settings from the first line of stdin and answers every further
line, ``train N`` (N updates) or ``test``, with one JSON object on stdout.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time

import gymnax
import jax
from rejax import PPO
from rejax.evaluate import evaluate

PACKAGES = ("rejax", "gymnax", "jax", "jaxlib", "flax", "optax", "distrax")


def main() -> None:
    """Serves until stdin ends."""
    settings = json.loads(sys.stdin.readline())
    keys = jax.random.split(jax.random.key(settings["seed"]), settings["population"])
    state = jax.jit(jax.vmap(algorithm(settings, 1).init_state))(keys)
    programs: dict = {}
    for line in sys.stdin:
        command, _, count = line.strip().partition(" ")
        if command == "train":
            updates = int(count)
            if updates not in programs:
                programs[updates] = compiled(settings, updates, state)
            start = time.perf_counter()
            state = jax.block_until_ready(programs[updates](state))
            answer({"seconds": time.perf_counter() - start})
        elif command == "test":
            answer({"returns": test(settings, state)})
        else:
            versions = {name: importlib.metadata.version(name) for name in PACKAGES}
            answer({"device": jax.devices()[0].device_kind, "versions": versions})


def algorithm(settings: dict, updates: int) -> PPO:
    """Returns rejax's PPO that trains ``updates`` and evaluates nothing."""
    steps = updates * settings["slots"] * settings["unroll"]
    made = PPO.create(
        env=settings["env"],
        agent_kwargs={"hidden_layer_sizes": settings["hidden"], "activation": "tanh"},
        num_envs=settings["slots"],
        num_steps=settings["unroll"],
        num_epochs=settings["epochs"],
        num_minibatches=settings["minibatches"],
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        **settings["hparams"],
    )
    return made.replace(eval_callback=lambda algo, state, key: ())


def compiled(settings: dict, updates: int, state):
    """Returns the program of ``updates`` updates, vmapped over seeds.

    The state is donated, as ours is; the updates are rejax's own ``train``.
    """

    def train(state):
        return algorithm(settings, updates).train(train_state=state)[0]

    return jax.jit(jax.vmap(train), donate_argnums=0).lower(state).compile()


def test(settings: dict, state) -> list[float]:
    """Returns every member's mean return over complete episodes, sampling actions."""
    algo = algorithm(settings, 1)
    env, params = gymnax.make(settings["env"])

    def one(state):
        _, returns = evaluate(
            algo.make_act(state), state.rng, env, params, settings["episodes"]
        )
        return returns.mean()

    return jax.jit(jax.vmap(one))(state).tolist()


def answer(value: dict) -> None:
    """Returns nothing; prints one line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
