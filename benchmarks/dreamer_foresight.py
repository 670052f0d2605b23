"""What a trained DreamerV2 foresees one step ahead, by the step of the episode.

    python benchmarks/dreamer_foresight.py RUN [RUN ...]

Each member of each run plays as in tests. Beside the posterior of every step, which has
seen it, stands a sample of its prior, which has not: the divergence of the two, the error
of either's picture (nats) and the reward either says, also at those steps that pay. Rows
are means over steps and members. Writes dreamer_foresight.json.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import xla
from mtrl_jax.agents import dreamer_v2
from mtrl_jax.agents.common import model_learning
from mtrl_jax.config import agent_settings
from mtrl_jax.experiments import kinds, open_loop, reading
from mtrl_jax.networks import heads
from mtrl_jax.networks.world_models import latents, rssm

AGES = (0, 8, 16, 32, 64, open_loop.PLAYED)  # steps since the reset; bounds of the rows
COLUMNS = {
    "from": ">5",
    "steps": ">6",
    "kl": ">6.2f",
    "seen": ">6.2f",
    "foreseen": ">9.2f",
    "reward": ">7.3f",
    "reward seen": ">12.3f",
    "reward foreseen": ">16.3f",
    "paid seen": ">10.3f",
    "paid foreseen": ">14.3f",
}


def main() -> None:
    """Print the rows of every run and write them."""
    args = arguments()
    xla.configure_process()
    found = []
    for folder in args.runs:
        print(folder.name, common.header(COLUMNS), sep="\n")
        steps, members = played(folder)
        rows = by_age(steps)
        for row in rows:
            print(common.line(row, COLUMNS), flush=True)
        found.append({"run": folder.name, "members": members, "rows": rows})
    result = {"machine": common.environment(), "runs": found}
    print(f"written: {common.write(args.out, 'dreamer_foresight', result)}")


def played(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], int]:
    """Returns (each step of all members' play, how many members there are)."""
    run, config = reading.with_environments(folder, ("online",))
    each = []
    with kinds.restored(run, config) as (_, program, saved):
        own = agent_settings.config(config)
        tell = jax.jit(lambda *x: foreseen(program.spec, own, *x))
        for member in range(config.population.size):
            ts, action = open_loop.play(config, program, saved, member)
            learner, hp = jax.tree.map(
                lambda x, m=member: x[m], (saved.run.learner, saved.hparams)
            )
            each.append(jax.device_get(tell(learner, hp, ts, action)) | age(ts))
    flat = {k: np.concatenate([x[k].ravel() for x in each]) for k in each[0]}
    return flat, config.population.size


def foreseen(
    spec: Any, config: dreamer_v2.Config, learner: Any, hp: Any, ts: Any, action: Any
) -> dict[str, jax.Array]:
    """Returns what is said of each step [T, B] of a play, seen and not seen."""
    model, params = dreamer_v2.make_model(spec, config), learner.params["model"]
    encoded = heads.encode(spec.action, action)
    previous = jnp.concatenate([jnp.zeros_like(encoded[:1]), encoded])
    batch = model_learning.Sequences(ts, previous)
    seen_key, key = jax.random.split(jax.random.key(0))
    found = model.observe(
        params, model.initial(ts.first.shape[1]), batch.ts.obs, batch.action_tm1,
        batch.ts.first, seen_key, hp.model.unimix,
    )  # fmt: skip
    drawn = latents.sample(config.rssm.latent, key, found.prior, hp.model.unimix)
    said = {"kl": model.kl(found.posterior, found.prior, hp.model.unimix)}
    for name, state in (
        ("seen", found.state),
        ("foreseen", found.state._replace(stoch=drawn)),
    ):
        x = rssm.features(state)
        picture = model.decode(params, x)
        said[name] = model.observation_error(picture, ts.obs, ts.task)
        said[f"reward {name}"] = model.scalar.mean(model.reward(params, x))
    return said | {"reward": ts.reward, "first": ts.first}


def age(ts: Any) -> dict[str, np.ndarray]:
    """Returns the steps since the reset of each step [T, B]."""
    first = np.asarray(ts.first)
    at = np.arange(len(first))[:, None]
    return {"age": at - np.maximum.accumulate(np.where(first, at, 0))}


def by_age(steps: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns the means of steps that are no reset, in parts of the episode."""
    rows = []
    for low, high in itertools.pairwise(AGES):
        own = (steps["age"] >= low) & (steps["age"] < high) & ~steps["first"]
        paid = own & (steps["reward"] > 0)
        row: dict[str, Any] = {"from": low, "to": high, "steps": int(own.sum())}
        for name in ("kl", "seen", "foreseen", "reward"):
            row[name] = float(steps[name][own].mean())
        for name in ("seen", "foreseen"):
            row[f"reward {name}"] = float(steps[f"reward {name}"][own].mean())
            row[f"paid {name}"] = float(steps[f"reward {name}"][paid].mean())
        rows.append(row)
    return rows


def arguments() -> argparse.Namespace:
    """Returns the parsed arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of runs")
    parser.add_argument("--out", type=pathlib.Path, default=common.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
