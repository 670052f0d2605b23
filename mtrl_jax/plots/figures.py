"""How the pictures look: panels, labels, colours; files that are never half written."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mtrl_jax import errors

MEDIAN, BEST, REFERENCE, TESTED = "#1f5fa8", "#e08214", "#4d4d4d", "#1b7837"
LOST = "#b2182b"
_STYLE: Any = {
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


def panels_of(count: int) -> tuple[Any, list[Any]]:
    """Returns (figure, its ``count`` panels in reading order)."""
    columns = min(count, 4 if count > 6 else 3)
    lines = math.ceil(count / columns)
    with style():
        size = max(4.6, 3.5 * columns), 2.6 * lines + 0.5
        figure = new_figure(size)
        axes = figure.subplots(lines, columns, squeeze=False)
    panels = list(axes.ravel())
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def new_figure(size: tuple[float, float]) -> Any:
    """Returns an empty figure of so many inches.

    Without pyplot: no backend is chosen, so that neither a notebook's nor a missing one
    matters.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def label(figure: Any, panels: list[Any], limit: float, x: str, y: str) -> None:
    """Write the axes' names once a figure; panels go from 0 to ``limit`` (1k, 1M)."""
    from matplotlib.ticker import EngFormatter

    for panel in panels:
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        # Steps, updates, episodes: 1.25 of them is no place.
        panel.locator_params("x", integer=True)
        panel.set_xlim(0, limit or 1)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)


def scale(panel: Any, name: str) -> None:
    """Give the values of a panel an axis: linear, log, or complement, 1 - x on a log."""
    if name != "complement":
        panel.set_yscale(name)
        return
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = panel.dataLim.intervaly
    panel.set_yscale(
        "function",
        functions=(
            lambda x: -np.log10(np.maximum(1 - np.asarray(x), 1e-7)),
            lambda y: 1 - 10 ** -np.asarray(y),
        ),
    )
    # 0.9, 0.95, 0.98, 0.99 …: one beyond either end, so that there are two at the least.
    ticks = sorted(1 - x * 10.0**-k for k in range(8) for x in (1, 2, 5) if k or x == 1)
    first = max(np.searchsorted(ticks, low + 1e-9, "right") - 1, 0)
    last = min(np.searchsorted(ticks, high - 1e-9), len(ticks) - 1)
    shown = ticks[first : last + 1]
    shown = shown if len(shown) < 8 else [x for x in shown if _is_power(1 - x)]
    panel.yaxis.set_major_locator(FixedLocator(shown))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.7g}"))
    low, high = min(low, shown[0]), max(high, shown[-1])
    panel.set_ylim(1 - 1.1 * (1 - low), 1 - (1 - high) / 1.1)


def _is_power(x: float) -> bool:
    """Returns whether a number is a power of ten, up to rounding."""
    return abs(math.log10(x) - round(math.log10(x))) < 1e-6


def shared_legend(figure: Any, panels: list[Any]) -> None:
    """Add one legend for all panels, above them, with as many columns as there is room."""
    entries: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        entries |= {label: entries.get(label, h) for h, label in zip(handles, labels)}
    for columns in range(min(len(entries), 6), 0, -1):
        legend = figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside upper center",
            ncols=columns,
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def line_of(rows: int) -> dict[str, Any]:
    """Returns how a curve of so many points is drawn: a single one is a dot."""
    return {"marker": ".", "clip_on": False} if rows == 1 else {}


def colours(count: int) -> list[Any]:
    """Returns ``count`` colours that stay apart: a fixed ten, of more a rainbow."""
    import matplotlib

    if count <= 10:
        return [matplotlib.colormaps["tab10"](i) for i in range(count)]
    return [matplotlib.colormaps["turbo"](x) for x in np.linspace(0.05, 0.95, count)]


def style() -> Any:
    """Returns a context in which pictures look like the kit's."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Draw with the kit's settings alone, whatever a user's matplotlib is set to.

    Means of nothing are NaN, and not worth a warning.
    """
    # A notebook's MPLBACKEND names one that may be there in the notebook alone.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with warnings.catch_warnings(), matplotlib.rc_context():
        for message in (
            "Mean of empty slice",
            "All-NaN",
            "invalid value",
            "Degrees of",
        ):
            warnings.filterwarnings("ignore", message, RuntimeWarning)
        matplotlib.rcdefaults()
        yield


def mark_lost(
    panel: Any, lost: Mapping[int, int], x: np.ndarray, values: np.ndarray | None = None
) -> None:
    """Mark where members ``lost`` {member: row} were lost, with a cross each.

    ``x`` has a place a row, ``values`` [rows, P] what the panel shows of the members;
    without them the crosses are on the axis.
    """
    if not lost:
        return
    members, rows = list(lost), list(lost.values())
    style: dict[str, Any] = {"color": LOST, "clip_on": False, "ms": 6, "zorder": 5}
    if values is None:
        y = np.zeros(len(rows))
        style["transform"] = panel.get_xaxis_transform()
    else:
        y = values[rows, members]
    several = "s" if len(members) > 1 else ""
    label = f"lost: member{several} {', '.join(map(str, members))}"
    panel.plot(x[rows], y, "x", label=label, **style)


def check_out(path: pathlib.Path) -> None:
    """Raises ConfigError unless a picture can be written to ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    errors.check_file(f"--out {path}", path)
    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix and path.suffix[1:].lower() not in known:
        raise errors.ConfigError(
            f"--out {path}: no picture ends in {path.suffix!r}; there is "
            f"{', '.join(known)}"
        )


def save(figure: Any, path: pathlib.Path) -> pathlib.Path:
    """Returns ``path`` after writing the figure there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed: a viewer never sees half a picture.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix or '.png'}")
    try:
        with style():
            figure.savefig(temporary, dpi=150)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
