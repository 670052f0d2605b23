"""How many programs each file of tests may compile, operations outside of jit included."""

# jax keeps 2,048; beyond, a file compiles again what it compiled before.
BUDGET = 2000
LARGER: dict[str, int] = {}


def of(file):
    """Returns the budget of a file, named as below tests/."""
    return LARGER.get(file, BUDGET)
