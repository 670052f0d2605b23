"""What the benchmark scripts share: the machine's record, timing, tables, files."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"


def parser(doc: str, quick: str) -> argparse.ArgumentParser:
    """Returns a parser with ``--quick`` (described by ``quick``) and ``--out``."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--quick", action="store_true", help=f"{quick}: under 1 min")
    made.add_argument("--out", type=pathlib.Path, default=RESULTS, help="for JSON, PNG")
    return made


def pip_install(python: pathlib.Path, *arguments: str) -> None:
    """Install what ``arguments`` of pip ask for into the venv of ``python``."""
    quietly = ("--quiet", "--disable-pip-version-check")
    command = [str(python), "-m", "pip", "install", *quietly, *arguments]
    subprocess.run(command, check=True)


def settings(args: argparse.Namespace) -> dict[str, str]:
    """Returns what a benchmark was run with, as text; folders are a machine's own."""
    given = vars(args).items()
    return {k: str(v) for k, v in given if not isinstance(v, pathlib.Path)}


def environment() -> dict[str, Any]:
    """Returns what a number depends on beside the code: machine, load, date, versions."""
    import jax

    from mtrl_jax.training import provenance

    return {
        **provenance.machine(),
        "backend": jax.default_backend(),
        **moment(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": provenance.versions(),
    }


def moment() -> dict[str, Any]:
    """Returns the date and the load average: how busy the machine was otherwise."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.isoformat(timespec="seconds"),
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Returns (wall time of one call until its result is on the device, result)."""
    import jax

    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, result


def in_turn(calls: Mapping[Any, Callable[[], Any]], turns: int) -> dict[Any, list]:
    """Returns {name: seconds of each turn}; a first turn of all is not counted.

    The calls are made one after the other in every turn, so that a change of the
    machine's load meets them alike.
    """
    taken = both_in_turn(calls, turns)
    return {name: [wall for wall, _ in own] for name, own in taken.items()}


def both_in_turn(
    calls: Mapping[Any, Callable[[], Any]], turns: int
) -> dict[Any, list[tuple[float, float]]]:
    """Returns {name: (wall, processor) seconds of each turn}, as ``in_turn``."""
    taken: dict[Any, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            before = time.process_time()
            wall, _ = timed(call)
            if turn:
                taken[name].append((wall, time.process_time() - before))
    return taken


def header(columns: Mapping[str, str]) -> str:
    """Returns the first line of a table; ``columns`` is {name: format spec}."""
    return " ".join(f"{name:{_width(spec)}}" for name, spec in columns.items())


def line(row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Returns a row of the table; what a row does not have is a dash."""
    cells = []
    for name, spec in columns.items():
        value = row.get(name)
        cells.append(f"{'-':{_width(spec)}}" if value is None else f"{value:{spec}}")
    return " ".join(cells)


def write(out: pathlib.Path, name: str, result: Mapping[str, Any]) -> pathlib.Path:
    """Returns the path of ``name``.json after writing it in one move."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    # A script that is killed while it writes leaves the result before.
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)
    return path


@contextlib.contextmanager
def figure(
    path: pathlib.Path,
    panels: Sequence[Any] = ("",),
    size: tuple[float, float] = (5, 4),
    columns: int = 4,  # at most
) -> Iterator[Any]:
    """Yields one axes a panel (a list), titled; saves the picture on leaving."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(len(panels), columns)
    rows = -(-len(panels) // columns)
    made, axes = plt.subplots(
        rows,
        columns,
        figsize=(size[0] * columns, size[1] * rows),
        squeeze=False,
        layout="constrained",
    )
    flat = list(axes.flat)
    for ax, title in zip(flat, panels):
        ax.set_title(title)
    for ax in flat[len(panels) :]:
        ax.remove()
    yield flat[: len(panels)]
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(path, dpi=120)
    plt.close(made)


def _width(spec: str) -> str:
    """Returns a format spec's alignment and width alone: the header's own spec."""
    digits = "".join(c for c in spec.split(".")[0] if c.isdigit())
    return f"{'<' if spec.startswith('<') else '>'}{digits}"


def trained(config: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the summary of the run in ``folder``, begun or gone on with if need be.

    Raises SystemExit if a signal stops it, or if it is a run of other settings.
    """
    from mtrl_jax import metrics
    from mtrl_jax.experiments import runs
    from mtrl_jax.training import run_folder

    begun = (folder / run_folder.CONFIG).exists()
    if begun:
        check_settings(config, folder)
    if not metrics.read_summary(folder).get("totals"):
        code = runs.resume(folder) if begun else runs.train(config, folder)
        if code:
            raise SystemExit(code)
    return metrics.read_summary(folder)


def check_settings(config: Any, folder: pathlib.Path) -> None:
    """Raises SystemExit unless the run in ``folder`` is one of these settings."""
    from mtrl_jax.config import loading
    from mtrl_jax.experiments import reading

    had, asked = (
        loading.dump(settings).splitlines()
        for settings in (reading.load_config(folder), config)
    )
    if had != asked:
        pairs = itertools.zip_longest(had, asked, fillvalue="")
        old, new = next((a, b) for a, b in pairs if a != b)
        raise SystemExit(
            f"{folder}: a run of other settings ('{old.strip()}', asked for "
            f"'{new.strip()}'); give another folder, or take it away"
        )


def curve(ax: Any, steps: Any, returns: Any, label: str) -> None:
    """Draw the mean over seeds of ``returns`` [N, P] and their range."""
    import numpy as np

    # Chunks in which no episode ended have nothing to show.
    known = ~np.isnan(returns).all(1)
    steps, returns = np.asarray(steps)[known], np.asarray(returns)[known]
    # There are ten colours.
    style = ("-", "--", ":")[len(ax.lines) // 10 % 3]
    mean, low, high = (f(returns, 1) for f in (np.nanmean, np.nanmin, np.nanmax))
    # Long episodes may have ended in a single chunk: a point, with its range as a bar.
    if len(steps) == 1:
        ax.errorbar(
            steps, mean, [mean - low, high - mean], fmt="o", capsize=3, label=label
        )
        return
    (line,) = ax.plot(steps, mean, style, label=label)
    ax.fill_between(steps, low, high, alpha=0.2, color=line.get_color())
