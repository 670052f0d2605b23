"""Bad input and faults, through the command line: one line says what, at no run's cost."""

import os
import subprocess

import numpy as np
import pytest
import running

from mtrl_jax import checkpoint, errors, hparams, metrics
from mtrl_jax.config import loading
from mtrl_jax.experiments import build, kinds, online, reading, runs
from mtrl_jax.plots import returns as returns_plot
from mtrl_jax.plots import run_series
from mtrl_jax.training import lock, loop, run_folder

# Overrides of the tiny settings -> what the line says: field, given, what would work.
BAD = [
    # Unknown names.
    ("agent.name=impalla", "agent.name 'impalla' did you mean impala"),
    ("tasks.0.env=probe/acton", "tasks.0 'acton' did you mean action"),
    ("tasks.0.env=prob/action", "tasks.0 'prob' did you mean probe"),
    ("tasks.0.env=action", "tasks.0 'action' FAMILY/action"),
    ("tasks.1.env=gymnax/CartPol-v1", "tasks.1 'CartPol-v1' CartPole-v1"),
    ("tasks=[{suite: minatarr}]", "tasks.0.suite 'minatarr' minatar"),
    ("tasks.0.options.lenght=3", "tasks.0 options 'lenght' allowed"),
    ("agent.hparams.learning_rat=1", "agent.hparams.learning_rat learning_rate"),
    ("agent.config.optimizer=adam", "agent.config.optimizer optimiser"),
    ("agent.config.network.hiden=[8]", "agent.config.network.hiden hidden"),
    ("population.search.lr={low: 1, high: 2}", "population.search.lr learning_rate"),
    ("population.pbt.intervall=5", "population.pbt.intervall interval"),
    ("population.pbt.exploit=trunc", "population.pbt.exploit 'trunc' 'truncation'"),
    ("population.fitness.task=probe/x", "population.fitness.task probe/x probe/action"),
    ("evaluation.hparams.temp=0", "evaluation.hparams.temp temperature"),
    ("agent.config.optimiser=adamm", "agent.config.optimiser: 'adamm' adam"),
    ("agent.config.network.core=ltsm", "agent.config.network.core: 'ltsm' 'lstm'"),
    # Unknown override keys, and overrides that are none.
    ("task=3", "task unknown tasks"),
    ("training.unrol_length=3", "training.unrol_length unroll_length"),
    ("nothing.here=3", "nothing unknown seed"),
    ("seed.x=3", "seed"),
    ("tasks.5.slots=3", "tasks.5.slots '5' below 2"),
    ("seed", "'seed' key=value"),
    ("=3", "'=3' key=value"),
    ("seed=[", "'seed=[' YAML"),
    # Wrong types.
    ("tasks.0.slots=two", "tasks.0.slots 'two' integer"),
    ("tasks.0.slots=2.5", "tasks.0.slots 2.5 integer"),
    ("tasks.0.slots=true", "tasks.0.slots True number"),
    ("agent=impala", "agent 'impala' mapping"),
    ("tasks=3", "tasks 3 list"),
    ("agent.hparams.learning_rate=fast", "agent.hparams.learning_rate 'fast' number"),
    ("agent.hparams.learning_rate=.nan", "agent.hparams.learning_rate nan number"),
    ("agent.config.network.core_size=big", "agent.config.network.core_size 'big'"),
    ("population.pbt=4", "population.pbt 4 mapping"),
    ("population.pbt.interval=true", "population.pbt.interval True number"),
    ("training.runner=gpu", "training.runner 'gpu' 'fused' 'host'"),
    ("population.axis=slots", "population.axis 'slots' 'slot' 'population'"),
    # Sizes.
    ("tasks=[]", "tasks [] at least 1"),
    ("tasks.0.slots=0", "tasks.0.slots 0 greater than 0"),
    ("tasks.0.slots=-4", "tasks.0.slots -4 greater than 0"),
    ("population.size=0", "population.size 0 greater than 0"),
    ("training.env_steps=0", "training.env_steps 0 greater than 0"),
    ("training.unroll_length=-3", "training.unroll_length -3 greater than 0"),
    ("training.updates_per_chunk=0", "training.updates_per_chunk 0 greater than 0"),
    ("evaluation.episodes=0", "evaluation.episodes 0 greater than 0"),
    ("evaluation.every_updates=-1", "evaluation.every_updates -1 equal to 0"),
    ("checkpoint.keep=0", "checkpoint.keep 0 greater than 0"),
    ("agent.config.network.hidden=[0]", "agent.config.network.hidden: 0 positive"),
    (
        "agent.config.network.hidden=[99999999999999999999]",
        "agent.config.network.hidden 99999999999999999999 2147483647",
    ),
    (
        "agent.config.network.core_size=-1",
        "agent.config.network.core_size: -1 positive",
    ),
    ("seed=-1", "seed -1 equal to 0"),
    ("seed=4294967296", "seed 4294967296 less than"),
    # What is counted in int32, or cannot be in any memory.
    ("evaluation.max_steps=2147483648", "evaluation.max_steps 2147483648 less than"),
    (
        "training.updates_per_chunk=2147483648",
        "training.updates_per_chunk 2147483648 less than",
    ),
    ("population.fitness.window=200000", "population.fitness.window 200000 100000"),
    ("population.pbt.burn_in=2147483648", "population.pbt burn_in 2147483648 at most"),
    ("tasks.0.slots=2147483647", "tasks.0.slots=2147483647 room for fewer"),
    ("evaluation.episodes=2147483647", "evaluation.episodes=2147483647 room fewer"),
    (
        "evaluation.episodes=2147483647 evaluation.rounds=2147483647",
        "evaluation.episodes=2147483647 results room fewer",
    ),
    ("population.size=2147483647", "population.size=2147483647 room for fewer"),
    ("tasks.0.slots=100000000000000000000", "tasks.0.slots less than"),
    ("tasks.².slots=3", "tasks.².slots '²' no index below 2"),
    # Populations and ranges.
    ("population.size=3", "population.size=3 too small truncation at least 4 'none'"),
    ("population.pbt.fraction=0.9", "population.pbt fraction=0.9 at most 0.5"),
    ("population.search.learning_rate.low=1", "learning_rate low=1.0 high=0.01 swap"),
    ("population.search.learning_rate.low=0", "learning_rate low=0.0 log above 0"),
    ("population.search.learning_rate.high=.inf", "learning_rate high=inf finite"),
    # Parts of the settings that have fields of one name.
    (
        "agent={name: mix_and_match} agent.config.network.experts=0",
        "agent.config.network.experts: 0 at least 1",
    ),
    (
        "agent={name: mix_and_match, config: {components: [{core: foo}]}}",
        "agent.config.components.0.core: 'foo' 'lstm'",
    ),
    ("tasks.0.env=gymnax/Nope", "tasks.0.env: 'Nope' there is CartPole-v1"),
    ("tasks.0.options={x: 1}", "tasks.0.options: 'x' none"),
    ("tasks=[{suite: nope}]", "tasks.0.suite: 'nope' minatar"),
    # What divides what, and what goes with what.
    (
        "population.axis=population population.pbt=null population.size=3",
        "population.size=3 not divisible 2 tasks try 4",
    ),
    ("population.axis=population", "population.pbt population.axis different tasks"),
    (
        "population.pbt.min_episodes=50",
        "population.pbt.min_episodes=50 30 population.fitness.window none at most 30",
    ),
    (
        "population.pbt.min_episodes=50 population.fitness.source=evaluation "
        "evaluation.episodes=20",
        "population.pbt.min_episodes=50 evaluation.episodes at most 20",
    ),
    (
        "agent={name: ppo, config: {minibatches: 3}}",
        "agent.config.minibatches: 3 16 steps",
    ),
    (
        "agent={name: ppo, config: {minibatches: 3, network: {core: lstm}}}",
        "agent.config.minibatches: 3 4 slots",
    ),
    ("training.runner=host tasks.1.slots=3", "tasks.1.slots=3 even"),
    ("tasks.1.env=probe/action_box", "tasks Box Discrete at once"),
    (
        "population.fitness.source=evaluation evaluation.every_updates=0",
        "evaluation.every_updates=0 population.fitness.source interval",
    ),
]


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=[case[0] for case in BAD])
def test_a_bad_setting_is_one_line_and_nothing_is_written(tmp_path, overrides, words):
    """A ConfigError, one line with field, value and a way out, and no folder."""
    run = tmp_path / "run"
    config = running.write(tmp_path / "tiny.yaml")
    given = _split(overrides)
    with pytest.raises(errors.ConfigError) as refused:
        runs.train(loading.load(config, given), run, where=str(config))
    line = str(refused.value)
    assert "\n" not in line
    missing = [word for word in words.split() if word not in line]
    assert not missing, line
    assert line.startswith(("override ", f"{config}: "))
    assert not run.exists()


def _split(overrides):
    """Returns the overrides of a row: an override may hold blanks, but no second "="."""
    parts: list[str] = []
    for word in overrides.split(" "):
        if parts and "=" not in word:
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    return parts


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read No such file"),
        (b"tasks: [{env: probe/action", "not valid YAML line 1"),
        (b"\xff\xfe\x00", "cannot be read not UTF-8"),
        (b"agent: &a {name: ppo, config: *a}", "not valid YAML nested"),
        (b"- 1\n- 2", "a mapping is needed got list"),
        (b"", "a mapping is needed got NoneType"),
        (b"seed: 3", "tasks is missing"),
        (b"tasks: [{slots: 3}]", "tasks.0 either env or suite"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path, content, words):
    """A config that is missing, no YAML or no mapping gives one line with its path."""
    config, run = tmp_path / "x.yaml", tmp_path / "run"
    if content is not None:
        config.write_bytes(content)
    outcome = running.mtrl("train", config, "--run-dir", run)
    assert outcome.code == 2
    assert str(config) in outcome.error
    missing = [word for word in words.split() if word not in outcome.error]
    assert not missing, outcome.error
    assert not run.exists()


@pytest.mark.parametrize(
    "override", ["population.size=3", "nothing.here=3", "agent.name=impalla"]
)
def test_a_bad_setting_ends_the_real_command_the_same_way(tmp_path, override):
    """In a process of its own: one line on stderr, exit code 2, nothing on disk."""
    config, run = running.write(tmp_path / "tiny.yaml"), tmp_path / "run"
    process = running.start("train", config, override, "--run-dir", run)
    outcome = running.ended(process)
    assert outcome.code == 2
    field = override.partition("=")[0]
    # A name in a section that is not there: the section.
    assert field.removesuffix(".here") in outcome.error
    assert outcome.out == ""
    assert not run.exists()


def test_wandb_that_is_not_installed_is_found_before_the_run(tmp_path, monkeypatch):
    """A run that cannot report where it should does not begin."""
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None)
    config, run = running.write(tmp_path / "tiny.yaml"), tmp_path / "run"
    outcome = running.mtrl("train", config, "logging.wandb=x", "--run-dir", run)
    assert outcome.code == 2
    assert "logging.wandb='x'" in outcome.error
    assert "pip install" in outcome.error
    assert not run.exists()


# Folders.


def test_what_a_killed_start_leaves_does_not_block_the_folder(tmp_path):
    """Its lock, a folder of no checkpoints, half of its settings, what tried the place."""
    (tmp_path / "checkpoints").mkdir()
    probe = f"{errors.PROBE}7"
    for name in (lock.LOCK, ".config.yaml.tmp", probe, f"checkpoints/{probe}"):
        (tmp_path / name).write_text("")
    run_folder.check_new(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(errors.ConfigError, match="holds a run"):
        run_folder.check_new(tmp_path)


def test_a_foreign_folder_is_left_alone(tmp_path):
    """A run does not begin among other people's files, nor in a file or below one."""
    config = running.write(tmp_path / "tiny.yaml")
    foreign, file = tmp_path / "thesis", tmp_path / "file"
    foreign.mkdir()
    (foreign / "chapter").write_text("1")
    file.write_text("")
    for run, words in (
        (foreign, "not empty"),
        (file, "is a file"),
        (file / "run", "is a file"),
    ):
        outcome = running.mtrl("train", config, "--run-dir", run)
        assert outcome.code == 2
        assert f"--run-dir {run}" in outcome.error
        assert words in outcome.error
    assert [path.name for path in foreign.iterdir()] == ["chapter"]


def test_a_folder_that_cannot_be_made_is_found_before_the_run_is_built(
    tmp_path, monkeypatch
):
    """Also of its own name; rights do not say so: root has them all."""
    config = running.write(tmp_path / "tiny.yaml")
    monkeypatch.setattr(kinds, "make_program", None)
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    cases = (
        ("/proc/run", "cannot be made in /proc ("),
        (tmp_path / ("x" * 300), f"cannot be made in {tmp_path} (File name too long)"),
        (tmp_path / "link" / "run", "is a link to nothing"),
    )
    for run, words in cases:
        outcome = running.mtrl("train", config, "--run-dir", run)
        assert outcome.code == 2
        assert f"--run-dir {run}: " in outcome.error and words in outcome.error
    monkeypatch.chdir("/proc")
    outcome = running.mtrl("train", config)
    assert outcome.code == 2 and "--run-dir runs/tiny-" in outcome.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "tiny.yaml"]


def test_a_run_is_not_overwritten(finished):
    """Training into a folder that holds a run says how to go on with it."""
    before = _contents(finished)
    config = finished.with_name("run.yaml")
    outcome = running.mtrl("train", config, "--run-dir", finished)
    assert outcome.code == 2
    assert f"mtrl resume {finished}" in outcome.error
    assert _contents(finished) == before


@pytest.mark.parametrize("command", ["resume", "evaluate", "plot"])
def test_a_folder_without_a_run_is_named(tmp_path, command):
    """Commands that need a run say that there is none; nothing is written."""
    for folder in (tmp_path, tmp_path / "none"):
        outcome = running.mtrl(command, folder)
        assert outcome.code == 2
        assert f"{folder}: no run here" in outcome.error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_a_run_without_checkpoints_is_named(tmp_path, finished, command):
    """A run whose checkpoints are gone cannot be gone on with or tested."""
    run = _copy(finished, tmp_path / "run")
    for path in (run / "checkpoints").rglob("*"):
        if path.is_file():
            path.unlink()
    subprocess.run(["rm", "-r", run / "checkpoints"], check=True)
    before = (run / "metrics.jsonl").read_bytes()
    outcome = running.mtrl(command, run)
    assert outcome.code == 2
    assert "no checkpoint" in outcome.error
    assert str(run / "checkpoints") in outcome.error
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_run_in_use_is_not_touched(tmp_path, finished):
    """A second process gets the first one's number and changes nothing."""
    run = _copy(finished, tmp_path / "run")
    with lock.lock(run):
        before = _contents(run)
        outcome = running.mtrl("resume", run)
        assert outcome.code == 2
        assert f"{run} is in use by the process {os.getpid()}" in outcome.error
        assert _contents(run) == before


def test_two_runs_that_begin_in_one_folder_do_not_mix(tmp_path, monkeypatch, cached):
    """Who comes second, after both found the folder empty, is refused."""
    run, other = tmp_path / "run", "seed: 1\n"
    make_program = online.make_program

    def slow(config, *restart, **options):
        run.mkdir()
        (run / run_folder.CONFIG).write_text(other)
        return make_program(config, *restart, **options)

    monkeypatch.setattr(online, "make_program", slow)
    config = running.write(tmp_path / "tiny.yaml")
    outcome = running.mtrl("train", config, "--run-dir", run)
    assert outcome.code == 2
    assert "holds a run" in outcome.error
    assert (run / run_folder.CONFIG).read_text() == other


# Numbers.


@pytest.fixture
def lost_member(monkeypatch):
    """Member 2 of a new run begins with a learning rate that is not a number."""
    _break_members(monkeypatch, [2])


def _break_members(monkeypatch, members):
    initial = build.initial_hparams

    def broken(config, keys):
        hp = initial(config, keys)
        rate = hparams.flatten(hp)["learning_rate"]
        lost = rate.at[np.array(members)].set(np.nan)
        return hparams.override(hp, {"learning_rate": lost})

    monkeypatch.setattr(build, "initial_hparams", broken)


def test_pbt_replaces_a_member_that_is_not_finite(tmp_path, cached, lost_member):
    """The member goes on as a copy of a finite one and the run ends well."""
    run = tmp_path / "run"
    outcome = running.train(run)
    assert "member 2 is not finite at update 8" in outcome.err
    first = metrics.read_lineage(run)[0]
    assert first["source"][2] != 2
    assert np.isfinite(first["hparams_after"]["learning_rate"]).all()
    assert np.isfinite(metrics.read_metrics(run).metrics["loss"][-1]).all()
    assert metrics.read_summary(run)["totals"]["updates"] == running.UPDATES


SWEEP = (
    "population.pbt={exploit: none, interval: 5}",
    "population.search={learning_rate: {low: 1e-4, high: 1e30, log: true, "
    "initial: [1e-4, 1e-3, 1e-2, 1e30]}}",
)


@pytest.mark.parametrize(
    "changes",
    [SWEEP, pytest.param(("population.pbt=null",), marks=pytest.mark.slow)],
)
def test_a_lost_member_ends_no_sweep_nor_its_resume(tmp_path, cached, request, changes):
    """The others go on; it is marked lost in rows, summary and picture."""
    run = tmp_path / "run"
    lost = 3
    if changes is not SWEEP:
        request.getfixturevalue("lost_member")
        lost = 2
    outcome = running.train(run, *changes)
    notes = [line for line in outcome.err.splitlines() if "is not finite" in line]
    assert len(notes) == 1
    assert f"member {lost} is not finite" in notes[0]
    assert "the others go on" in notes[0]
    logged = metrics.read_metrics(run)
    others = np.arange(4) != lost
    assert logged.lost[-1].tolist() == (~others).tolist()
    assert "lost" in running.rows(run)[-1]
    for returns in (logged.returns, logged.evaluation):
        for values in returns.values():
            assert np.isnan(values[logged.lost]).all()
            assert np.isfinite(values[-1, others]).any()
    summary = metrics.read_summary(run)
    assert summary["lost"] == [lost]
    assert summary["best_member"] != lost
    assert summary["score"][lost] is None
    assert summary["totals"]["env_steps"] == _counted(logged)
    figure = returns_plot.of_run(run_series.load(run))
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert f"lost: member {lost}" in labels

    length = f"training.env_steps={(running.UPDATES + 4) * running.STEPS}"
    resumed = running.mtrl("resume", run, length)
    assert resumed.code == 0, resumed.err
    assert metrics.read_summary(run)["lost"] == [lost]
    again = metrics.read_metrics(run)
    assert again.update[-1] == running.UPDATES + 4
    assert metrics.read_summary(run)["totals"]["env_steps"] == _counted(again)


def _counted(logged):
    """Returns the env steps that the rows tell of: of each member until it was lost."""
    each = np.diff(logged.env_steps, prepend=0)
    assert logged.lost.any()
    return (each * (~logged.lost).sum(1)).sum()


@pytest.mark.parametrize(
    "pbt",
    ["null", pytest.param("{interval: 8, min_episodes: 1}", marks=pytest.mark.slow)],
)
def test_a_run_without_a_finite_member_stops(tmp_path, cached, monkeypatch, pbt):
    """Exit code 1, the update named, the last good checkpoint kept."""
    _break_members(monkeypatch, [0, 1, 2, 3])
    run = tmp_path / "run"
    config = running.write(tmp_path / "tiny.yaml", f"population.pbt={pbt}")
    outcome = running.mtrl("train", config, "--run-dir", run)
    assert outcome.code == 1
    line = outcome.err.strip().splitlines()[-1]
    assert line.startswith("mtrl: no member is finite at update 2")
    assert "checkpoint 0 is kept" in line
    assert "Traceback" not in outcome.err
    settings = reading.load_config(run)
    with kinds.restored(kinds.run_of(settings, run), settings) as (update, _, saved):
        assert update == 0
        learner = saved.run.learner
        assert all(np.isfinite(x).all() for x in _floats(learner))


# Disks.


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a file system of its own cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_found_before_training(
    small_disk, tmp_path, cached, monkeypatch
):
    """No step is taken, one line says why, and the folder can be used later."""
    _fill(small_disk)
    monkeypatch.setattr(loop, "run", lambda session: pytest.fail("it trained"))
    config = running.write(tmp_path / "tiny.yaml", "training.env_steps=64")
    run = small_disk / "run"
    outcome = running.mtrl("train", config, "--run-dir", run)
    assert outcome.code == 1
    assert f"{run}" in outcome.error
    assert "No space left" in outcome.error
    monkeypatch.undo()
    (small_disk / "filler").unlink()
    assert running.mtrl("train", config, "--run-dir", run).code == 0


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    small_disk, tmp_path, cached, finished, monkeypatch
):
    """The run ends with one line; given space, it goes on to the same numbers."""
    save = checkpoint.save

    def save_and_fill(manager, step, *state, **named):
        save(manager, step, *state, **named)
        if step == 12:
            checkpoint.wait(manager)
            _fill(small_disk)

    monkeypatch.setattr(checkpoint, "save", save_and_fill)
    config, run = running.write(tmp_path / "tiny.yaml"), small_disk / "run"
    outcome = running.mtrl("train", config, "--run-dir", run)
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    line = outcome.err.strip().splitlines()[-1]
    assert line.startswith("mtrl: ")
    assert str(run) in line
    assert "No space left" in line
    monkeypatch.undo()
    (small_disk / "filler").unlink()
    assert running.checkpoints(run) == [0, 12]
    assert running.mtrl("resume", run).code == 0
    running.assert_same(run, finished)


def _fill(disk):
    """Leaves no byte on the disk."""
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def _copy(run, to):
    subprocess.run(["cp", "-r", run, to], check=True)
    return to


def _contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _floats(tree):
    import jax

    leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
    return [x for x in leaves if x.dtype.kind == "f"]
