"""What the README says is run."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import random
from mtrl_jax.envs.labyrinth import levels, world

README = pathlib.Path(__file__).parent.parent / "README.md"


def _python_block(number: int) -> str:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)[number]


def test_the_python_example_trains_a_population_in_fifteen_lines():
    """The README's first Python block runs as it stands and is at most 15 lines."""
    code = _python_block(0)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    scope: dict = {}
    exec(compile(code, "README.md", "exec"), scope)
    episodes = np.asarray(scope["out"].episodes["episodes"])
    assert episodes.shape == (4, 2)
    assert (episodes > 0).all()
    assert np.asarray(scope["out"].finite).all()
    assert int(scope["state"].step) == 10


def test_the_level_example_is_a_level(monkeypatch):
    """The README's second block adds a level by its parameters and a rule of its own."""
    monkeypatch.setattr(levels, "LEVELS", dict(levels.LEVELS))
    scope: dict = {}
    exec(compile(_python_block(1), "README.md", "exec"), scope)
    env = scope["env"]
    assert env.batch == (2, 64)
    assert env.spec.tasks[0].name == "labyrinth/rush"
    state = jax.tree.map(
        lambda x: x[0, 0], env.reset(random.roots(0, 2), env.params)[0]
    )
    taken = jnp.arange(world.THINGS) < 3
    events = world.Events(taken, jnp.int32(0), jnp.bool_(False))
    for time, expected in ((0, 6.0), (449, 6.0), (450, 3.0)):
        now = state.inner._replace(time=jnp.int32(time))
        reward, ended = scope["in_a_hurry"](now, events, state.params)
        assert reward == expected and not ended


def test_every_file_the_readme_names_is_there():
    """Pictures, configs and modules the README links to or names exist."""
    root, text = README.parent, README.read_text()
    named = set(re.findall(r"(?:mtrl_jax|configs|benchmarks)/[\w/]+\.\w+", text))
    assert named
    missing = [name for name in sorted(named) if not (root / name).exists()]
    assert not missing
