"""A tiny experiment in stages, and how tests look at what it leaves."""

from __future__ import annotations

import json
import shutil

import running
import yaml
from tiny_settings import STAGES as TINY

NAMES = ["source", "model", "in_context"]
# A process that stands still instead of logging an update of a stage.
STALL = """
import time
from mtrl_jax import metrics
write = metrics.MetricsWriter.write
def stall(self, **row):
    if row["update"] == {update} and self._run.name == {stage!r}:
        time.sleep(1e6)
    write(self, **row)
metrics.MetricsWriter.write = stall
"""


def write(path, *changes, settings=TINY):
    """Returns the path of a YAML file with the tiny stages."""
    from mtrl_jax import config

    path.write_text(yaml.safe_dump(config.override(settings, changes)))
    return path


def stage_of(run, name):
    """Returns the folder of a stage."""
    return run / "stages" / name


def without(run, *names):
    """Returns the run as it is before the stages ``names`` have begun."""
    for name in names:
        shutil.rmtree(stage_of(run, name))
    (run / "summary.json").unlink()
    return run


def steps_on_disk(folder):
    """Returns how many steps of a collect stage's histories are complete."""
    return json.loads((folder / "histories" / "meta.json").read_text())["complete"]


def state_of(run, name):
    """Returns every array of a stage's newest checkpoint by name, as bytes."""
    return running.bits(run, name)


def assert_same(run, other, names=NAMES):
    """Fails where two runs differ in a row, a bit of state, of data, or a result.

    The first of the stages ``names`` is the source of the histories.
    """
    from mtrl_jax import metrics

    for name in names:
        own, others = stage_of(run, name), stage_of(other, name)
        assert running.rows(own) == running.rows(others)
        assert (own / "lineage.jsonl").read_text() == (
            others / "lineage.jsonl"
        ).read_text()
        assert state_of(run, name) == state_of(other, name)
        results = [metrics.read_summary(folder) for folder in (own, others)]
        for field in ("score", "best_member", "tasks", "held_out", "parameters"):
            assert results[0].get(field) == results[1].get(field)
    for path in sorted(stage_of(run, names[0]).glob("histories/*.npy")):
        there = stage_of(other, names[0]) / "histories" / path.name
        assert path.read_bytes() == there.read_bytes(), path.name
    assert metrics.read_summary(run)["complete"]
