"""This kit's side of peers.py: the program that ``mtrl train`` runs, asked like a peer.

Reads one JSON object of settings from the first line of stdin and answers every further
line, ``hello``, ``train`` or ``test``, with one JSON object on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import common
import jax

from mtrl_jax import config, xla
from mtrl_jax.config import schema
from mtrl_jax.experiments import online
from mtrl_jax.training import report


def main() -> None:
    """Serves until stdin ends."""
    settings = json.loads(sys.stdin.readline())
    xla.configure_process()
    program = online.make_program(experiment(settings))
    state = program.init(program.hparams)
    assert program.evaluate is not None
    for line in sys.stdin:
        match line.strip():
            case "train":
                start, spent = time.perf_counter(), time.process_time()
                state, _ = jax.block_until_ready(program.chunk(state, program.hparams))
                wall = time.perf_counter() - start
                answer({"seconds": wall, "cpu_seconds": time.process_time() - spent})
            case "test":
                result = jax.device_get(program.evaluate(state, program.hparams))
                (task,) = report.evaluation_table(program.spec, result).values()
                answer({"returns": [member["mean"] for member in task["members"]]})
            case _:
                answer(common.environment())


def experiment(settings: dict[str, Any]) -> schema.ExperimentConfig:
    """Returns the run that is rejax's algorithm in this kit's words."""
    make = {"ppo": ppo, "dqn": dqn}[settings["algorithm"]]
    agent, testing = make(settings)
    population = {"size": settings["population"], "at_once": settings["at_once"]}
    return config.from_dict(
        {
            "seed": settings["seed"],
            "tasks": [{"env": f"gymnax/{settings['env']}", "slots": settings["slots"]}],
            "agent": agent,
            "population": population,
            "training": {
                "unroll_length": settings["unroll"],
                "updates_per_chunk": settings["updates"],
            },
            "evaluation": {"episodes": settings["episodes"], "hparams": testing},
        }
    )


def ppo(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns (the agent that is rejax's PPO, how it is tested).

    A torso of its own for the value and no last action and reward as inputs make the
    networks the same; clipping the value makes the losses the same. ``shared`` leaves
    torso and value error as this kit has them by default.
    """
    given = settings["hparams"]
    network = {
        "hidden": settings["hidden"],
        "separate_value": not settings["shared"],
        "last_action_reward": False,
    }
    hparams = {
        "learning_rate": given["learning_rate"],
        "discount": given["gamma"],
        "lambda_": given["gae_lambda"],
        "clip_epsilon": given["clip_eps"],
        "clip_value": 0.0 if settings["shared"] else given["clip_eps"],
        "value_cost": given["vf_coef"],
        "entropy_cost": given["ent_coef"],
        "max_grad_norm": given["max_grad_norm"],
        "adam_eps": 1e-8,  # optax's, which rejax leaves as it is
    }
    passes = {name: settings[name] for name in ("epochs", "minibatches")}
    agent = {"name": "ppo", "config": {**passes, "network": network}}
    return {**agent, "hparams": hparams}, {}


def dqn(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns (the agent that is rejax's DQN, how it is tested)."""
    given, slots = settings["hparams"], settings["slots"]
    parts = {"prioritised": False, "distribution": "none", "noisy": False, "n_step": 1}
    made = {
        **parts,
        "double": True,
        "dueling": True,
        "loss": "squared",
        "network": {"hidden": settings["hidden"], "activation": "silu"},
        "capacity": settings["capacity"],
        "batch": settings["batch"],
        "gradient_steps": settings["gradient_steps"],
        "learning_starts": settings["fill"] // slots,
    }
    hparams = {
        "learning_rate": given["learning_rate"],
        "discount": given["gamma"],
        "max_grad_norm": given["max_grad_norm"],
        "adam_eps": 1e-8,
        "epsilon_start": given["eps_start"],
        "epsilon_end": given["eps_end"],
        "epsilon_updates": settings["explore"] // slots,
        "target_period": same_age(given["polyak"]),
    }
    tested = dict.fromkeys(("epsilon_start", "epsilon_end"), settings["test_epsilon"])
    return {"name": "rainbow", "config": made, "hparams": hparams}, tested


def same_age(polyak: float) -> int:
    """Returns the updates from copy to copy whose mean age is a moving average's.

    The one is (n − 1)/2 updates old on average, the other p/(1 − p).

    >>> same_age(0.98)
    99
    """
    return round(1 + 2 * polyak / (1 - polyak))


def answer(value: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
