"""Which combinations of parameters the default tests try."""

import itertools

import pytest


def crossed(*axes):
    """Returns every combination of the axes' values, as parameters of a test.

    By default those run that differ from the first of each axis in one value at most:
    every value once. The others are slow.
    """
    found = []
    for chosen in itertools.product(*map(enumerate, axes)):
        values = [value for _, value in chosen]
        away = sum(number > 0 for number, _ in chosen)
        found.append(pytest.param(*values, marks=pytest.mark.slow if away > 1 else ()))
    return found
