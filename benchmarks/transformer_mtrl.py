"""This kit's side of transformer_step.py: an offline stage's chunk, asked like a peer.

Reads one JSON object of settings from the first line of stdin and answers every further
line, ``hello``, ``check`` or ``train``, with one JSON object on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import hparams, random, types, xla
from mtrl_jax.agents import algorithm_distillation
from mtrl_jax.data import windows
from mtrl_jax.engine import offline_runner, sharding
from mtrl_jax.envs import dark
from mtrl_jax.networks.transformers import transformer


def main() -> None:
    """Serves until stdin ends."""
    settings = json.loads(sys.stdin.readline())
    xla.configure_process()
    trainer = Trainer(settings)
    for line in sys.stdin:
        match line.strip():
            case "train":
                start, spent = time.perf_counter(), time.process_time()
                loss = trainer.train()
                wall = time.perf_counter() - start
                cpu = time.process_time() - spent
                answer({"seconds": wall, "cpu_seconds": cpu, "loss": loss})
            case "check":
                answer(check(trainer, settings))
            case _:
                answer({**common.environment(), "parameters": trainer.parameters()})


class Trainer:
    """The agent of one member on its data, put together as an offline stage does."""

    def __init__(self, settings: dict[str, Any]):
        sizes = {k: v for k, v in settings["model"].items() if k in _FIELDS}
        sizes["hidden"] = tuple(sizes["hidden"])
        task = dark.task("room").spec
        self.spec = types.EnvSpec(task.obs, task.action, (task,))
        self.network = transformer.TransformerConfig(**sizes)
        config = algorithm_distillation.Config(self.network)
        self.agent = algorithm_distillation.make(self.spec, config)
        self.hparams = hparams.override(
            algorithm_distillation.Hparams(), settings["hparams"]
        )
        mesh = sharding.make_mesh(1, 1, sharding.devices(1, True))
        self.runner = offline_runner.make(
            self.agent,
            lambda key, data: windows.sample(
                key, data, settings["batch"], settings["model"]["context"]
            ),
            members=1,
            updates_per_chunk=settings["updates"],
            at_once=sharding.members_at_once(mesh),
            mesh=mesh,
        )
        self.hp = sharding.on_devices(
            jax.tree.map(lambda x: jnp.full(1, x, jnp.float32), self.hparams), mesh, 1
        )
        state = jax.jit(self.runner.init)(random.roots(settings["seed"], 1), self.hp)
        self.state = sharding.on_devices(state, mesh, 1)
        self.chunk = sharding.keeping_layout(self.runner.chunk)
        self.data = histories(settings["data"])

    def train(self) -> float:
        """Returns the mean loss of a chunk of updates."""
        self.state, output = self.chunk(self.state, self.hp, self.data)
        return float(jax.block_until_ready(output).metrics["loss"][0])

    def parameters(self) -> int:
        """Returns how many there are."""
        learner = self.state.learner
        return sum(x.size for x in jax.tree.leaves(learner.params))


_FIELDS = ("layers", "width", "heads", "feedforward", "context", "hidden", "dtype")


def histories(path: str) -> windows.Data:
    """Returns the histories of a file on the device; every row of them is there."""
    with np.load(path) as file:
        data = dict(file)
    shape = data["action"].shape
    fields = windows.Data(
        obs={"vector": data["obs"]},
        action=data["action"],
        reward=data["reward"],
        discount=np.ones(shape, np.float32),
        first=np.roll(data["done"], 1, axis=1),
        last=data["done"],
        action_mask=np.ones((1, 1, 5), bool),
        task=np.zeros(shape[0], np.int32),
        counts=np.full(shape[0], shape[1], np.int32),
    )
    return jax.tree.map(jnp.asarray, fields)


def check(trainer: Trainer, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns losses and gradient norms of updates that a peer can repeat.

    Writes what it needs to ``settings["check"]``: parameters in the peer's names, windows
    and the logits. To have something to compare, the parameters are made large enough.
    """
    learner = trainer.agent.init(jax.random.key(1), trainer.hparams)
    params = _louder(learner.params)
    learner = learner._replace(params=params)
    length = settings["model"]["context"]
    batch = settings["check_batch"]
    rollout = windows.sample(jax.random.key(2), trainer.data, batch, length)
    unroll = jax.jit(transformer.make(trainer.spec, trainer.network).unroll)
    logits = unroll(params, algorithm_distillation.steps_of(rollout))
    fields = {
        "obs": rollout.ts.obs["vector"][:-1],
        "action": rollout.action,
        "reward": rollout.ts.reward[1:],
        "done": rollout.ts.last[1:],
        "logits": logits,
    }
    arrays: dict[str, Any] = {k: np.swapaxes(x, 0, 1) for k, x in fields.items()}
    arrays |= in_torch(jax.device_get(params))
    np.savez(settings["check"], **arrays)
    update, key = jax.jit(trainer.agent.update), jax.random.key(3)
    said = []
    for step in range(settings["check_updates"]):
        learner, metrics, _ = update(learner, rollout, key, trainer.hparams, step)
        said.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    losses, norms = zip(*said)
    return {"losses": losses, "grad_norms": norms}


def _louder(params: types.Tree) -> types.Tree:
    """Returns the parameters with noise on all: no bias is 0, no logit nearly."""
    leaves, shape = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    noise = [0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
    return jax.tree.unflatten(shape, [x + y for x, y in zip(leaves, noise)])


def in_torch(params: Any) -> dict[str, np.ndarray]:
    """Returns the parameters as the state_dict of transformer_torch.Transformer."""
    named: dict[str, np.ndarray] = {}

    def dense(name: str, *layers: Any) -> None:
        # Kernels are [in, out] here and [out, in] there.
        named[f"{name}.weight"] = np.concatenate([x["kernel"] for x in layers], 1).T
        named[f"{name}.bias"] = np.concatenate([x["bias"] for x in layers])

    def norm(name: str, layer: Any) -> None:
        named[f"{name}.weight"], named[f"{name}.bias"] = layer["scale"], layer["bias"]

    tokens = params["tokens"]
    mlp = tokens.get("torso", {}).get("mlp", {})
    linear = [*(mlp[f"Dense_{i}"] for i in range(len(mlp))), tokens["observation"]]
    for i, layer in enumerate(linear):
        dense(f"embed.{2 * i}", layer)  # an activation stands between two
    for i in range(sum(name.startswith("block_") for name in params)):
        block = params[f"block_{i}"]
        for name in ("attention_norm", "norm"):
            norm(f"blocks.{i}.{name}", block[name])
        for name in ("output", "expand", "contract"):
            dense(f"blocks.{i}.{name}", block[name])
        both = (block["query"], block["key_value"])
        dense(f"blocks.{i}.query_key_value", *both)
    norm("norm", params["norm"])
    dense("policy", params["policy"])
    return named


def answer(value: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
