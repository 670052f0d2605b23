"""benchmarks/compile_times.py: what is counted of a compiled program."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="script", scope="module")
def _script():
    """The module of the script."""
    sys.path.insert(0, str(_FOLDER))
    try:
        import compile_times

        yield compile_times
    finally:
        sys.path.remove(str(_FOLDER))


def test_more_operations_are_more_instructions(script):
    """Each in a program of its own, with the time it took."""
    found = []
    for number in (1, 4):
        shapes = [
            jax.ShapeDtypeStruct((n, n), jnp.float32) for n in range(2, 2 + number)
        ]

        def products(xs):
            return [x @ x for x in xs]

        found.append(script.measured(products, (shapes,)))
    few, many = (row["instructions"] for row in found)
    assert 1 < few < many
    assert all(row["compile s"] > 0 and row["trace s"] > 0 for row in found)


def test_a_chunk_is_that_of_the_agent_on_the_environment(script):
    """Traced to its outputs; an agent that cannot play is refused in a line."""
    chunk, shapes = script.chunk("tabular", "probe/both")
    state, output = jax.eval_shape(chunk, *shapes)
    assert jax.tree.structure(state) == jax.tree.structure(shapes[0])
    assert output.finite.shape == (script.MEMBERS,)
    with pytest.raises(ValueError, match="obs: tabular reads a vector"):
        script.chunk("tabular", "probe/both_image")
