"""Pictures of the multi-task benchmark: training returns, and what a lag costs."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import common
import multitask_arms as arms
import numpy as np

from mtrl_jax import metrics
from mtrl_jax.metrics import estimates
from mtrl_jax.training import run_folder

_MANY = 5  # labels of an arm that has a panel of its own


def last(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a run's last stage; of a run without stages its own."""
    staged = folder / run_folder.STAGES / "last"
    return staged if staged.exists() else folder


def draw(experiment: str, folders: dict[str, pathlib.Path], path: pathlib.Path) -> None:
    """Draw training returns, a band over seeds; a panel a task, or an arm of many.

    A label's part after its comma has a panel of its own there.
    """
    from matplotlib import ticker

    logs = {arm: metrics.read_metrics(last(folder)) for arm, folder in folders.items()}
    labels = {arm: arms.EXPERIMENTS[experiment][arm].labels for arm in logs}
    apart = min(map(len, labels.values())) >= _MANY
    # Arms on tasks of their own differ by their labels.
    by_label = apart or all(x.tasks for x in arms.EXPERIMENTS[experiment].values())
    panels: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {}
    for arm, log in logs.items():
        for i, label in enumerate(labels[arm]):
            line, _, part = label.partition(", ") if apart else (label, "", "")
            for task, each in log.returns.items():
                titles = (arm if apart else "", part, task.rpartition("/")[2])
                title = ", ".join(x for x in titles if x)
                returns = each[:, i :: len(labels[arm])]
                known = returns[:, ~np.isnan(returns).all(axis=0)]
                name = line if by_label else f"{arm} {label}".strip()
                panels.setdefault(title, []).append((name, log.env_steps, known))
    parts = len(panels) // len(logs) if apart else 4
    with common.figure(path, list(panels), (5, 4), max(parts, 2)) as axes:
        for ax, shown in zip(axes, panels.values()):
            for name, steps, returns in shown:
                common.curve(ax, steps, returns, name)
            ax.set(xlabel="env steps", ylabel="training return")
            ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
            if parts > 1 and apart:
                ax.sharey(axes[0])
                axes[0].autoscale_view(scalex=False)
        # The names are those of the first panel, in all of them.
        handles = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(*handles, loc="outside center right", fontsize="small")


def draw_lags(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Draw area and final return of each correction over the lag, with intervals."""
    panels = list(dict.fromkeys(row["arm"] for row in rows))
    with common.figure(path, [f"{arm}: {x}" for arm in panels for x in _SHOWN]) as axes:
        for n, (ax, (arm, name)) in enumerate(
            zip(axes, [(arm, x) for arm in panels for x in _SHOWN.values()])
        ):
            curves: dict[str, list[tuple[int, Any]]] = {}
            for row in rows:
                if row["arm"] == arm:
                    line, _, lag = row["label"].partition(", lag ")
                    curves.setdefault(line, []).append((int(lag), row[name]))
            for k, (line, points) in enumerate(curves.items()):
                lags, seeds = zip(*points)
                mean = np.mean(seeds, axis=1)
                ends = np.array([estimates.t_interval(x) for x in seeds])
                # Beside each other, where intervals would hide each other.
                at = np.asarray(lags) * 1.04**k + 0.04 * k
                bars = np.abs(ends.T - mean)
                ax.errorbar(at, mean, bars, fmt="o-", ms=3, capsize=2, label=line)
            ax.set_xscale("symlog", linthresh=1)
            ax.set_xticks(lags, [str(x) for x in lags])
            ax.minorticks_off()
            ax.set(xlabel="lag, updates", ylabel="return")
            if n == 0:
                ax.legend(fontsize="small")


_SHOWN = {"area": "area_seeds", "final": "seeds"}
