"""Numbers that break, and environments that raise: what a run meets in its own program."""

from __future__ import annotations

import pathlib
import subprocess
from typing import Any

import faults_outcomes
import faults_runs

BROKEN = ("reward", "observation", "gradient")
VALUES = ("nan", "inf")
ONE = 3  # the member that breaks where one does; its learning rate is above the others'
_BOUND = 8e-3
WHEN = ("import", "task", "reset", "step", "in the run")
# A probe task whose step passes its reward through Python, and that may raise somewhere.
FLAKY = """
import jax, numpy as np
from mtrl_jax.envs import probes

WHEN = {when!r}
calls = 0

def fail(where):
    if WHEN == where:
        raise ZeroDivisionError(f"an environment fails at {{where}}")

fail("import")

def names():
    return probes.names()

def task(name, options=None):
    fail("task")
    made = probes.task(name, options)

    def reset(key, params):
        fail("reset")
        return made.reset(key, params)

    def paid(reward):
        global calls
        calls += 1
        if calls > 200:
            fail("in the run")
        return np.asarray(reward)

    def step(key, state, action, params):
        fail("step")
        state, obs, reward, *ends = made.step(key, state, action, params)
        like = jax.ShapeDtypeStruct(reward.shape, reward.dtype)
        reward = jax.pure_callback(paid, like, reward, vmap_method="sequential")
        return (state, obs, reward, *ends)

    return made._replace(reset=reset, step=step)
"""


def broken(
    lab: faults_runs.Lab, what: str, value: str, kind: str
) -> faults_runs.Counts:
    """Returns the counts of a run whose numbers break, of ``ONE`` member or of all.

    One member is lost, or replaced by PBT, and the run ends well; with all broken it
    ends in one line, and once the cause is mended it goes on to the end it would have
    had.
    """
    run, is_one = lab.new(), kind == "sweep"
    members = [ONE] if is_one else [0, 1, 2, 3]
    code = (
        f"import faults_numbers; faults_numbers.break_({what!r}, {value!r}, {members})"
    )
    ended = lab.ended("train", lab.config(kind), "--run-dir", run, code=code)
    where = f"{what}, {value}, {'one member' if is_one else f'all, {kind}'}"
    if is_one or ended.code == 0:
        found = faults_outcomes.of(run).get("summary.json", {})
        allowed = ([ONE], []) if is_one else ([],)
        lost = ended.code != 0 or found.get("lost") not in allowed
        return faults_runs.counts(where, ended, lost=lost, run=run)
    partial = faults_outcomes.is_partial(run)
    restart = faults_outcomes.gone_on_from(run)
    last = faults_runs.gone_on(lab, kind, run)
    is_same = lab.is_same(kind, run, restart=restart)
    lost = (ended.code, last.code) != (1, 0) or not is_same
    return faults_runs.counts(where, ended, last, lost=lost, run=run, partial=partial)


def raising(lab: faults_runs.Lab, when: str, kind: str) -> faults_runs.Counts:
    """Returns the counts of a run whose environment, a file of the user's, raises.

    Once the file is mended the run begins, or goes on, and ends as it would have.
    """
    folder = lab.new()
    folder.mkdir()
    subprocess.run(["cp", lab.config(kind), folder], check=True)
    config, run = folder / f"{kind}.yaml", folder / "run"
    write_flaky(folder, when)
    ended = lab.ended("train", config, "--run-dir", run)
    partial = faults_outcomes.is_partial(run)
    write_flaky(folder, "never")
    begun = (run / "config.yaml").exists()
    # What is found out when the environment is made costs no folder.
    early = when != "in the run" and begun
    restart = faults_outcomes.gone_on_from(run)
    last = (
        lab.ended("resume", run)
        if begun
        else lab.ended("train", config, "--run-dir", run)
    )
    is_same = lab.is_same(kind, run, restart=restart)
    lost = ended.code not in (1, 2) or last.code != 0 or not is_same
    where = f"raises at {when}, {kind}".replace("at in", "in")
    return faults_runs.counts(
        where, ended, last, lost=lost or early, run=run, partial=partial
    )


def write_flaky(folder: pathlib.Path, when: str) -> None:
    """Write the environment's file, which raises at ``when``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flaky.py").write_text(FLAKY.format(when=when))


def break_(what: str, value: str, members: list[int]) -> None:
    """Change the kit in this process: what ``members`` meet is ``value`` now and then.

    Rewards and observations break on the last step of each episode, gradients from the
    tenth update on.
    """
    if what == "gradient":
        _break_gradients(float(value), len(members) == 1)
    else:
        _break_worlds(what, float(value), members)


def _break_gradients(number: float, is_one: bool) -> None:
    import jax
    import jax.numpy as jnp

    from mtrl_jax import hparams
    from mtrl_jax.agents.common import learning

    whole = learning.gradient_step

    def gradient_step(loss, optimise, learner, batch, key, hp, *more):
        def worse(params, *rest):
            value, aux = loss(params, *rest)
            hit = learner.updates >= 10
            if is_one:
                hit &= hparams.flatten(hp)["learning_rate"] > _BOUND
            least = jax.tree.leaves(params)[0].ravel()[0]
            return value + jnp.where(hit, number, 0.0) * least, aux

        return whole(worse, optimise, learner, batch, key, hp, *more)

    setattr(learning, "gradient_step", gradient_step)  # noqa: B010


def _break_worlds(what: str, number: float, members: list[int]) -> None:
    import jax
    import jax.numpy as jnp

    from mtrl_jax.experiments import environments

    make = environments.make_world

    def worse(ts: Any) -> Any:
        hit = (
            ts.last
            & jnp.isin(jnp.arange(ts.last.shape[0]), jnp.array(members))[:, None]
        )

        def of(x):
            if not jnp.issubdtype(x.dtype, jnp.floating):
                return x
            return jnp.where(hit.reshape(hit.shape + (1,) * (x.ndim - 2)), number, x)

        if what == "reward":
            return ts._replace(reward=of(ts.reward))
        return ts._replace(obs=jax.tree.map(of, ts.obs))

    def around(env: Any) -> Any:
        if hasattr(env, "recv"):
            return env._replace(recv=lambda: worse(env.recv()))

        def step(state, action, params):
            state, ts = env.step(state, action, params)
            return state, worse(ts)

        return env._replace(step=step)

    def make_world(*arguments):
        world = make(*arguments)
        if world.kind == "fused":
            return world._replace(train=around(world.train))
        return world._replace(train=[around(half) for half in world.train])

    environments.make_world = make_world
