"""The command line: what each command prints, writes and leaves alone."""

import builtins
import importlib
import inspect
import json
import pathlib
import re
import subprocess
import sys

import pytest
import running
import staged_runs
from PIL import Image

import mtrl_jax
from mtrl_jax import __main__, agents, cli, config, envs, hparams, metrics, types
from mtrl_jax.agents.common import optimiser, value_scale
from mtrl_jax.config import agent_fields, strict
from mtrl_jax.experiments import listing
from mtrl_jax.losses import gradient_combiners, popart, rewards, soft_sharing
from mtrl_jax.networks import conv, cores, mlp, network_config
from mtrl_jax.training import provenance, report


def test_a_signal_while_the_command_is_imported_is_no_traceback(monkeypatch):
    """Ctrl-C right after the start ends it with 130, as later on."""
    importing = builtins.__import__

    def interrupted(name, globals=None, locals=None, fromlist=(), level=0):
        if name == "mtrl_jax" and "cli" in (fromlist or ()):
            raise KeyboardInterrupt
        return importing(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 130


def test_help_and_import_do_not_load_jax():
    """They answer at once because nothing heavy is imported for them."""
    heavy = (
        "[m for m in ('jax', 'numpy', 'matplotlib', 'pydantic') if m in sys.modules]"
    )
    before = f"import atexit, sys; atexit.register(lambda: print('loaded', {heavy}))"
    helped = running.ended(running.start("--help", before=before))
    assert helped.code == 0
    for command in ("train", "resume", "evaluate", "plot", "render", "list"):
        assert command in helped.out
    assert "loaded []" in helped.out
    asked = running.ended(running.start("--version", before=before))
    assert asked.code == 0 and "loaded []" in asked.out
    assert asked.out.startswith(f"mtrl-jax {provenance.version('mtrl-jax')}, jax ")
    imported = subprocess.run(
        [sys.executable, "-c", f"import sys, mtrl_jax; print('loaded', {heavy})"],
        cwd=running.ROOT,
        capture_output=True,
        text=True,
    )
    assert imported.stdout == "loaded []\n", imported.stderr


def test_the_public_names_are_there():
    """Everything in __all__ is a module of that name or what a module calls by it."""
    assert {"Agent", "Env", "agents", "envs"} <= set(mtrl_jax.__all__)
    for name in mtrl_jax.__all__:
        found = getattr(mtrl_jax, name)
        if inspect.ismodule(found):
            assert found.__name__ == f"mtrl_jax.{name}"
        else:
            home = importlib.import_module(found.__module__)
            assert found.__name__ == name and getattr(home, name) is found
    assert mtrl_jax.Agent is types.Agent
    with pytest.raises(AttributeError, match="Agnet"):
        _ = mtrl_jax.Agnet


def test_agents_envs_and_configs_are_listed(monkeypatch, tmp_path):
    """A line each, of the checkout where the working folder has no configs."""
    names = [
        line.split()[0] for line in running.mtrl("list", "agents").out.splitlines()
    ]
    assert names == list(agents.AGENTS)
    assert running.mtrl("list", "envs").out.split() == envs.names()
    monkeypatch.chdir(tmp_path)
    listed = running.mtrl("list", "configs").out
    assert "quickstart.yaml" in listed
    assert "Three tasks" in listed
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.yaml").write_text("# Mine: of this folder.\nseed: 0")
    lines = running.mtrl("list", "configs").out.splitlines()
    assert len(lines) == 1
    assert lines[0].split(maxsplit=1) == ["configs/own.yaml", "Mine: of this folder."]


def test_a_list_can_be_narrowed():
    """--match keeps lines that contain the text, whatever the case."""
    lines = running.mtrl("list", "envs", "--match", "minatar").out.splitlines()
    assert "gymnax/Breakout-MinAtar" in lines
    assert all("minatar" in line.lower() for line in lines)
    assert running.mtrl("list", "envs", "--match", "nothing like it").out == ""


@pytest.mark.parametrize("name", agents.AGENTS)
def test_all_settings_of_an_agent_are_listed(name):
    """Fields of its classes, by the paths and with the defaults that a config takes."""
    rows = {x.path: x for x in agent_fields.of(name)}
    module = agents.get(name)
    assert all(
        x.takes or x.meaning.startswith("as agent.config.") for x in rows.values()
    )
    assert {f"agent.hparams.{x}" for x in hparams.names(module.Hparams)} <= set(rows)
    # What is within a section that is not there by default cannot be given alone.
    absent = {
        x.path for x in rows.values() if x.takes.startswith(("mapping |", "list[m"))
    }
    given = [
        f"{path}={x.default}"
        for path, x in rows.items()
        if x.takes and not any(path.startswith(section) for section in absent)
    ]
    plain = {"tasks": [{"env": "probe/both"}], "agent": {"name": name}}
    read = config.from_dict(config.override(plain, given))
    assert read == config.from_dict(plain)
    paths = strict.flat({"agent": {"config": read.agent.config}})
    short = [x.removesuffix("*") for x in rows if x.endswith(".*")]
    for path in paths:
        path = re.split(r"\.\d", path)[0]
        assert path in rows or path == "agent.config" or path.startswith((*short,))


def test_a_setting_says_what_it_takes_and_means():
    """A comment beside it or above it; of a hyperparameter nothing reads, what it needs."""
    lines = running.mtrl("list", "agents/ppo", "--match", ".network.h").out.splitlines()
    assert [line.split(maxsplit=4)[0::4] for line in lines] == [
        ["agent.config.network.hidden", "of the MLP that reads vectors"]
    ]
    rows = {x.path: x[1:] for x in agent_fields.of("ppo")}
    assert rows["agent.config.network.filters"][2].startswith("Of a torso that reads")
    assert rows["agent.hparams.discount"][:2] == ("0.99", "from 0 to 1")
    assert rows["agent.hparams.distance_cost"][2].endswith("network.sharing=soft")
    assert rows["agent.config.teacher.network.*"][2] == "as agent.config.network.*"


CHOICES = {
    "activation": mlp.ACTIVATIONS,
    "combiner": gradient_combiners.COMBINERS,
    "convolution": conv.IMPLEMENTATIONS,
    "distance": soft_sharing.DISTANCES,
    "network.core": cores.CORES,
    "optimiser": optimiser.KINDS,
    "rewards": rewards.TRANSFORMS,
    "sharing": network_config.SHARING,
    "value_scale": value_scale.SCALES,
    "value_statistics": popart.MODES,
}


@pytest.mark.parametrize("name", ["ppo", "rainbow"])
def test_a_setting_that_is_one_of_several_words_names_them_all(name):
    """Nobody has to look for them in the code."""
    checked = 0
    for row in agent_fields.of(name):
        for field, choices in CHOICES.items():
            if row.path.endswith(f".{field}"):
                assert set(choices) <= set(re.findall(r"\w+", row.meaning)), row
                checked += 1
    assert checked >= 4


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("agent", "did you mean agents?"),
        ("ppo", "did you mean agents/ppo?"),
        ("agents/pqo", "list agents/pqo: agent.name='pqo' is unknown"),
    ],
)
def test_an_unknown_list_is_refused(what, said):
    """What can be listed is said."""
    outcome = running.mtrl("list", what)
    assert outcome.code == 2
    assert said in outcome.error


def test_a_config_can_be_checked_and_nothing_is_written(tmp_path, monkeypatch):
    """A line of what it is and what it says first, or what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    plain = running.write(tmp_path / "tiny.yaml")
    stages = staged_runs.write(tmp_path / "staged.yaml")
    change = "population.pbt.interval=1"
    outcome = running.mtrl("train", plain, change, "--check")
    assert outcome.code == 0 and not outcome.err
    first, *notes = outcome.out.splitlines()
    assert first == (
        "impala, 4 members of 4 slots on action, memory: 40 updates in chunks of 2, 640 "
        "env steps of a member"
    )
    assert notes[0].startswith("population.pbt.interval=1: rounds come between chunks")
    lines = running.mtrl("train", stages, "--check").out.splitlines()
    named = [line.partition(":")[0] for line in lines]
    assert named == [
        "source",
        "3 histories of 60 steps on 2 tasks",
        "model",
        "in_context",
    ]
    for given in (
        [plain, "agent.config.network.core=x"],
        [stages, "stages.1.agent.config.network.core=x"],
        [plain, "--run-dir", tmp_path],
    ):
        assert running.mtrl("train", *given, "--check").code == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["staged.yaml", "tiny.yaml"]


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train"], ["evaluate", "x", "--episodes", "0"]]
)
def test_a_command_that_is_none_ends_with_two(arguments):
    """What the parser itself refuses is no traceback either."""
    outcome = running.mtrl(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert outcome.err


def test_a_mistake_in_the_kit_keeps_its_traceback(monkeypatch):
    """Only errors that are the user's to read become one line."""
    monkeypatch.setattr(cli, "app", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_evaluate_prints_json_and_writes_nothing(finished, cached):
    """stdout is one JSON object: the newest update, every task and member."""
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    outcome = running.mtrl("evaluate", finished, "--json", "--episodes", 6)
    assert outcome.code == 0
    printed = json.loads(outcome.out)
    assert printed["update"] == running.UPDATES
    assert list(printed["tasks"]) == ["probe/action", "probe/memory"]
    for task in printed["tasks"].values():
        assert [m["member"] for m in task["members"]] == [0, 1, 2, 3]
        assert all(m["episodes"] == 6 for m in task["members"])
        low, high = task["members"][0]["interval"]
        assert low <= task["members"][0]["mean"] <= high
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_evaluate_takes_a_seed_a_member_and_a_file(finished, cached, tmp_path):
    """Other episodes, the same again of the same seed; one member's are as among all."""
    out = tmp_path / "new" / "found.json"
    given = ("evaluate", finished, "--episodes", 6, "--seed", 7)
    every = json.loads(running.mtrl(*given, "--json").out)
    outcome = running.mtrl(*given, "--member", 2, "--out", out)
    assert f"best #{every['best_member']}" in outcome.out
    one = json.loads(out.read_text())
    for name, task in every["tasks"].items():
        (own,) = one["tasks"][name]["members"]
        assert own == task["members"][2] and one["tasks"][name]["mean"] == own["mean"]
    other = json.loads(running.mtrl(*given[:-1], 8, "--json").out)
    assert other["tasks"] != every["tasks"]
    for refused, said in (
        (("--member", 4), "--member 4: the run has members 0 to 3"),
        (("--out", "x.txt"), "ends in .json"),
        (("--out", "/proc/x.json"), "--out /proc/x.json: cannot be made in /proc"),
    ):
        outcome = running.mtrl("evaluate", finished, *refused)
        assert outcome.code == 2 and said in outcome.error


def test_evaluate_repeats_the_final_evaluation(finished, cached):
    """The same checkpoint, keys and episodes give the numbers of the summary."""
    outcome = running.mtrl("evaluate", finished)
    assert outcome.out.startswith(f"checkpoint of update {running.UPDATES}")
    summary = metrics.read_summary(finished)["tasks"]
    for name, task in summary.items():
        lines = [line for line in outcome.out.splitlines() if line.startswith(name)]
        assert [float(line.split()[2]) for line in lines] == [
            pytest.approx(member["mean"], abs=1e-3) for member in task["members"]
        ]


def test_plot_draws_a_run(finished, tmp_path):
    """It prints the paths of the pictures, which can be opened."""
    subprocess.run(["cp", "-r", finished, tmp_path / "run"], check=True)
    outcome = running.mtrl("plot", tmp_path / "run")
    assert outcome.code == 0
    paths = outcome.out.split()
    assert len(paths) >= 3
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 100


def test_out_is_obeyed_for_a_single_run_too(finished, tmp_path):
    """And what can be no picture is one line."""
    out = tmp_path / "one.png"
    assert running.mtrl("plot", finished, "--out", out).out.strip() == str(out)
    assert out.exists()
    outcome = running.mtrl("plot", finished, "--out", tmp_path / "x.foo")
    assert outcome.code == 2
    assert "ends in '.foo'" in outcome.error


def test_help_shows_defaults(tmp_path):
    """Brackets are text, not markup."""
    assert "[default: runs/CONFIG-TIME]" in running.mtrl("train", "--help").out
    assert "[default: the best]" in running.mtrl("render", "--help").out


@pytest.mark.parametrize("what", ["agents", "configs"])
def test_a_list_has_columns(what, monkeypatch):
    """What is said of each begins in one place, however long a name is."""
    monkeypatch.chdir(pathlib.Path(__file__).parents[1])
    lines = list(listing.lines(what))
    width = max(len(line.split()[0]) for line in lines) + 2
    for line in lines:
        assert line[:width].strip() == line.split()[0]
        assert line[width] != " "


def test_no_configs_anywhere_is_said(monkeypatch, tmp_path):
    """Instead of an empty list; an installation brings its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(listing, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    monkeypatch.setattr(listing.sysconfig, "get_path", lambda name: str(tmp_path))
    outcome = running.mtrl("list", "configs")
    assert outcome.code == 2
    assert "there are none in" in outcome.error
    installed = tmp_path / "share" / "mtrl_jax" / "configs"
    installed.mkdir(parents=True)
    (installed / "own.yaml").write_text("# Mine: from the wheel.\n")
    assert "Mine: from the wheel." in running.mtrl("list", "configs").out


def test_a_mean_says_how_many_of_its_episodes_were_cut():
    """They did not end in time, and count with what they had."""
    member = {"episodes": 0, "unfinished": 4}
    assert "none of 4 ended in evaluation.max_steps" in report.episodes(member)
    said = report.episodes({"episodes": 3, "unfinished": 1})
    assert said == "over 4 episodes, 1 of them cut by evaluation.max_steps"
    assert report.episodes({"episodes": 3, "unfinished": 0}) == "over 3 episodes"


def test_plot_compares_runs(finished, tmp_path):
    """Several runs make one picture where --out says."""
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", finished, other], check=True)
    out = tmp_path / "both.png"
    outcome = running.mtrl("plot", finished, other, "--out", out)
    assert outcome.code == 0
    assert outcome.out.strip() == str(out)
    with Image.open(out) as image:
        assert min(image.size) > 100


def test_a_run_that_logged_nothing_is_not_drawn(finished, tmp_path):
    """One line says so instead of a traceback."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text((finished / "config.yaml").read_text())
    outcome = running.mtrl("plot", run)
    assert outcome.code == 2
    assert "nothing logged yet" in outcome.error
    (run / "metrics.jsonl").write_text("")
    assert "nothing was logged" in running.mtrl("plot", finished, run).error


def test_a_run_gets_a_folder_of_its_own_with_events_and_pictures(
    tmp_path, cached, monkeypatch
):
    """Without --run-dir: runs/CONFIG-TIME; what logging says is there."""
    monkeypatch.chdir(tmp_path)
    config = running.write(tmp_path / "mine.yaml", "training.env_steps=64")
    outcome = running.mtrl("train", config, "logging={}")
    assert outcome.code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("mine-")
    assert outcome.out == f"run folder: {run.relative_to(tmp_path)}\n"
    assert list((run / "tensorboard").glob("events.*"))
    assert len(list((run / "plots").glob("*.png"))) >= 3
    assert "100%" in outcome.err
    assert "final evaluation" in outcome.err
    # Two members without a replay, at the start of the run.
    assert re.search(r"memory: .*\(learner .*B, rollout .*B\)", outcome.err)
