"""What the README says is run."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parent.parent / "README.md"


def _python_block() -> str:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)[0]


def test_the_python_example_trains_a_population_in_fifteen_lines():
    """The README's first Python block runs as it stands and is at most 15 lines."""
    code = _python_block()
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    scope: dict = {}
    exec(compile(code, "README.md", "exec"), scope)
    episodes = np.asarray(scope["out"].episodes["episodes"])
    assert episodes.shape == (4, 2)
    assert (episodes > 0).all()
    assert np.asarray(scope["out"].finite).all()
    assert int(scope["state"].step) == 10


def test_every_file_the_readme_names_is_there():
    """Pictures, configs and modules the README links to or names exist."""
    root, text = README.parent, README.read_text()
    named = set(re.findall(r"(?:mtrl_jax|configs|benchmarks)/[\w/]+\.\w+", text))
    assert named
    missing = [name for name in sorted(named) if not (root / name).exists()]
    assert not missing
