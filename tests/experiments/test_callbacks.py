"""Code of a user's that a compiled program calls, and that raises."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import running

_RAISING = """
import sys
import jax, jax.numpy as jnp
from mtrl_jax import cli
from mtrl_jax.experiments import runs

def fails(x):
    raise ZeroDivisionError("a step of mine fails")

def resume(run, overrides=None):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    called = jax.jit(lambda x: jax.{name}_callback(fails, shape, x))
    jax.block_until_ready(called(jnp.float32(1)))

runs.resume = resume
sys.argv = ["mtrl", "resume", "run"]
cli.main()
"""


@pytest.mark.parametrize("name", ["pure", "io"])
def test_an_error_in_a_callback_ends_the_command_in_one_line(name):
    """What was raised and where, exit code 1, no traceback; whatever other devices wait."""
    if name == "io":
        code = _RAISING.format(name="experimental.io").replace(
            "import jax, ", "import jax.experimental, jax, "
        )
    else:
        code = _RAISING.format(name=name)
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=running.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith("mtrl: an environment")
    assert "raised ZeroDivisionError: a step of mine fails (<string>, line 8)" in line
    assert "mtrl resume" in line


def test_after_the_command_an_error_in_a_callback_is_only_raised():
    """The process is not ended: who called the command from Python has it back."""
    assert running.mtrl("list", "agents").code == 0

    def fails(x):
        raise ZeroDivisionError("not of a run")

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    called = jax.jit(lambda x: jax.pure_callback(fails, shape, x))
    with pytest.raises(jax.errors.JaxRuntimeError, match="not of a run"):
        jax.block_until_ready(called(jnp.float32(1)))
