"""A run of an agent and an environment that the package does not know, as a user has them."""

import json
import pathlib
import re
import shutil

import pytest
import running
import yaml

import mtrl_jax
from mtrl_jax import config, envs, random

HERE = pathlib.Path(__file__).parent
README = HERE.parents[1] / "README.md"
SETTINGS = {
    "tasks": [
        {
            "env": "corridor/short",
            "slots": 4,
            "options": {"wrappers": {"reward_scale": 3.0, "time_in_episode": 20}},
        }
    ],
    "agent": {"name": "williams"},
    "population": {"size": 2},
    "training": {"env_steps": 24000, "unroll_length": 20, "updates_per_chunk": 20},
    "evaluation": {"every_updates": 0, "episodes": 8, "max_steps": 100},
    "checkpoint": {"every_updates": 40},
    "logging": {"tensorboard": False, "plots": False},
}

pytestmark = pytest.mark.usefixtures("cached")


@pytest.fixture(name="project", scope="module")
def _project(tmp_path_factory):
    """A folder with a config, the README's environment and an agent, and nothing else."""
    folder = tmp_path_factory.mktemp("project")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (corridor,) = [block for block in blocks if block.startswith("# corridor.py")]
    (folder / "corridor.py").write_text(corridor)
    shutil.copy(HERE / "reinforce.py", folder / "williams.py")
    (folder / "own.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


@pytest.fixture(name="run", scope="module")
def _run(project, tmp_path_factory):
    """A run of it in another folder, from the first to the last update."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    outcome = running.mtrl("train", project / "own.yaml", "--run-dir", folder)
    assert outcome.code == 0, outcome.err
    return folder


def test_an_agent_is_a_file_of_sixty_lines_and_a_line_of_the_config():
    """No file of the package names it, and the contract tests do in one place."""
    assert len((HERE / "reinforce.py").read_text().splitlines()) <= 60
    package = HERE.parents[1] / "mtrl_jax"
    assert not [
        x for x in package.rglob("*.py") if "outside.reinforce" in x.read_text()
    ]


def test_it_learns(run):
    """The way to the right is found: a return near (1 + 2 + 3) / 3."""
    task = json.loads((run / "summary.json").read_text())["tasks"]["corridor/short"]
    found = yaml.safe_load((run / "config.yaml").read_text())
    assert found["tasks"][0]["env"].startswith("corridor/short@")
    best = max(x["mean"] for x in task["members"])
    # In the environment's own unit: three times as much is what the agent learns from.
    assert 1.5 < best <= 2.0 + 1e-4, task


def test_in_a_new_process_the_run_goes_on_with_the_same_bits(
    project, run, tmp_path, cached
):
    """From wherever it is resumed: the file is where the config was."""
    other = tmp_path / "other"
    running.mtrl_ending_at(120, "train", project / "own.yaml", "--run-dir", other)
    outcome = running.ended(running.start("resume", other, cache=cached))
    assert outcome.code == 0, outcome.err
    assert running.rows(other) == running.rows(run)
    assert running.bits(other) == running.bits(run)


def test_evaluate_and_render_find_the_files(run, tmp_path):
    """Both make the environment and the agent again."""
    outcome = running.mtrl("evaluate", run, "--episodes", 4, "--json")
    assert list(json.loads(outcome.out)["tasks"]) == ["corridor/short"]
    outcome = running.mtrl("render", run, "--out", tmp_path / "run.gif", "--steps", 5)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run.gif").stat().st_size > 100


def test_an_environment_is_rendered_without_a_run(project, tmp_path):
    """By its module and folder."""
    name = f"corridor/short@{project}"
    outcome = running.mtrl("render", name, "--out", tmp_path / "env.gif", "--steps", 3)
    assert outcome.code == 0, outcome.err


def test_a_run_whose_file_is_gone_says_where_it_was(run, tmp_path):
    """In one line, and nothing is written."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["agent"]["name"] = f"gone_agent@{tmp_path}"
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    error = running.mtrl("evaluate", copy).error
    for part in (
        "agent.name='gone_agent@",
        f"no gone_agent.py in {tmp_path}",
        "PYTHONP",
    ):
        assert part in error


def test_a_file_that_has_changed_is_noticed_when_the_run_goes_on(
    project, run, tmp_path
):
    """In one line, and it goes on; nothing is said of files that are as they were."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    noticed = "its file has changed since it made update"
    outcome = running.mtrl("resume", copy)
    assert outcome.code == 0 and noticed not in outcome.err
    file = project / "williams.py"
    before = file.read_text()
    try:
        file.write_text(f"{before}# better\n")
        outcome = running.mtrl("resume", copy)
    finally:
        file.write_text(before)
    assert outcome.code == 0
    lines = [line for line in outcome.err.splitlines() if noticed in line]
    assert len(lines) == 1 and "williams: " in lines[0]


def test_bad_files_leave_no_run_behind(project, tmp_path):
    """One line and exit code 2, before a folder is made."""
    (project / "empty_agent.py").write_text("")
    for change, parts in (
        ("agent.name=empty_agent", ["agent.name='empty_agent@", "offers no Config"]),
        (
            "tasks.0.env=empty_agent/x",
            ["tasks.0", "empty_agent offers no names and no t"],
        ),
        ("tasks.0.env=corridor/long", ["tasks.0", "corridor/long is unknown", "short"]),
        (
            "tasks.0.options.wrappers.frames=2",
            ["tasks.0", "wrappers.frames is unknown"],
        ),
    ):
        given = ("train", project / "own.yaml", change, "--run-dir", tmp_path / "run")
        outcome = running.mtrl(*given)
        assert outcome.code == 2
        for part in parts:
            assert part in outcome.error
        assert not (tmp_path / "run").exists()


def test_the_settings_of_the_run_are_settings(run):
    """Read from its folder they are what was given; names say where the files are."""
    found = config.load(run / "config.yaml")
    assert found.agent.name.startswith("williams@")
    assert found.tasks[0].options == SETTINGS["tasks"][0]["options"]
    for section in ("training", "evaluation", "logging"):
        given = config.to_dict(found)[section]
        assert given.items() >= SETTINGS[section].items()


def test_a_run_is_loaded_and_plays(run):
    """Its agent and environment are found where they were, wrappers are part of them."""
    policy = mtrl_jax.load(run).policy()
    corridor = envs.make(*_task_of(run))
    state, ts = corridor.reset(random.roots(0, 1), corridor.params)
    total = 0.0
    for _ in range(10):
        obs = {name: x[0, 0] for name, x in ts.obs.items()}
        action = policy(obs)
        state, ts = corridor.step(state, action[None, None], corridor.params)
        total += float(ts.reward[0, 0]) / 3.0
        if ts.last[0, 0]:
            break
    assert ts.last[0, 0] and total > 0.0


def _task_of(run):
    """Returns the arguments of envs.make of the run's only task."""
    task = config.load(run / "config.yaml").tasks[0]
    return task.env, (1, 1), task.options
