"""Pictures drawn from a run folder's files alone."""

import os
import subprocess
import sys
import warnings

import numpy as np
import PIL.Image
import pytest
import running
import yaml

from mtrl_jax import errors, metrics, plots
from mtrl_jax.plots import (
    figures,
    hyperparameters,
    lineage,
    measures,
    returns,
    run_series,
    tasks,
)

STEPS = 60


def make_run(run, population=8, seed=0, pbt=True, speed=1.0, config=True):
    """Writes the files of a plausible run of three tasks."""
    rng = np.random.default_rng(seed)
    lr = 10 ** rng.uniform(-5, -2, population)
    cost = rng.uniform(0.0, 0.1, population)
    skill, ancestor = np.zeros(population), np.arange(population)
    with metrics.MetricsWriter(run, tensorboard=False) as writer:
        for chunk in range(1, STEPS + 1):
            skill += 0.03 * speed * np.exp(-((np.log10(lr) + 3.2) ** 2))
            level = np.clip(skill, 0, 1)
            noise = lambda: 0.04 * rng.normal(size=population)  # noqa: E731
            maze = 20 * level**3 + 5 * noise()
            writer.write(
                update=50 * chunk,
                env_steps=50 * 640 * chunk,
                wall_s=2.0 * chunk,
                steps_per_s=1e5,
                compiles=1,
                metrics={"loss": 1 - level},
                returns={
                    "Catch": np.tanh(3 * level) + noise(),
                    "Breakout": 28 * level**2 + 10 * noise(),
                    "MemoryMaze": np.where(chunk % 3 == 0, maze, np.nan),
                },
                hparams={
                    "learning_rate": lr,
                    "entropy_cost": cost,
                    "discount": np.full(population, 0.99),
                },
            )
            if pbt and chunk % 5 == 0:
                source = np.arange(population)
                order = np.argsort(skill + 0.05 * rng.normal(size=population))
                k = population // 4
                source[order[:k]] = rng.choice(order[-k:], k)
                before = {"learning_rate": lr, "entropy_cost": cost}
                copied = source != np.arange(population)
                lr = np.where(
                    copied, lr[source] * rng.choice([1.2, 1 / 1.2], population), lr
                )
                cost = np.where(copied, np.clip(cost[source] + 0.01, 0, 0.1), cost)
                score, skill = skill.copy(), skill[source]
                ancestor = ancestor[source]
                writer.write_lineage(
                    update=50 * chunk,
                    score=score,
                    source=source,
                    ancestor=ancestor,
                    hparams_before=before,
                    hparams_after={"learning_rate": lr, "entropy_cost": cost},
                )
    if config:
        search = {
            "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
            "entropy_cost": {"low": 0.0, "high": 0.1},
        }
        text = yaml.safe_dump({"population": {"size": population, "search": search}})
        (run / "config.yaml").write_text(text)
        scores = {"Breakout": {"random_score": 0.5, "reference_score": 28.0}}
        metrics.write_summary(run, {"tasks": scores})
    return run


def _size(path):
    with PIL.Image.open(path) as image:
        image.load()
        # A blank picture has one colour; a drawn one has many.
        assert (
            len(image.convert("P", palette=PIL.Image.Palette.ADAPTIVE).getcolors()) > 20
        )
        return image.size


def _labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("words", ["x", "a label that is long enough"])
def test_a_legend_is_inside_its_picture(count, words):
    """However long its entries are; short ones are in one line."""
    figure, panels = figures.panels_of(count)
    for i in range(6):
        panels[0].plot([0, 1], label=f"{words} {i}")
    figures.shared_legend(figure, panels)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    if (count, words) == (6, "x"):
        assert legend._ncols == 6


def finished(run, population=8):
    """Returns the run with the members' final scores in its summary."""
    scores = {"random_score": 0.0, "reference_score": 10.0}
    means = [2.0 + p for p in range(population - 1)] + [13.0]
    members = [{"member": p, "mean": x, "episodes": 4} for p, x in enumerate(means)]
    tasks = {n: {**scores, "members": members} for n in ("Catch", "suite/Breakout")}
    metrics.write_summary(run, {"tasks": tasks, "best_member": 3})
    return run


@pytest.mark.parametrize("limit", [1, 2, 7, 150, 4_000_000])
def test_what_is_counted_has_whole_ticks(limit):
    """Two episodes have no place between them (``250m`` of one)."""
    figure, panels = figures.panels_of(2)
    figures.label(figure, panels, limit, "episode", "return")
    figure.draw_without_rendering()
    for panel in panels:
        ticks = panel.get_xticks()
        assert len(ticks) >= 2 and np.all(ticks == np.round(ticks)), ticks
        assert not any("m" in label.get_text() for label in panel.get_xticklabels())


def test_a_run_gives_its_pictures(tmp_path):
    """Returns, schedules, measures, lineage, tasks at the end; nothing else is left."""
    run = finished(make_run(tmp_path / "run"))
    drawn = plots.draw(run)
    assert [p.name for p in drawn] == [
        "returns.png",
        "hyperparameters.png",
        "metrics.png",
        "tasks.png",
        "lineage.png",
    ]
    assert sorted(p.name for p in (run / "plots").iterdir()) == sorted(
        p.name for p in drawn
    )
    assert all(min(_size(path)) > 300 for path in drawn)


def test_returns_show_band_median_best_and_known_scores(tmp_path):
    """One panel per task, and the dashed lines where the summary knows the scores."""
    run = run_series.load(make_run(tmp_path / "run"))
    figure = returns.of_run(run)
    assert [a.get_title() for a in figure.axes] == ["Catch", "Breakout", "MemoryMaze"]
    assert _labels(figure) == [
        "training, 10–90 %",
        "training, min–max",
        "training, median",
        f"training, best member ({run.best})",
        "random score",
        "reference score",
    ]
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    median = np.median(run.rows.returns["Breakout"], axis=1)
    drawn = lines["training, median"]
    np.testing.assert_allclose(drawn.get_ydata(), median)
    np.testing.assert_array_equal(drawn.get_xdata(), run.rows.env_steps)
    assert lines["reference score"].get_ydata()[0] == 28.0
    # Chunks without a finished episode are left out, not drawn as gaps.
    assert len(figure.axes[2].get_lines()[0].get_xdata()) == STEPS // 3


def test_evaluations_are_dots_beside_the_lines_of_training(tmp_path):
    """Of one run and of several; a task that is only tested has a panel too."""
    run = run_series.load(make_run(tmp_path / "run"))
    tested = np.full((STEPS, 8), np.nan)
    tested[9::10] = np.arange(8)
    rows = run.rows._replace(evaluation={"Catch": tested, "Held": tested + 1})
    run = run._replace(rows=rows, best=7)
    figure = returns.of_run(run)
    titles = [a.get_title() for a in figure.axes[:4]]
    assert titles == ["Catch", "Breakout", "MemoryMaze", "Held"]
    for panel, shift in ((figure.axes[0], 0), (figure.axes[3], 1)):
        lines = {line.get_label(): line for line in panel.get_lines()}
        median, best = lines["evaluation, median"], lines["evaluation, best member (7)"]
        np.testing.assert_array_equal(median.get_xdata(), rows.env_steps[9::10])
        np.testing.assert_array_equal(median.get_ydata(), [3.5 + shift] * 6)
        np.testing.assert_array_equal(best.get_ydata(), [7 + shift] * 6)

    both = returns.of_runs([run, run._replace(name="other")])
    assert [a.get_title() for a in both.axes[:4]] == titles
    names = {f"{n}, {w}" for n in ("run", "other") for w in ("training", "evaluation")}
    assert names <= set(_labels(both))


def test_measures_show_median_and_best_of_every_metric(tmp_path):
    """One panel a metric; what is not finite anywhere has none."""
    run = run_series.load(make_run(tmp_path / "run"))
    run.rows.metrics["nothing"] = np.full((STEPS, 8), np.nan)
    figure = measures.of_run(run)
    assert [a.get_title() for a in figure.axes] == ["loss"]
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    median = np.median(run.rows.metrics["loss"], axis=1)
    np.testing.assert_allclose(lines["median"].get_ydata(), median)
    best = run.rows.metrics["loss"][:, run.best]
    np.testing.assert_allclose(lines[f"best member ({run.best})"].get_ydata(), best)


def test_tasks_are_bars_of_the_final_scores(tmp_path):
    """Normalised where every task has scores; not before there is an evaluation."""
    run = make_run(tmp_path / "run")
    assert tasks.of_run(run_series.load(run)) is None
    figure = tasks.of_run(run_series.load(finished(run)))
    (panel,) = figure.axes
    heights = [patch.get_height() for patch in panel.patches]
    np.testing.assert_allclose(heights, [0.6, 0.6])
    assert [t.get_text() for t in panel.get_xticklabels()] == ["Catch", "Breakout"]
    best = next(x for x in panel.get_lines() if x.get_label() == "best member (3)")
    np.testing.assert_allclose(best.get_ydata(), [0.5])


def test_a_task_without_a_value_says_so(tmp_path):
    """An empty place would read as a score of 0."""
    run = make_run(tmp_path / "run")
    found = {
        name: {"members": [{"member": p, "mean": x, "episodes": 4} for p in range(8)]}
        for name, x in (("Catch", 1.0), ("Breakout", float("nan")))
    }
    metrics.write_summary(run, {"tasks": found, "best_member": 0})
    (panel,) = tasks.of_run(run_series.load(run)).axes
    assert len(panel.patches) == 1
    (said,) = panel.texts
    assert (said.get_text(), said.get_position()[0]) == ("no value", 1)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.9, 0.999, ["0.9", "0.95", "0.98", "0.99", "0.995", "0.998", "0.999"]),
        (0.93, 0.94, ["0.9", "0.95"]),
        (0.0, 0.9999, ["0", "0.9", "0.99", "0.999", "0.9999"]),
        (0.5, 0.9999999, ["0.9", "0.99", "0.999", "0.9999", "0.99999", "0.999999"]),
    ],
)
def test_what_is_drawn_by_its_complement_has_an_axis_of_that(low, high, ticks):
    """A discount of 0.99 and one of 0.999 are as far apart as 0.9 and 0.99."""
    figure, (panel,) = figures.panels_of(1)
    panel.plot([0, 1], [low, high])
    figures.scale(panel, "complement")
    figure.draw_without_rendering()
    shown = [text.get_text() for text in panel.get_yticklabels()]
    assert shown[: len(ticks)] == ticks
    bottom, top = panel.get_ylim()
    assert bottom <= low and top >= high and len(shown) <= len(ticks) + 1
    places = panel.transData.transform([(0, 0.9), (0, 0.99), (0, 0.999)])[:, 1]
    np.testing.assert_allclose(*np.diff(places), rtol=1e-3)


def test_a_range_says_which_axis_its_hyperparameter_has(tmp_path):
    """Log and complement together; without log the plain one."""
    run = run_series.load(make_run(tmp_path / "run"))
    for drawn, scale in (
        ({"log": True, "complement": True}, "complement"),
        ({"complement": True}, "linear"),
        ({"log": True}, "log"),
    ):
        one = run._replace(search={"discount": drawn})
        assert run_series.scale_of(one, "discount") == scale
    swept = run._replace(search={"learning_rate": {"initial": [1e-5, 1e-2]}})
    assert run_series.scale_of(swept, "learning_rate") == "log"
    figure = hyperparameters.of_run(
        run._replace(search={"discount": {"log": True, "complement": True}})
    )
    figure.draw_without_rendering()


def test_schedules_have_one_line_per_member_and_a_mark_per_copy(tmp_path):
    """Searched hyperparameters only; a logarithmic axis where the range is."""
    run = run_series.load(make_run(tmp_path / "run"))
    figure = hyperparameters.of_run(run)
    assert [a.get_title() for a in figure.axes] == ["learning_rate", "entropy_cost"]
    assert [a.get_yscale() for a in figure.axes] == ["log", "linear"]
    lines = figure.axes[0].get_lines()
    assert len(lines) == 8 + 1
    assert len(lines[-1].get_xdata()) == 12 * 2
    assert sorted(_labels(figure)) == sorted(
        ["members", f"best member ({run.best})", "copy"]
    )


def test_equal_scores_have_equal_ranks():
    """Lines of a lineage are as thick as a member is good; NaN is lowest."""
    for score, ranks in (
        ([1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]),
        ([3.0, 1.0, 3.0], [0.75, 0.0, 0.75]),
        ([np.nan, -5.0, 2.0], [0.0, 0.5, 1.0]),
        ([7.0], [1.0]),
    ):
        np.testing.assert_array_equal(run_series.ranks(np.array(score)), ranks)


def test_a_scheduled_hyperparameter_is_one_line(tmp_path):
    """Beside the searched ones, if any: members are alike, copies change nothing."""
    folder = make_run(tmp_path / "run")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["agent"] = {"schedules": {"discount": {"kind": "linear"}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    run = run_series.load(folder)
    figure = hyperparameters.of_run(run)
    names = ["learning_rate", "entropy_cost", "discount"]
    assert [a.get_title() for a in figure.axes] == names
    (line,) = figure.axes[2].get_lines()
    values = run.rows.hparams["discount"][:, 0]
    np.testing.assert_array_equal(line.get_ydata(), [values[0], *values])
    np.testing.assert_array_equal(line.get_xdata(), [0, *run.rows.env_steps])
    assert "schedule, all members" in _labels(figure)

    settings["population"]["search"] = {}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    alone = hyperparameters.of_run(run_series.load(folder))
    assert [a.get_title() for a in alone.axes] == ["discount"]


def test_a_rate_that_decays_is_drawn_as_it_was_in_effect(tmp_path):
    """Beneath what it is set to; also where nothing else moves it."""
    run = run_series.load(make_run(tmp_path / "run"))
    set_to = run.rows.hparams["learning_rate"]
    measured = set_to * np.linspace(1, 0, STEPS)[:, None]
    run.rows.metrics["learning_rate"] = measured
    alone = run._replace(search={}, schedules={})
    for one in (run, alone):
        figure = hyperparameters.of_run(one)
        (line,) = [x for x in figure.axes[0].lines if "in effect" in x.get_label()]
        assert line.get_label() == f"in effect, best member ({run.best})"
        np.testing.assert_array_equal(line.get_ydata(), measured[:, run.best])
    assert [a.get_title() for a in figure.axes] == ["learning_rate"]


def test_the_tree_joins_every_copy_to_its_source(tmp_path):
    """Lives keep their slot, copies start at the source and carry its ancestor."""
    run = run_series.load(make_run(tmp_path / "run"))
    segments = lineage.segments_of(run)
    copies = [s for s in segments if s.copied]
    assert len(copies) == 12 * 2
    i = 0
    ancestor = np.arange(8)
    for row in run.rounds:
        source = row["source"].astype(int)
        for member in np.flatnonzero(source != np.arange(8)):
            points = copies[i].points
            assert points[0, 1] == source[member]
            assert points[-1].tolist() == [row["update"], member]
            assert copies[i].ancestor == ancestor[source[member]]
            i += 1
        ancestor = ancestor[source]
    last = [s for s in segments if not s.copied][-8:]
    assert [s.ancestor for s in last] == ancestor.tolist()
    assert all(s.points[-1, 0] == run.rows.update[-1] for s in last)


@pytest.mark.parametrize("population, pbt", [(1, False), (3, False), (40, True)])
def test_other_populations_are_drawn(tmp_path, population, pbt):
    """A single member, random search without rounds, and more members than colours."""
    run = make_run(tmp_path / "run", population, pbt=pbt)
    names = [path.name for path in plots.draw(run)]
    assert ("lineage.png" in names) == pbt and "returns.png" in names


def test_without_config_the_moving_hyperparameters_are_drawn(tmp_path):
    """config.yaml is a help, no need."""
    run = run_series.load(make_run(tmp_path / "run", config=False))
    figure = hyperparameters.of_run(run)
    assert [a.get_title() for a in figure.axes] == ["learning_rate", "entropy_cost"]
    assert figure.axes[0].get_yscale() == "log"


def test_a_run_without_episodes_is_drawn(tmp_path):
    """All returns NaN so far: empty panels, no error."""
    with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(
            update=1, env_steps=64, wall_s=1.0, steps_per_s=1.0, compiles=1,
            metrics={}, returns={"Catch": np.full(2, np.nan)}, hparams={"lr": np.ones(2)},
        )  # fmt: skip
    assert [path.name for path in plots.draw(tmp_path)] == ["returns.png"]


def test_runs_are_compared_by_name(tmp_path):
    """One colour a run, panels for every task of any."""
    made = [make_run(tmp_path / n, speed=s) for n, s in (("pbt", 1.5), ("search", 0.7))]
    out = plots.compare(made, tmp_path / "out" / "compare.png")
    assert _size(out)[0] > 1000
    with pytest.raises(ValueError, match="no run to compare"):
        plots.compare([], out)
    with pytest.raises(ValueError, match="not a run folder"):
        plots.compare([tmp_path / "nothing"], out)


def test_runs_of_one_name_are_set_apart(tmp_path):
    """As much of their paths as it takes; the same folder twice is one name."""
    made = [make_run(tmp_path / n / "run") for n in ("a", "b")]
    assert run_series.distinct_names(made) == ["a/run", "b/run"]
    assert run_series.distinct_names([*made, made[0]]) == ["a/run", "b/run", "a/run"]
    assert run_series.distinct_names(made[:1]) == ["run"]
    assert plots.compare(made, tmp_path / "both.png").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("x.foo", "ends in '.foo'"), ("folder", "is a folder")]
)
def test_an_output_that_is_no_picture_is_refused(tmp_path, name, words):
    """Before anything is read or drawn."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(errors.ConfigError, match=words):
        plots.compare([tmp_path / "nothing"], tmp_path / name)


def test_runs_without_returns_are_compared_by_what_they_measured(tmp_path):
    """Two offline stages have losses."""
    for name in ("a", "b"):
        with metrics.MetricsWriter(tmp_path / name, tensorboard=False) as writer:
            writer.write(
                update=1, env_steps=64, wall_s=1.0, steps_per_s=1.0, compiles=1,
                metrics={"loss": np.ones(2)}, returns={}, hparams={"lr": np.ones(2)},
            )  # fmt: skip
    runs = [run_series.load(tmp_path / name) for name in ("a", "b")]
    figure = returns.of_runs(runs)
    assert [a.get_title() for a in figure.axes] == ["loss"]
    assert _labels(figure) == ["a", "b"]
    assert figure.get_supxlabel() == "steps learned from"
    # Beside one that has returns there is nothing to show of it, nor room on the axis.
    other = run_series.load(make_run(tmp_path / "run"))
    long = runs[0]._replace(rows=runs[0].rows._replace(env_steps=np.array([1e9])))
    both = returns.of_runs([other, long])
    assert "a: no returns" in _labels(both)
    assert both.get_supxlabel() == "env steps per member"
    assert both.axes[0].get_xlim()[1] == other.rows.env_steps[-1]
    for run in runs:
        run.rows.metrics.clear()
    with pytest.raises(ValueError, match="nothing that could be compared"):
        returns.of_runs(runs)


def test_returns_of_frozen_weights_are_not_called_training(tmp_path):
    """Those of an evaluate stage, whose settings say whose weights they are."""
    run = make_run(tmp_path / "run", config=False)
    (run / "config.yaml").write_text("kind: evaluate\nof: model\n")
    found = run_series.load(run)
    for figure in (returns.of_run(found), returns.of_runs([found])):
        labels = _labels(figure)
        assert not [x for x in labels if "training" in x]
        assert any("frozen weights" in x for x in labels)


def test_a_users_settings_and_backend_change_nothing(tmp_path):
    """In a process whose MPLBACKEND is not there and whose matplotlibrc is odd."""
    run = finished(make_run(tmp_path / "run"))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 7\n")
    code = f"from mtrl_jax import plots; print(len(plots.draw({str(run)!r})))"
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        cwd=tmp_path,
        env=os.environ
        | {"MPLBACKEND": "no-such-backend", "PYTHONPATH": str(running.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "5\n", done.stderr
    assert "Warning" not in done.stderr


def test_a_final_evaluation_without_episodes_is_drawn_without_warnings(tmp_path):
    """Means of nothing are NaN."""
    run = make_run(tmp_path / "run")
    nothing = [{"member": p, "mean": float("nan"), "episodes": 0} for p in range(8)]
    found = {name: {"members": nothing} for name in ("Catch", "Breakout")}
    metrics.write_summary(run, {"tasks": found, "best_member": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (run / "plots" / "tasks.png") in plots.draw(run)


def test_a_lost_member_is_marked_and_its_lines_end(tmp_path):
    """In returns, measures, hyperparameters and the tree of copies."""
    run = make_run(tmp_path, pbt=False)
    data = run_series.load(run)
    lost = np.zeros((STEPS, 8), bool)
    lost[20:, 3] = True
    lost[40:, 6] = True
    lost[5, 1] = True  # replaced by a copy later on
    updates = data.rows.update
    same = np.arange(8)
    score = np.linspace(0, 1, 8)
    rounds = [
        {"update": updates[n], "score": score, "source": same, "ancestor": same}
        for n in (9, 30, 49)
    ]
    rounds = [{**row, "hparams_after": {}} for row in rounds]
    data = data._replace(rows=data.rows._replace(lost=lost), rounds=rounds)
    assert run_series.lost_at(data.rows) == {3: 20, 6: 40}
    for of_run in (returns.of_run, measures.of_run, hyperparameters.of_run):
        assert "lost: members 3, 6" in _labels(of_run(data))
    for member, last in ((3, updates[20]), (6, updates[40]), (1, updates[-1])):
        lives = [
            s.points[:, 0].max()
            for s in lineage.segments_of(data)
            if s.points[0, 1] == member
        ]
        assert max(lives) == last
    panel = lineage.of_run(data).axes[0]
    assert "6 of 8 first members" in panel.get_title()
    assert [t.get_text() for t in panel.texts].count("lost") == 2
    lines = hyperparameters.of_run(data).axes[0].lines
    ends = sorted(line.get_xdata()[-1] for line in lines if len(line.get_xdata()) > 2)
    steps = data.rows.env_steps
    assert ends == [steps[20], steps[40]] + [steps[-1]] * 6


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    """A full disk: neither half a picture nor its temporary file."""

    class Full:
        def savefig(self, path, **_):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        figures.save(Full(), tmp_path / "returns.png")
    assert not list(tmp_path.iterdir())
