"""This kit's side of peers.py: the program that ``mtrl train`` runs, asked like a peer.

Reads one JSON object of settings from the first line of stdin and answers every further
line, ``train N`` (N updates) or ``test``, with one JSON object on stdout.
"""

from __future__ import annotations

import json
import sys

import common
import jax
import numpy as np

from mtrl_jax import build, config, report


def main() -> None:
    """Serves until stdin ends."""
    settings = json.loads(sys.stdin.readline())
    pieces = build.pieces(experiment(settings))
    state = pieces.init(pieces.hparams)
    for line in sys.stdin:
        command, _, count = line.strip().partition(" ")
        if command == "train":
            chunks = int(count) // settings["updates"]

            def train(state=state, chunks=chunks):
                for _ in range(chunks):
                    state, _ = pieces.chunk(state, pieces.hparams)
                return state

            spent, state = common.timed(train)
            answer({"seconds": spent})
        elif command == "test":
            result = jax.device_get(pieces.evaluate(state, pieces.hparams))
            table = report.evaluation_table(pieces.spec, result)
            (task,) = table.values()
            answer({"returns": [member["mean"] for member in task["members"]]})
        else:
            answer(common.environment())


def experiment(settings: dict) -> config.ExperimentConfig:
    """Returns the run that is rejax's PPO in this kit's words.

    A torso of its own for the value, and no last action and reward as inputs, make the
    networks the same; clipping the value makes the losses the same.
    """
    given = settings["hparams"]
    network = {
        "hidden": settings["hidden"],
        "separate_value": True,
        "last_action_reward": False,
    }
    return config.from_dict(
        {
            "seed": settings["seed"],
            "tasks": [{"env": f"gymnax/{settings['env']}", "slots": settings["slots"]}],
            "agent": {
                "name": "ppo",
                "config": {
                    "epochs": settings["epochs"],
                    "minibatches": settings["minibatches"],
                    "network": network,
                },
                "hparams": {
                    "learning_rate": given["learning_rate"],
                    "discount": given["gamma"],
                    "lambda_": given["gae_lambda"],
                    "clip_epsilon": given["clip_eps"],
                    "clip_value": given["clip_eps"],
                    "value_cost": given["vf_coef"],
                    "entropy_cost": given["ent_coef"],
                    "max_grad_norm": given["max_grad_norm"],
                    "epsilon": 1e-8,  # optax's, which rejax leaves as it is
                },
            },
            "population": {"size": settings["population"]},
            "training": {
                "unroll_length": settings["unroll"],
                "updates_per_chunk": settings["updates"],
            },
            "evaluation": {"episodes": settings["episodes"]},
        }
    )


def answer(value: dict) -> None:
    """Returns nothing; prints one line of JSON."""
    print(json.dumps(value, default=np.ndarray.tolist), flush=True)


if __name__ == "__main__":
    main()
