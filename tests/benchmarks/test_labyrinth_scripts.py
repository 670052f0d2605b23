"""What the scripts of Labyrinth's reference scores and explorer write, and refuse."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs import labyrinth
from mtrl_jax.envs.labyrinth import scores

PLAYED = "dark_key_to_door_3d"


@pytest.fixture(name="run")
def _run(script, monkeypatch, tmp_path):
    """Returns a function that runs labyrinth_scores, each episode 1; its rows by level."""
    module = script("labyrinth_scores")
    monkeypatch.setattr(module.xla, "configure_process", lambda: None)
    always = lambda _, __: (np.ones(4), np.ones(4))  # noqa: E731
    monkeypatch.setattr(module, "_player", lambda *_: always)
    monkeypatch.setattr(module, "write", lambda *_: None)  # the kit's own table

    def run(*given):
        monkeypatch.setattr("sys.argv", ["_", "--out", str(tmp_path), *given])
        module.main()
        found = json.loads((tmp_path / "labyrinth_scores.json").read_text())
        return {row["level"]: row for row in found["rows"]}

    return run


def test_scores_of_levels_that_are_not_played_stay(run, tmp_path):
    """With the day they were measured on; of other episodes none are kept."""
    assert list(run()) == labyrinth.names()
    path = tmp_path / "labyrinth_scores.json"
    before = json.loads(path.read_text())
    before["machine"]["date"] = "2001-01-01T00:00"
    for row in before["rows"]:
        del row["measured"]
        row["decisions"] = "old"
    path.write_text(json.dumps(before))
    rows = run("--levels", PLAYED)
    assert list(rows) == labyrinth.names()
    played = rows.pop(PLAYED)
    assert played["measured"] > "2001-01-01" and played["decisions"] != "old"
    for row in rows.values():
        assert (row["measured"], row["decisions"]) == ("2001-01-01", "old")
    assert list(run("--levels", PLAYED, "--episodes", "8")) == [PLAYED]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--levels", "nonsense"], "invalid choice: 'nonsense'"),
        (["--write", "--quick"], f"of {scores.EPISODES} episodes.*be of 16"),
        (["--write", "--episodes", "8"], "be of 8"),
    ],
)
def test_scores_that_would_not_be_the_tables_are_refused(run, capsys, given, said):
    """In a line, before anything is played."""
    with pytest.raises(SystemExit, match="2"):
        run(*given)
    assert re.search(said, capsys.readouterr().err.splitlines()[-1])


def test_the_explorers_rows_are_those_that_its_table_reads(
    script, monkeypatch, tmp_path
):
    """Of each how many episodes it is of."""
    module, tables = script("labyrinth_explorer"), script("tables_learning")
    monkeypatch.setattr(module, "player", lambda *_: lambda key: jnp.float32(2.0))
    monkeypatch.setattr("sys.argv", ["_", "--quick", "--out", str(tmp_path)])
    module.main()
    found = json.loads((tmp_path / "labyrinth_explorer.json").read_text())
    monkeypatch.setattr(tables, "load", {"labyrinth_explorer": found}.get)
    header, *rows = tables.labyrinth_explorer()
    assert [row[header.index("episodes")] for row in rows] == ["2", "2"]
