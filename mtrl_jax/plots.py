"""Pictures of a run, from the files in its folder alone.

    returns.png          one panel per task: the population's spread, its median and the
                         best member over env steps, with the random and reference scores
    hyperparameters.png  one panel per searched hyperparameter: every member's schedule
    lineage.png          who copied whom, coloured by the ancestor in generation 0

A folder without any PBT round has no lineage.png, one without a search no
hyperparameters.png.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import metrics

_MEDIAN, _BEST, _REFERENCE = "#1f5fa8", "#e08214", "#4d4d4d"
_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.dpi": 150,
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


class _Run(NamedTuple):
    name: str
    rows: metrics.Metrics
    rounds: list[dict[str, Any]]
    search: Mapping[str, Any] | None  # population.search of config.yaml
    tasks: Mapping[str, Any]  # of summary.json
    best: int


def draw(run: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the pictures written to ``run/plots``.

    Raises:
        ValueError: the folder holds no metrics.
    """
    data = _load(run)
    folder = pathlib.Path(run) / "plots"
    folder.mkdir(exist_ok=True)
    drawn = {
        "returns.png": _returns(data),
        "hyperparameters.png": _hyperparameters(data),
        "lineage.png": _lineage(data),
    }
    return [_save(f, folder / name) for name, f in drawn.items() if f is not None]


def compare(runs: Sequence[str | os.PathLike], out: str | os.PathLike) -> pathlib.Path:
    """Returns ``out`` after drawing several runs into it, one panel per task.

    Each run is its median over members and the band from the 10th to the 90th
    percentile; a task is drawn for the runs that have it.

    Raises:
        ValueError: no run is given, or one of them holds no metrics.
    """
    if not runs:
        raise ValueError("no run to compare; give at least one run folder")
    loaded = [_load(run) for run in runs]
    tasks = list(dict.fromkeys(task for run in loaded for task in run.rows.returns))
    figure, panels = _panels(len(tasks))
    colours = _colours(len(loaded))
    with _context():
        for panel, task in zip(panels, tasks):
            for run, colour in zip(loaded, colours):
                if task in run.rows.returns:
                    steps, returns = _curve(run.rows, task)
                    _band(panel, steps, returns, colour, 0.15)
                    median = np.nanmedian(returns, axis=1)
                    panel.plot(steps, median, color=colour, label=run.name)
            _scores(panel, _known(loaded, task))
            panel.set_title(task)
        limit = max(run.rows.env_steps[-1] for run in loaded)
        _label(
            figure, panels, limit, "env steps per member", "return (median, 10–90 %)"
        )
        _shared_legend(figure, panels)
    return _save(figure, pathlib.Path(out))


def _returns(run: _Run) -> Any:
    P = next(iter(run.rows.returns.values())).shape[1]
    figure, panels = _panels(len(run.rows.returns))
    with _context():
        for panel, task in zip(panels, run.rows.returns):
            steps, returns = _curve(run.rows, task)
            if P > 1:
                _band(panel, steps, returns, _MEDIAN, 0.18, "members, 10–90 %")
                _extremes(panel, steps, returns)
                median = np.nanmedian(returns, axis=1)
                panel.plot(steps, median, color=_MEDIAN, label="median")
            name = f"best member ({run.best})" if P > 1 else "return"
            panel.plot(steps, returns[:, run.best], color=_BEST, label=name)
            _scores(panel, run.tasks.get(task, {}))
            panel.set_title(task)
        _label(figure, panels, run.rows.env_steps[-1], "env steps per member", "return")
        _shared_legend(figure, panels)
    return figure


def _hyperparameters(run: _Run) -> Any:
    names = _searched(run)
    if not names:
        return None
    figure, panels = _panels(len(names))
    with _context():
        for panel, name in zip(panels, names):
            _schedules(panel, run, name)
            if _is_log(run, name):
                panel.set_yscale("log")
            panel.set_title(name)
        _label(figure, panels, run.rows.env_steps[-1], "env steps per member", "value")
        _shared_legend(figure, panels)
    return figure


def _lineage(run: _Run) -> Any:
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection

    if not run.rounds:
        return None
    segments = _segments(run)
    P = len(run.rounds[0]["source"])
    colours = _ancestor_colours(segments, P)
    with _context():
        height = min(1.4 + 0.32 * P, 14)
        figure, axes = plt.subplots(figsize=(9, height), layout="constrained")
        for copied in (True, False):
            chosen = [s for s in segments if s.copied == copied]
            if not chosen:  # matplotlib reduces over the empty list of alphas
                continue
            lines = LineCollection(
                [s.points for s in chosen],
                colors=[colours[s.ancestor] for s in chosen],
                linewidths=[0.9 if copied else 1.0 + 4.0 * s.rank for s in chosen],
                alpha=[0.55 if copied else 0.35 + 0.65 * s.rank for s in chosen],
                capstyle="round",
            )
            axes.add_collection(lines)
        survivors = np.unique(run.rounds[-1]["ancestor"].astype(int))
        for member in range(P):
            weight = "bold" if member in survivors else "normal"
            axes.annotate(
                str(member),
                (0, member),
                xytext=(-6, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                color=colours[member],
                weight=weight,
            )
        axes.set(
            xlim=(0, run.rows.update[-1]),
            ylim=(P - 0.4, -0.6),
            xlabel="update",
            yticks=[],
            title=f"Lineage: all descend from {len(survivors)} of {P} first members "
            "(bold); thicker = higher score",
        )
        axes.set_ylabel("member", labelpad=22)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
    return figure


class _Segment(NamedTuple):
    points: np.ndarray  # [n, 2], (update, member)
    ancestor: int
    rank: float  # 0 for the lowest score of its round, 1 for the highest
    copied: bool  # The line from a source to its copy, or the member's own life


def _segments(run: _Run) -> list[_Segment]:
    """Returns each member's lives between rounds and the copies that join them."""
    P = len(run.rounds[0]["source"])
    segments, ancestor, start, rank = [], np.arange(P), 0.0, np.zeros(P)
    for row in run.rounds:
        end, source = float(row["update"]), row["source"].astype(int)
        rank = _ranks(row["score"])
        for i in range(P):
            segments.append(_life(start, end, i, ancestor[i], rank[i]))
        width = 0.35 * (end - start)
        for copy in np.flatnonzero(source != np.arange(P)):
            parent = int(source[copy])
            points = _bend(end - width, parent, end, float(copy))
            segments.append(_Segment(points, int(ancestor[parent]), rank[parent], True))
        ancestor, start, rank = row["ancestor"].astype(int), end, rank[source]
    end = float(run.rows.update[-1])
    if end > start:
        segments += [_life(start, end, i, ancestor[i], rank[i]) for i in range(P)]
    return segments


def _ancestor_colours(segments: list[_Segment], P: int) -> list[Any]:
    """Returns one colour per ancestor; of many, only the most prolific get their own."""
    if P <= 10:
        return _colours(P)
    lives = np.bincount([s.ancestor for s in segments], minlength=P)
    colours: list[Any] = ["#b5b5b5"] * P
    palette = [c for i, c in enumerate(_colours(10)) if i != 7]  # 7 is grey itself.
    for ancestor, colour in zip(np.argsort(-lives, kind="stable"), palette):
        colours[ancestor] = colour
    return colours


def _life(
    start: float, end: float, member: int, ancestor: int, rank: float
) -> _Segment:
    points = np.array([[start, member], [end, member]], float)
    return _Segment(points, ancestor, rank, False)


def _bend(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Returns a curve that leaves and arrives level."""
    u = np.linspace(0, 1, 24)
    return np.stack(
        [x0 + (x1 - x0) * u, y0 + (y1 - y0) * (3 * u**2 - 2 * u**3)], axis=-1
    )


def _ranks(score: np.ndarray) -> np.ndarray:
    if len(score) == 1:
        return np.ones(1)
    filled = np.where(np.isnan(score), -np.inf, score)
    return np.argsort(np.argsort(filled, kind="stable")) / (len(score) - 1)


def _schedules(panel: Any, run: _Run, name: str) -> None:
    steps, values = run.rows.env_steps, run.rows.hparams[name]
    P = values.shape[1]
    for i in range(P):
        best = i == run.best and P > 1
        style: dict[str, Any] = {"color": _BEST, "zorder": 3, "linewidth": 1.8}
        if not best:
            style = {
                "color": _MEDIAN,
                "alpha": max(0.2, 0.7 - 0.02 * P),
                "linewidth": 1,
            }
        label = (
            f"best member ({i})"
            if best
            else "members"
            if i == (run.best == 0)
            else None
        )
        # A row holds what its chunk was trained with: the value up to there.
        panel.step(
            np.append(0, steps),
            np.append(values[:1, i], values[:, i]),
            where="pre",
            label=label,
            **style,
        )
    marks = [
        (row["update"], row["hparams_after"][name][i])
        for row in run.rounds
        for i in np.flatnonzero(row["source"].astype(int) != np.arange(P))
        if name in row["hparams_after"]
    ]
    if marks:
        update, after = np.array(marks).T
        at = np.interp(update, run.rows.update, steps)
        panel.plot(
            at, after, "o", ms=2.6, color="k", alpha=0.6, mew=0, label="copy", zorder=4
        )


def _searched(run: _Run) -> list[str]:
    """Returns the hyperparameters of the search, else those that are not all one value."""
    names = list(run.rows.hparams)
    if run.search is not None:
        return [name for name in names if name in run.search]
    return [
        n
        for n in names
        if np.nanmin(run.rows.hparams[n]) != np.nanmax(run.rows.hparams[n])
    ]


def _is_log(run: _Run, name: str) -> bool:
    values = run.rows.hparams[name]
    positive = bool(np.nanmin(values) > 0)
    if run.search is not None:
        return positive and bool((run.search.get(name) or {}).get("log"))
    return positive and np.nanmax(values) > 30 * np.nanmin(values)


def _load(run: str | os.PathLike) -> _Run:
    path = pathlib.Path(run).resolve()
    rows = metrics.read_metrics(path)
    summary = metrics.read_summary(path)
    best = summary.get("best_member")
    config = path / "config.yaml"
    search = None
    if config.exists():
        import yaml

        population = (yaml.safe_load(config.read_text()) or {}).get("population") or {}
        search = population.get("search")
    return _Run(
        path.name,
        rows,
        metrics.read_lineage(path),
        search,
        _by_task(summary.get("tasks")),
        _best(rows) if best is None else int(best),
    )


def _by_task(tasks: Any) -> Mapping[str, Any]:
    """Returns the summary's tasks by name, whether it is a mapping or a list."""
    if isinstance(tasks, list):
        return {task["name"]: task for task in tasks if "name" in task}
    return tasks or {}


def _best(rows: metrics.Metrics) -> int:
    """Returns the member with the best mean rank over tasks in the last tenth."""
    ranks = []
    for returns in rows.returns.values():
        last = returns[-max(1, len(returns) // 10) :]
        ranks.append(_ranks(_nan(np.nanmean, last, axis=0)))
    return int(np.argmax(np.mean(ranks, axis=0)))


def _curve(rows: metrics.Metrics, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (env steps [n], returns [n, P]), smoothed over 1 % of the run.

    Chunks in which no member finished an episode are left out.
    """
    returns = rows.returns[task]
    window = max(1, len(returns) // 100)
    smooth = np.stack(
        [
            _nan(np.nanmean, returns[max(0, i + 1 - window) : i + 1], axis=0)
            for i in range(len(returns))
        ]
    )
    some = ~np.isnan(smooth).all(axis=1)
    return rows.env_steps[some], smooth[some]


def _nan(statistic: Any, x: np.ndarray, **arguments: Any) -> Any:
    import warnings

    with warnings.catch_warnings():
        # A column of NaN is NaN: nothing to warn of.
        warnings.simplefilter("ignore", RuntimeWarning)
        return statistic(x, **arguments)


def _band(panel, steps, returns, colour, alpha, label=None) -> None:
    if len(steps):
        low, high = np.nanpercentile(returns, [10, 90], axis=1)
        panel.fill_between(
            steps, low, high, color=colour, alpha=alpha, lw=0, label=label
        )


def _extremes(panel, steps, returns) -> None:
    if len(steps):
        low, high = np.nanmin(returns, axis=1), np.nanmax(returns, axis=1)
        panel.fill_between(
            steps, low, high, color=_MEDIAN, alpha=0.08, lw=0, label="min–max"
        )


def _scores(panel, known: Mapping[str, Any]) -> None:
    for name, dashes in (("random", (2, 2)), ("reference", (6, 2))):
        score = known.get(f"{name}_score")
        if score is not None and math.isfinite(score):
            panel.axhline(
                score, color=_REFERENCE, lw=1, dashes=dashes, label=f"{name} score"
            )


def _known(runs: list[_Run], task: str) -> Mapping[str, Any]:
    return next((run.tasks[task] for run in runs if task in run.tasks), {})


def _panels(count: int) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    columns = min(count, 4 if count > 6 else 3)
    lines = math.ceil(count / columns)
    with _context():
        figure, axes = plt.subplots(
            lines,
            columns,
            figsize=(max(4.6, 3.5 * columns), 2.6 * lines + 0.5),
            layout="constrained",
            squeeze=False,
        )
    panels = list(axes.ravel())
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def _label(figure: Any, panels: list[Any], limit: float, x: str, y: str) -> None:
    from matplotlib.ticker import EngFormatter

    for panel in panels:
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.set_xlim(0, limit)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)


def _shared_legend(figure: Any, panels: list[Any]) -> None:
    """Adds one legend for all panels, above them."""
    entries: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        entries |= {label: entries.get(label, h) for h, label in zip(handles, labels)}
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper center",
        ncols=min(len(entries), 6),
    )


def _colours(count: int) -> list[Any]:
    import matplotlib

    if count <= 10:
        return [matplotlib.colormaps["tab10"](i) for i in range(count)]
    return [matplotlib.colormaps["turbo"](x) for x in np.linspace(0.05, 0.95, count)]


def _context() -> Any:
    import matplotlib

    # No display is needed, or wanted: a training machine has none.
    matplotlib.use("Agg", force=False)
    style: Any = _STYLE
    return matplotlib.rc_context(style)


def _save(figure: Any, path: pathlib.Path) -> pathlib.Path:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed: a viewer never sees half a picture.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix or '.png'}")
    with _context():
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
    os.replace(temporary, path)
    return path
