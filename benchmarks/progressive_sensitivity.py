"""Where transfer happens: what two columns rest on, by Fisher information and by noise.

The run is the arm "two columns" of ``multitask.py --experiment progressive``. For every
column and layer of each member:

    AFS   Fisher information of the policy about the layer's normalised activations, over
          the sum of the columns' (``agents.progressive.sensitivities``)
    APS   1/σ² of the noise that halves the score, over the sum of the columns': noise of
          σ times each unit's own deviation is added to the layer's activations

A score is the mean return of the episodes begun within ``--steps`` steps of all slots,
with the same draws whatever the noise; of a step it would not fall where a worse policy
has shorter episodes. A layer that no noise harms has no APS.

    python benchmarks/progressive_sensitivity.py --run RUN/stages/last [--quick]

Ref: Rusu et al. 2016 (arXiv:1606.04671), section 3.

Deviation: the episodes of a fixed number of steps in place of ten; the last of a slot
counts although it is cut off.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

import mtrl_jax
from mtrl_jax import metrics, random, types, xla
from mtrl_jax.agents import progressive
from mtrl_jax.agents.common import value_scale
from mtrl_jax.config import agent_settings
from mtrl_jax.experiments import environments
from mtrl_jax.metrics import transfer
from mtrl_jax.networks import heads, lateral_columns
from mtrl_jax.types import Array, Key, Tree

SIGMAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_SEEN = 256  # steps that AFS is of, the last

COLUMNS = {
    "task": "<32",
    "column": ">6",
    "layer": ">5",
    "afs": ">7.3f",
    "aps": ">7.3f",
}


class Played(NamedTuple):
    """What came of a population's steps."""

    score: Array  # [P] mean return of an episode
    ts: types.TimeStep  # [T, P, B]


def play(
    env: types.Env,
    config: progressive.Config,
    learner: Tree,
    noise: Tree,
    key: Key,
    steps: int,
) -> Played:
    """Returns the steps of members with noise of deviations ``noise`` in their layers.

    ``noise`` is of each column one of each layer, ``[P, n]`` or ``[P, H, W, n]`` of maps;
    the learners are ``[P]``, the keys, too.
    """

    def act(learner: Any, noise: Tree, ts: types.TimeStep, key: Key) -> Array:
        module, frozen = _module(env.spec, config), _frozen(config, learner)
        own, chosen = jax.random.split(key)
        leaves, shape = jax.tree.flatten(noise)
        drawn = [
            x[None] * jax.random.normal(k, (len(ts.first), *x.shape))
            for x, k in zip(leaves, jax.random.split(own, len(leaves)))
        ]
        drawn = jax.tree.unflatten(shape, drawn)
        x = progressive.inputs(env.spec, config, ts)
        column, _ = lateral_columns.run(module, frozen, learner.params, x, drawn)
        policy = heads.policy(env.spec.action, column.policy, ts.action_mask)
        return policy.sample_and_log_prob(chosen)[0]

    def step(carried: Any, now: Array) -> tuple[Any, types.TimeStep]:
        state, ts = carried
        action = jax.vmap(act)(learner, noise, ts, random.at(key, now, random.ACT))
        return env.step(state, action, env.params), ts

    fresh = env.reset(random.at(key, 0, random.ENV), env.params)
    _, seen = jax.lax.scan(step, fresh, jnp.arange(steps))
    begun = jnp.sum(seen.first, axis=(0, 2))
    return Played(jnp.sum(seen.reward, axis=(0, 2)) / begun, seen)


def deviations(
    spec: types.EnvSpec, config: progressive.Config, learner: Any, ts: types.TimeStep
) -> list[tuple[Array, ...]]:
    """Returns of each column of one member the deviation of each layer's units.

    ``[n]``, or ``[H, W, n]`` of maps.
    """
    x = progressive.inputs(spec, config, ts)
    _, hidden = lateral_columns.run(
        _module(spec, config), _frozen(config, learner), learner.params, x
    )
    return [tuple(jnp.std(h, axis=0) for h in layers) for layers in hidden]


def noiseless(
    env: types.Env, config: progressive.Config, learner: Any
) -> list[tuple[Array, ...]]:
    """Returns ``play``'s noise of deviation 0."""

    def of(learner: Any) -> list[tuple[Array, ...]]:
        fresh = env.reset(random.roots(0, env.batch[0]), env.params)
        each = jax.vmap(lambda own, ts: deviations(env.spec, config, own, ts))
        return each(learner, fresh[1])

    shapes = jax.eval_shape(of, learner)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def measured(
    env: types.Env,
    config: progressive.Config,
    learner: Any,
    key: Key,
    steps: int,
    sigmas: tuple[float, ...] = SIGMAS,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (AFS, precision at half the score) ``[P, columns, layers]``."""
    members, still = env.batch[0], noiseless(env, config, learner)
    shape = (config.columns, len(still[0]))
    run = jax.jit(lambda noise: play(env, config, learner, noise, key, steps))
    clean = run(still)

    def last_of(x: Array) -> Array:
        return jnp.moveaxis(x, 1, 0).reshape(members, -1, *x.shape[3:])[:, -_SEEN:]

    seen = jax.tree.map(last_of, clean.ts)
    each = jax.jit(
        jax.vmap(
            lambda learner, ts: (
                progressive.sensitivities(env.spec, config, learner, ts),
                deviations(env.spec, config, learner, ts),
            )
        )
    )
    fisher, deviation = each(learner, seen)
    precision = np.zeros((members, *shape))
    for column, layer in np.ndindex(shape):
        scores = [np.asarray(clean.score)]
        for sigma in sigmas[1:]:
            noise = jax.tree.map(jnp.zeros_like, deviation)
            here = list(noise[column])
            here[layer] = sigma * deviation[column][layer]
            noise[column] = tuple(here)
            scores.append(np.asarray(run(noise).score))
        for member, found in enumerate(np.stack(scores, axis=1)):
            precision[member, column, layer] = transfer.precision_at_half(sigmas, found)
    return np.asarray(fisher), precision


def main() -> None:
    """Measure, print, write and draw."""
    args = arguments()
    xla.configure_process()
    run = mtrl_jax.load(args.run)
    config: Any = agent_settings.config(run.config)
    tasks = environments.tasks_of(run.config)
    env = environments.make_env(run.config, tasks, "sensitivity")
    learners = [run.learner(member) for member in range(run.members)]
    learner = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *learners)
    key = random.roots(args.seed, run.members)
    fisher, precision = measured(env, config, learner, key, args.steps)
    noise = np.stack([transfer.sensitivity_shares(x) for x in precision])
    print(common.header(COLUMNS))
    rows = []
    for task, found in metrics.read_summary(run.folder)["tasks"].items():
        own = [member["member"] for member in found["members"]]
        for column, layer in np.ndindex(fisher.shape[1:]):
            row = {"task": task, "column": column + 1, "layer": layer + 1}
            for name, values in (("afs", fisher), ("aps", noise)):
                row |= {
                    name: float(values[own, column, layer].mean()),
                    f"{name}_seeds": values[own, column, layer].tolist(),
                }
            rows.append(row)
            print(common.line(row, COLUMNS), flush=True)
    result = {"machine": common.environment(), "steps": args.steps, "rows": rows}
    common.write(args.out, "progressive_sensitivity", result)
    draw(rows, args.out / "progressive_sensitivity.png")


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draw the share of the column that learned, by layer, a panel a task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    last = max(row["column"] for row in rows)
    titles = [task.rpartition("/")[2] for task in tasks]
    with common.figure(path, titles, (4, 3)) as axes:
        for ax, task in zip(axes, tasks):
            own = [r for r in rows if (r["task"], r["column"]) == (task, last)]
            for name in ("afs", "aps"):
                ax.plot(
                    [row["layer"] for row in own],
                    [row[name] for row in own],
                    "o-",
                    label=name.upper(),
                )
            ax.set(xlabel="layer", ylabel="share of the last column", ylim=(0, 1))
            ax.set_xticks([row["layer"] for row in own])
        axes[0].legend()


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "fewer steps")
    made.add_argument("--run", type=pathlib.Path, required=True, help="its last stage")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--steps", type=int, default=400, help="of each slot")
    args = made.parse_args()
    args.steps = 20 if args.quick else args.steps
    return args


def _module(spec: types.EnvSpec, config: progressive.Config) -> lateral_columns.Columns:
    scale = value_scale.make(config, len(spec.tasks))
    return progressive.make_module(spec, config, scale)


def _frozen(config: progressive.Config, learner: Any) -> list[Tree]:
    return [learner.frozen[f"column_{k}"] for k in range(config.columns - 1)]


if __name__ == "__main__":
    main()
