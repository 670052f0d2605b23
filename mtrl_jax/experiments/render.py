"""A trained member at play, as an animation: one panel a task; or a task without a run.

A task that has a picture of its own for people shows that (labyrinths: the view and the
map). Of others it is what the agent sees: images as they are (the newest frame of a
stack), boolean planes with a colour each, vectors as bars or, for a few tasks, as the
scene they describe.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mtrl_jax import envs, errors, random, types
from mtrl_jax.config import modules, schema
from mtrl_jax.engine import population
from mtrl_jax.envs import actions
from mtrl_jax.experiments import (
    build,
    environments,
    kinds,
    reading,
    reporters,
    selection,
)
from mtrl_jax.plots import observation_pictures
from mtrl_jax.training.program import Program
from mtrl_jax.training.progress import short

CAPTION = 34  # pixels below a picture
BORDER = 4  # pixels on its left and right
_WIDEST = 2100  # pixels of panels in a row
_BACKGROUND = observation_pictures.BACKGROUND
_TEXT = (235, 235, 235)


def render(
    what: pathlib.Path, out: pathlib.Path, member: int | None, steps: int, seed: int
) -> pathlib.Path:
    """Returns the path of a GIF of ``what``: a run's folder or an environment's name.

    Raises:
      ConfigError: as ``render_run`` and ``render_env``.
      CheckpointError: there is no sound checkpoint.
    """
    name = modules.at_home("env", what.as_posix(), pathlib.Path())
    if not what.exists() and not envs.is_named(name):
        hint = errors.suggest(name.partition("/")[0], envs.ENVS)
        raise errors.ConfigError(
            f"{name}: no run here, nor a family of environments{hint}; give the folder of "
            "a run, or FAMILY/NAME"
        )
    if what.exists():
        return render_run(what, out, member, steps)
    if member is not None:
        raise errors.ConfigError(f"--member {member}: {name} is no run and has none")
    return render_env(name, out, steps, seed)


def render_run(
    folder: pathlib.Path, out: pathlib.Path, member: int | None, steps: int
) -> pathlib.Path:
    """Returns the path of a GIF of one episode a task, ``steps`` steps at most.

    ``member`` is the best by default, see ``reporters.best_saved``.

    Raises:
      ConfigError: no run, no such member, or a path that is no .gif.
      CheckpointError: there is no sound checkpoint.
    """
    # In a collect stage each member has a task of its own, which is not dealt again.
    run, config = reading.with_environments(folder, ("online",))
    check(config, out, member)
    with kinds.restored(run, config) as (update, program, saved):
        if member is None:
            member = reporters.best_saved(folder, update, program, saved.run)
        frames = play(config, program, saved, member, steps)
    save_gif(frames, out)
    return out


def check(config: Any, out: pathlib.Path, member: int | None) -> None:
    """Raises ConfigError unless ``out`` is a .gif and ``member`` one of the run, or None."""
    _check_out(out)
    if member is not None:
        reading.check_member(f"--member {member}", member, config.population.size)


def render_env(name: str, out: pathlib.Path, steps: int, seed: int = 0) -> pathlib.Path:
    """Returns the path of a GIF of one episode of an environment, ``steps`` at most.

    Labyrinths are played by their scripted oracle, everything else at random.

    Raises:
      ConfigError: no such environment, one that is not stepped inside the program, or
        a path that is no .gif.
    """
    _check_out(out)
    with errors.at("env"):
        if envs.runs_on_host(name):
            raise ValueError(f"{name} is played by a run alone, give the run's folder")
        env = envs.make(name, (1, 1))
    root, choose = random.roots(seed, 1), _player(name, env)

    @jax.jit
    def advance(t, state):
        action = choose(random.at(root[0], t, random.ACT), state)
        return env.step(state, action, env.params)

    state, ts = jax.jit(env.reset)(random.at(root, 0, random.ENV), env.params)
    total, frames = 0.0, []
    for step in range(steps):
        seen = jax.tree.map(lambda x: np.asarray(x)[0], ts)
        total += float(seen.reward[0])
        drawn = env.render(state, 0, 0)
        frames.append(_panel(env.spec, seen, 0, step, total, drawn))
        if seen.last[0]:
            break
        state, ts = advance(step, state)
    save_gif(frames, out)
    return out


def play(
    config: schema.ExperimentConfig,
    program: Program,
    saved: Any,
    member: int,
    steps: int,
) -> list[np.ndarray]:
    """Returns the frames uint8 [H, W, 3] of one episode of every task side by side.

    It is played as in tests, with ``evaluation.hparams``.
    """
    env = environments.make_host_env(
        config, environments.tasks_of(config), f"{config.seed}/render", 1
    )
    agents = population.population(program.agent, env.batch[0])
    act, hp = jax.jit(agents.act), build.with_evaluation_hparams(config, saved.hparams)
    key = selection.evaluation_key(saved.run)
    carry, ts = agents.carry(env.batch[1]), env.reset()
    slots = range(env.batch[1])
    totals, done, frames = np.zeros(env.batch[1]), np.zeros(env.batch[1], bool), []
    panels: list[Any] = [None] * env.batch[1]
    try:
        for step in range(steps):
            seen = jax.tree.map(lambda x: np.asarray(x)[member], ts)
            totals += np.where(done, 0.0, seen.reward)
            for b in slots:
                if not done[b]:
                    drawn = env.render(member, b)
                    panels[b] = _panel(program.spec, seen, b, step, totals[b], drawn)
            frames.append(_beside(panels))
            done |= seen.last
            if done.all():
                break
            action, carry, _ = act(
                saved.run.learner, carry, ts, random.fold(key, step), hp
            )
            env.send(action)
            ts = env.recv()
    finally:
        env.close()
    return frames


def save_gif(frames: list[np.ndarray], out: pathlib.Path, fps: int = 15) -> None:
    """Write the frames as a GIF; the last one stays for a second."""
    from PIL import Image

    images = [Image.fromarray(f).quantize(256) for f in [*frames, *frames[-1:] * fps]]
    out.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        out, save_all=True, append_images=images[1:], duration=1000 // fps, loop=0
    )


def _check_out(out: pathlib.Path) -> None:
    if out.suffix.lower() != ".gif":
        raise errors.ConfigError(f"--out {out}: give a file that ends in .gif")
    errors.check_file(f"--out {out}", out)


def _player(name: str, env: types.Env) -> Callable[[Any, Any], Any]:
    """Returns ``choose(key, state) -> action [1, 1, ...]`` of what plays ``name``."""
    if not name.startswith("labyrinth/"):
        return lambda key, state: actions.sample(env.spec.action, key, env.batch)
    from mtrl_jax.envs.labyrinth import oracle

    def choose(key, state):
        inner, params = jax.tree.map(lambda x: x[0, 0], (state.inner, state.params))
        return oracle.act(key, inner, params, "native")[None, None]

    return choose


def _panel(
    spec: types.EnvSpec,
    seen: types.TimeStep,
    slot: int,
    step: int,
    total: float,
    drawn: np.ndarray | None,
) -> np.ndarray:
    """Returns one slot's picture, ``drawn`` or that of its observation, and caption."""
    from PIL import Image, ImageDraw

    task = spec.tasks[int(seen.task[slot])]
    shown = _seen(task, seen, slot) if drawn is None else drawn
    height, width = shown.shape[:2]
    canvas = Image.new("RGB", (width + 2 * BORDER, height + CAPTION), _BACKGROUND)
    canvas.paste(Image.fromarray(shown), (BORDER, 0))
    draw = ImageDraw.Draw(canvas)
    draw.text((6, height + 4), short(task.name), fill=_TEXT)
    draw.text((6, height + 18), f"step {step}   return {total:.4g}", fill=_TEXT)
    return np.asarray(canvas)


def _seen(task: types.TaskSpec, seen: types.TimeStep, slot: int) -> np.ndarray:
    """Returns the picture of a slot's observation, without the mixture's padding."""
    own = {}
    for name, struct in task.obs.items():
        window = tuple(slice(n) for n in struct.shape)
        own[name] = np.asarray(seen.obs[name][slot])[window].astype(struct.dtype)
    sketch = observation_pictures.find(task.name)
    return (
        sketch(own["vector"], observation_pictures.PANEL)
        if sketch
        else observation_pictures.picture(own)
    )


def _beside(panels: list[np.ndarray]) -> np.ndarray:
    """Returns panels in rows of _WIDEST at most, captions of a row on one line."""
    rows: list[list[np.ndarray]] = [[]]
    for panel in panels:
        if rows[-1] and sum(p.shape[1] for p in [*rows[-1], panel]) > _WIDEST:
            rows.append([])
        rows[-1].append(panel)
    joined = []
    for row in rows:
        height = max(len(panel) for panel in row)
        filled = [_filled(panel, height, panel.shape[1]) for panel in row]
        joined.append(np.concatenate(filled, axis=1))
    width = max(row.shape[1] for row in joined)
    return np.concatenate([_filled(row, len(row), width) for row in joined])


def _filled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the picture at the lower left of a larger one."""
    out = np.full((height, width, 3), _BACKGROUND, np.uint8)
    out[height - len(picture) :, : picture.shape[1]] = picture
    return out
