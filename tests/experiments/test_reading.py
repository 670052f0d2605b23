"""Runs of other versions: whose they are, and what can be had of them all the same."""

import json

import pytest
import yaml

from mtrl_jax import errors, plots
from mtrl_jax.experiments import reading
from mtrl_jax.training import provenance

NOW = provenance.version("mtrl-jax")
# As the version before wrote it, with all that is filled in.
OLD = {"tasks": [{"env": "probe/action"}], "agent": {"hparams": {"epsilon": 1e-5}}}
ROW = {"env_steps": 8, "wall_s": 1.0, "returns": {"probe/action": [0.5, 1.0]}}


@pytest.fixture(name="write")
def _write(tmp_path):
    """``write(values, version)``: a run's folder; None: a run without checkpoints."""

    def write(values, version):
        for name in ("", *(f"stages/{x['name']}" for x in values.get("stages", ()))):
            folder = tmp_path / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(yaml.safe_dump(values))
            rows = [json.dumps({"update": i, **ROW}) for i in (2, 4)]
            (folder / "metrics.jsonl").write_text("\n".join([*rows, ""]))
        for step in (0, 4) if version is not None else ():
            meta = folder / "checkpoints" / str(step) / "meta"
            meta.mkdir(parents=True, exist_ok=True)
            said = {"versions": {"mtrl-jax": version}} if step else {}
            (meta / "metadata").write_text(json.dumps({"leaves": [], "meta": said}))
        return tmp_path

    return write


@pytest.mark.parametrize("is_staged", [False, True])
@pytest.mark.parametrize(
    ("version", "by"),
    [
        ("0.0.9", f"mtrl_jax 0.0.9, this is {NOW}: go on with the version"),
        (NOW, f"an earlier build of mtrl_jax {NOW}: go on with the build"),
        (None, f"an unknown version, this is {NOW}: go on with the version"),
    ],
)
def test_a_setting_of_an_earlier_name_says_whose_run_it_is(
    write, version, by, is_staged
):
    """And that what wrote it can go on; where no number moved, it was another build."""
    stage = {"name": "first", "kind": "online", **OLD}
    folder = write({"stages": [stage]} if is_staged else OLD, version)
    with pytest.raises(errors.ConfigError) as error:
        reading.load_config(folder)
    assert "agent.hparams.epsilon is now adam_eps" in str(error.value)
    assert f"; the run was written by {by} that wrote it, or" in str(error.value)


def test_any_setting_that_another_version_had_says_so(write):
    """What this version's own run cannot say is a slip of the hand that wrote it."""
    values = {**OLD, "agent": {"hparams": {"rho": 1.0}}}
    with pytest.raises(
        errors.ConfigError, match=r"rho is unknown.* mtrl_jax 0\.0\.9, "
    ):
        reading.load_config(write(values, "0.0.9"))
    with pytest.raises(errors.ConfigError, match="rho is unknown") as error:
        reading.load_config(write(values, NOW))
    assert "was written by" not in str(error.value)


def test_a_run_of_another_version_is_drawn(write):
    """Pictures are of its rows; what settings were called is no matter."""
    folder = write(OLD, "0.0.9")
    assert reading.parts(folder) == [folder]
    reading.check_drawable(folder)
    assert "returns.png" in {path.name for path in plots.draw(folder)}


def test_stages_of_another_version_are_found(write):
    """By their names, which lead to no other folder."""
    stages = [{"name": name, "kind": "online", **OLD} for name in ("first", "second")]
    folder = write({"stages": stages}, "0.0.9")
    assert [path.name for path in reading.parts(folder)] == ["first", "second"]
    with pytest.raises(errors.ConfigError, match="a run in stages"):
        reading.check_drawable(folder)
    for bad in ({"name": "../x"}, {"kind": "online"}, "first"):
        (folder / "config.yaml").write_text(yaml.safe_dump({"stages": [bad]}))
        with pytest.raises(
            errors.ConfigError, match="stages: must be a list of stages"
        ):
            reading.parts(folder)
