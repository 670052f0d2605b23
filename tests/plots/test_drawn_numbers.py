"""The numbers that pictures show are those of the files: bands, lines, marks, widths."""

import matplotlib.colors
import numpy as np
import pytest

from mtrl_jax import metrics
from mtrl_jax.plots import (
    figures,
    hyperparameters,
    lineage,
    measures,
    prediction_film,
    returns,
    run_series,
    tasks,
)

N, P = 40, 4
ALIVE = np.zeros((N, P), bool)


def make_run(name="x", times=1.0, **changes):
    """Returns a run of four members on one task, of numbers that are all different."""
    rng = np.random.default_rng(len(name))
    values = lambda: times * rng.uniform(1.0, 2.0, (N, P))  # noqa: E731
    update = np.arange(1.0, N + 1)
    rows = metrics.Metrics(
        *(update, times * 100 * update, update, update, update),
        metrics={"loss": values()},
        returns={"a": values()},
        hparams={"rate": values()},
        evaluation={},
        lost=ALIVE,
    )
    given = {"search": {"rate": {}}, "rounds": [], "best": 2, **changes}
    run = run_series.Run(name, rows, [], None, {}, {}, 0, {})
    return run._replace(**given)


def lines_of(panel):
    """Returns {label: line} of a panel."""
    return {line.get_label(): line for line in panel.get_lines()}


def edges(band):
    """Returns (low, high) of a band at each of its places, from left to right."""
    x, y = band.get_paths()[0].vertices.T
    return np.array([(y[x == at].min(), y[x == at].max()) for at in np.unique(x)]).T


def test_bands_are_what_their_labels_say():
    """Of returns 10 to 90 % and all members, of measures all; the best is one's own."""
    known = {"random_score": 1.2, "reference_score": 1.8}
    run = make_run(tasks={"a": known})
    for figure, values, prefix, shares in (
        (returns.of_run(run), run.rows.returns["a"], "training, ", (10, 90)),
        (measures.of_run(run), run.rows.metrics["loss"], "", None),
    ):
        (panel,) = figure.axes
        bands = {band.get_label(): band for band in panel.collections}
        ends = edges(bands[f"{prefix}min–max"])
        np.testing.assert_allclose(ends, np.percentile(values, (0, 100), axis=1))
        if shares:
            ends = edges(bands[f"{prefix}10–90 %"])
            np.testing.assert_allclose(ends, np.percentile(values, shares, axis=1))
        best = lines_of(panel)[f"{prefix}best member (2)"]
        np.testing.assert_array_equal(best.get_ydata(), values[:, 2])
        assert panel.get_xlim() == (0, run.rows.env_steps[-1])
    for figure in (returns.of_run(run), returns.of_runs([make_run("other"), run])):
        lines = lines_of(figure.axes[0])
        for name in ("random", "reference"):
            assert lines[f"{name} score"].get_ydata()[0] == known[f"{name}_score"]
    assert measures._title("length/probe/a") == "length\na"


@pytest.mark.parametrize(
    ("scores", "normalised"), [((0.0, 4.0), True), ((4.0, 4.0), False), (None, False)]
)
def test_bars_are_normalised_where_all_tasks_have_scores_for_it(scores, normalised):
    """Else they are returns: of two units on one axis none could be read."""
    members = [{"member": p, "mean": x} for p, x in ((1, 1.0), (2, 2.0), (3, 6.0))]
    low, high = scores or (None, None)
    found = {
        "t/a": {"members": members, "random_score": 1.0, "reference_score": 2.0},
        "t/b": {"members": members, "random_score": low, "reference_score": high},
    }
    figure = tasks.of_run(make_run(tasks=found))
    (panel,) = figure.axes
    bars = [bar.get_height() for bar in panel.patches]
    np.testing.assert_allclose(bars, [2.0, 0.75] if normalised else [3.0, 3.0])
    assert figure.get_supylabel() == ("normalised score" if normalised else "return")
    dots = [x for x in panel.get_lines() if x.get_label() == "members"]
    means = np.array([1.0, 2.0, 6.0])
    expected = [means - 1, means / 4] if normalised else [means, means]
    np.testing.assert_allclose([x.get_ydata() for x in dots], expected)
    best = [x for x in panel.get_lines() if x.get_label() == "best member (2)"]
    places = [x.get_xdata()[0] for x in best]
    np.testing.assert_allclose(places, [0.0, 1.0], atol=1e-9)


def test_compared_runs_are_medians_in_bands_of_their_colour():
    """The axis goes on to the end of the longest."""
    runs = [make_run("one"), make_run("other", times=3.0)]
    (panel,) = returns.of_runs(runs).axes
    for run, band in zip(runs, panel.collections, strict=True):
        values, line = run.rows.returns["a"], lines_of(panel)[f"{run.name}, training"]
        np.testing.assert_array_equal(line.get_xdata(), run.rows.env_steps)
        np.testing.assert_allclose(line.get_ydata(), np.median(values, axis=1))
        np.testing.assert_allclose(edges(band), np.percentile(values, (10, 90), axis=1))
        colour = matplotlib.colors.to_rgb(line.get_color())
        assert tuple(band.get_facecolor()[0, :3]) == colour
    assert panel.get_xlim() == (0, 3 * 100 * N)


def test_a_curve_is_smoothed_over_a_hundredth_of_the_run_up_to_each_row():
    """Of 300 rows over three; what is not known is left out, and rows without any."""
    values = np.arange(300.0)[:, None]
    values[10] = values[100:104] = np.nan
    steps, smooth = run_series.smoothed(np.arange(300), values)
    assert sorted(set(range(300)) - set(steps)) == [102, 103]
    found = dict(zip(steps.tolist(), smooth[:, 0].tolist()))
    expected = {
        0: 0.0,
        1: 0.5,
        2: 1.0,
        9: 8.0,
        10: 8.5,
        11: 10.0,
        104: 104.0,
        299: 298.0,
    }
    assert {step: found[step] for step in expected} == expected


def test_who_is_best_has_the_best_ranks_of_the_last_tenth():
    """Over tasks, whatever they pay, and not of the last row or of all."""
    a, b = np.full((N, P), 0.0), np.full((N, P), 0.0)
    a[:, 3] = b[:, 3] = 100.0
    a[-4:], b[-4:] = [3.0, 0.0, 10 / 3, 1.0], [0.0, 1000.0, 500.0, 1.0]
    a[-1, 2] = 0.0
    rows = make_run().rows._replace(returns={"a": a, "b": b})
    assert run_series._best(rows) == 2
    assert run_series._best(rows._replace(returns={}, evaluation={"b": b})) == 1
    assert run_series._best(rows._replace(returns={})) == 0


# Hand-made rounds: 3 becomes a copy of 2, then 1 one of 0.
ROUNDS = [
    {
        "update": 5.0,
        "score": np.array([1.0, 2.0, 3.0, np.nan]),
        "source": np.array([0.0, 1.0, 2.0, 2.0]),
        "ancestor": np.array([0.0, 1.0, 2.0, 2.0]),
        "hparams_after": {"rate": np.array([0.1, 0.2, 0.3, 0.4])},
    },
    {
        "update": 15.0,
        "score": np.array([4.0, 3.0, 2.0, 1.0]),
        "source": np.array([0.0, 0.0, 2.0, 3.0]),
        "ancestor": np.array([0.0, 0.0, 2.0, 2.0]),
        "hparams_after": {"rate": np.array([0.5, 0.6, 0.7, 0.8])},
    },
]


def test_a_life_is_as_thick_as_its_score_in_the_round_that_ends_it():
    """After the last round, as that of whom it copied; a copy has its source's."""
    segments = lineage.segments_of(make_run(rounds=ROUNDS))
    lives = [
        (*x.points[:, 0], *x.points[:, 1], x.ancestor, x.rank)
        for x in segments
        if not x.copied
    ]
    third = 1 / 3
    spans = (
        (0, 5, [0, 1, 2, 3], [0, 0.5, 1, np.nan]),
        (5, 15, [0, 1, 2, 2], [1, 2 * third, third, 0]),
        (15, N, [0, 0, 2, 2], [1, 1, third, 0]),
    )
    expected = [
        (start, end, i, i, ancestor[i], rank[i])
        for start, end, ancestor, rank in spans
        for i in range(P)
    ]
    np.testing.assert_allclose(lives, expected)
    copies = [
        (*x.points[[0, -1]].ravel(), x.ancestor, x.rank) for x in segments if x.copied
    ]
    np.testing.assert_allclose(copies, [(3.25, 2, 5, 3, 2, 1), (11.5, 0, 15, 1, 0, 1)])


def test_a_life_without_a_score_is_dashed_and_of_middle_thickness():
    """Not judged is not worst, and takes no rank from those that were."""
    score = np.array([1.0, np.nan, 3.0, 2.0])
    figure = lineage.of_run(make_run(rounds=[{**ROUNDS[0], "score": score}]))
    (axes,) = figure.axes
    assert axes.get_title().endswith("thicker = higher score, dashed: unknown")
    lives = [x for x in axes.collections if len(x.get_paths()[0].vertices) == 2]
    widths, styles = lives[0].get_linewidths(), lives[0].get_linestyles()
    np.testing.assert_allclose(widths[:P], [1.0, 3.0, 5.0, 3.0])
    assert [dashes is not None for _, dashes in styles[:P]] == [False, True] + [
        False
    ] * 2
    known = lineage.of_run(make_run(rounds=ROUNDS[1:])).axes[0]
    assert known.get_title().endswith("thicker = higher score")


def test_a_median_of_one_row_is_a_dot_like_the_best():
    """A line of one point is invisible."""
    run = make_run()
    rows = run.rows._replace(
        **{
            name: getattr(run.rows, name)[:1]
            for name in (
                "update",
                "env_steps",
                "wall_s",
                "steps_per_s",
                "compiles",
                "lost",
            )
        },
        returns={"a": run.rows.returns["a"][:1]},
        metrics={},
    )
    (panel,) = returns.of_run(run._replace(rows=rows)).axes
    assert {line.get_marker() for line in panel.get_lines()} == {"."}


def test_a_logarithmic_axis_is_limited_by_what_members_have():
    """A rate in effect that decays to nothing is cut off by it."""
    run = make_run(search={"rate": {"low": 0.5, "high": 3.0, "log": True}})
    run.rows.metrics["rate"] = run.rows.hparams["rate"] * 10.0 ** -np.arange(N)[:, None]
    (panel,) = hyperparameters.of_run(run).axes
    low, high = panel.get_ylim()
    values = run.rows.hparams["rate"]
    assert panel.get_yscale() == "log"
    assert 0.5 * values.min() < low < values.min() and values.max() < high < 4.0


def test_of_many_ancestors_those_with_most_lives_have_colours():
    """Nine, all different; the others are grey."""
    lives = [11] * 5 + [3] * 2 + [0, 1, 2, 4, 5, 6, 7]
    segments = [lineage._life(0, 1, 0, ancestor, 0.0) for ancestor in lives]
    colours = lineage._ancestor_colours(segments, 12)
    tab = figures.colours(10)
    assert (colours[11], colours[3]) == (tab[0], tab[1])
    assert [i for i, colour in enumerate(colours) if colour == "#b5b5b5"] == [8, 9, 10]
    assert len(set(colours)) == 10 and tab[7] not in colours


def test_a_hyperparameter_is_drawn_as_each_chunk_was_trained_with_it():
    """A step holds from the row before; a copy's mark is at its new value."""
    run = make_run(rounds=ROUNDS)
    (panel,) = hyperparameters.of_run(run).axes
    *members, marks = panel.get_lines()
    values = run.rows.hparams["rate"]
    for i, line in enumerate(members):
        np.testing.assert_array_equal(line.get_ydata(), [values[0, i], *values[:, i]])
        np.testing.assert_array_equal(line.get_xdata(), [0, *run.rows.env_steps])
        # From a place on, the line is at that place's value.
        assert line.get_drawstyle() == "steps-pre"
    assert members[2].get_label() == "best member (2)"
    np.testing.assert_allclose(marks.get_xdata(), [500.0, 1500.0])
    np.testing.assert_allclose(marks.get_ydata(), [0.4, 0.6])


def test_a_cross_is_where_a_member_was_lost():
    """On the axis, or at its value; what it measures after that is no one's."""
    lost = ALIVE.copy()
    lost[20:, 0] = lost[30:, 3] = True
    run = make_run()
    run = run._replace(rows=run.rows._replace(lost=lost))
    values = run.rows.hparams["rate"]
    for of_run, y in (
        (returns.of_run, [0.0, 0.0]),
        (measures.of_run, [0.0, 0.0]),
        (hyperparameters.of_run, [values[20, 0], values[30, 3]]),
    ):
        crosses = lines_of(of_run(run).axes[0])["lost: members 0, 3"]
        np.testing.assert_array_equal(crosses.get_xdata(), run.rows.env_steps[[20, 30]])
        np.testing.assert_array_equal(crosses.get_ydata(), y)
    median = lines_of(measures.of_run(run).axes[0])["median"].get_ydata()
    loss = run.rows.metrics["loss"]
    for row, members in ((19, [0, 1, 2, 3]), (20, [1, 2, 3]), (30, [1, 2])):
        assert median[row] == pytest.approx(np.median(loss[row, members]))


@pytest.mark.parametrize(
    ("drawn", "values", "scale"),
    [
        ({"log": True}, (0.0, 1.0), "linear"),
        ({"log": True, "complement": True}, (0.9, 1.0), "linear"),
        ({"log": True, "complement": True}, (0.9, 0.99), "complement"),
        ({"initial": [1.0, 29.0]}, (1.0, 29.0), "linear"),
        ({"initial": [1.0, 31.0]}, (1.0, 31.0), "log"),
        ({"log": True, "initial": [0.0, 31.0]}, (0.0, 31.0), "linear"),
    ],
)
def test_an_axis_has_a_place_for_every_value(drawn, values, scale):
    """0 has none on a logarithmic one, 1 none on that of what it lacks to 1."""
    run = make_run(search={"rate": drawn})
    run.rows.hparams["rate"] = np.linspace(*values, N * P).reshape(N, P)
    assert run_series.scale_of(run, "rate") == scale
    hyperparameters.of_run(run).draw_without_rendering()


def test_a_long_prediction_has_twelve_columns_from_its_first_step_to_its_last():
    """Green of what was seen, red of the rest."""
    steps = np.arange(30)[:, None, None, None, None] / 30
    images = np.broadcast_to(steps, (30, 1, 8, 8, 1))
    sheet = prediction_film.contact_sheet(images, images, 5)
    assert sheet.shape == (3 * 132, 12 * 132, 3)
    shown = sheet[66, 66::132, 0] / 255 * 30
    expected = [0, 2, 5, 7, 10, 13, 15, 18, 21, 23, 26, 29]
    np.testing.assert_allclose(shown, expected, atol=0.1)
    seen = (sheet[0, ::132] == prediction_film.GREEN).all(axis=-1)
    assert seen.tolist() == [step < 5 for step in expected]


def test_an_error_is_bright_where_too_much_was_said():
    """Truth, prediction, error: from the left in a film, from above on a sheet."""
    shape = (3, 1, 128, 128, 1)
    truth, said = np.full(shape, 0.2), np.full(shape, 0.6)
    frame = prediction_film.film(truth, said, 1)[2]
    sheet = prediction_film.contact_sheet(truth, said, 1)
    for place in range(3):
        middle = 132 * place + 66
        level = (51, 153, 178)[place]
        np.testing.assert_allclose(frame[66, middle].astype(int), level, atol=1)
        np.testing.assert_allclose(sheet[middle, 66].astype(int), level, atol=1)
