"""benchmarks/accelerator.py: rows are kept, failures reported, wheels named."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from mtrl_jax import random
from mtrl_jax.agents import dreamer_v2

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"
CORE, KEPT = "core mingru, associative P=2", "core mingru, loop P=2"


@pytest.fixture(name="script", scope="module")
def _script():
    """The module of the script."""
    sys.path.insert(0, str(_FOLDER))
    try:
        import accelerator

        yield accelerator
    finally:
        sys.path.remove(str(_FOLDER))


def settings(out, *only, again=False):
    """Returns what the command line gives for the cases ``only``."""
    return argparse.Namespace(out=out, cpu=True, only=only, again=again, limit=300.0)


def faulty(pipe, tiny):
    """Serve cases of which the first works, and others as their names say."""
    pipe.send({"machine": {}, "cases": ["works", "ends", "hangs"]})
    while True:
        match pipe.recv():
            case "ends":
                os._exit(3)
            case "hangs":
                time.sleep(600)
            case case:
                pipe.send({"unit": case})


def test_a_row_is_a_share_of_the_ceilings_and_one_that_is_there_is_kept(
    script, tmp_path
):
    """What was measured on this kind of device is not measured again."""
    path = tmp_path / "accelerator_cpu.json"
    kept = {"unit": "measured before", "per s": -1.0}
    before = {"machine": {"device": "cpu"}, "rows": {KEPT: kept}}
    path.write_text(json.dumps(before))
    args = settings(tmp_path, "ceilings", KEPT, CORE)
    assert script.run(args, time.monotonic() + 600) == 0
    rows = json.loads(path.read_text())["rows"]
    assert list(rows) == [KEPT, "ceilings", CORE] and rows[KEPT] == kept
    share = rows[CORE]["TFLOP/s"] / rows["ceilings"]["TFLOP/s float32"]
    assert rows[CORE]["per s"] > 0 and rows[CORE]["of flops"] == pytest.approx(share)
    # Of another device nothing is kept.
    assert script.begun(path, {"device": "another"})["rows"] == {}


def test_a_case_that_ends_its_process_or_hangs_leaves_the_others(script):
    """Its row says what happened, and the next case is measured."""
    later = time.monotonic() + 600
    with script.Worker(True, faulty) as worker:
        assert script.attempt(worker, "ends", 60.0, later) == {
            "failed": "its process ended with code 3"
        }
        assert script.attempt(worker, "hangs", 0.5, later) == {
            "failed": "no answer in 0 s"
        }
        assert script.attempt(worker, "works", 60.0, later) == {"unit": "works"}
        # Out of time is no failure: the case is for the next run.
        soon = time.monotonic() + 0.2
        assert script.attempt(worker, "hangs", 60.0, soon) is None


def test_an_error_of_a_case_is_one_line(script):
    """Its first one, with the error's name."""

    def broken():
        raise RuntimeError("out of memory\nat some place")

    assert script.row_of(broken) == {"failed": "RuntimeError: out of memory"}


def test_failed_cases_are_measured_anew_only_when_asked(script, tmp_path):
    """And a name that no case has is refused with those there are."""
    cases, rows = ["a", "b", "c"], {"a": {"per s": 1.0}, "b": {"failed": "so"}}
    assert script.chosen(settings(tmp_path), cases, rows) == ["c"]
    assert script.chosen(settings(tmp_path, again=True), cases, rows) == ["b", "c"]
    with pytest.raises(script.Ended, match="no 'd', use a, b, c"):
        script.chosen(settings(tmp_path, "d"), cases, rows)


def test_the_wheels_to_bring_are_what_the_kit_needs_beyond_jax(script):
    """With what they need themselves, each in the version that is here."""
    wheels = script.wheels
    assert wheels.missing() == []
    found = dict(line.split("==") for line in wheels.requirements(wheels.HAVE))
    assert {"distrax", "dm-env", "gymnax", "rlax"} < set(found)
    assert not {"jax", "jaxlib", "numpy", "optax"} & set(found)
    assert wheels.name_of('Some_Package[extra]>=1.0; python_version > "3"') == (
        "some-package"
    )
    assert "gymnax, rlax" in wheels.advice(["gymnax", "rlax"])


def test_a_dreamer_of_the_papers_size_is_a_case_of_accelerators_alone(script):
    """One member and eight; its operations are those of the page on DreamerV2."""
    import accelerator_cases as cases
    import accelerator_training as training

    own = {"dreamer atari P=1", "dreamer atari P=8"}
    assert own <= set(cases.cases(False)) and not own & set(cases.cases(True))
    assert training.paper_operations() == pytest.approx(2.6e12, rel=0.2)


@pytest.mark.slow
def test_a_population_of_dreamers_of_the_papers_size_traces(script):
    """20 M parameters each, batches of 50 sequences of 50 steps and one before."""
    import accelerator_training as training

    every, shapes = training.dreamers(2)
    hp, keys = training.repeated(dreamer_v2.Hparams(), 2), random.roots(0, 2)

    def step(batch):
        learner = every.init(keys, hp)
        return learner, every.update(learner, batch, keys, hp, jnp.int32(0))[1]

    learner, metrics = jax.eval_shape(step, shapes)
    assert shapes.rows.reward.shape == (2, 1, 51, 50)
    assert sum(x.size for x in jax.tree.leaves(learner.params)) == 2 * 22_245_398
    assert metrics["loss"].shape == (2,)


@pytest.mark.slow
def test_every_case_has_a_row(tmp_path):
    """At tiny sizes, by the command itself."""
    command = [sys.executable, _FOLDER / "accelerator.py", "--cpu", "--out", tmp_path]
    done = subprocess.run(
        [*command, "--minutes", "60", "--limit", "600"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "accelerator_cpu.json").read_text())["rows"]
    assert len(rows) > 12
    assert all(row.get("per s", 1.0) > 0 for row in rows.values())
