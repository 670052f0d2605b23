"""The command ``mtrl``: train, resume, evaluate, plot, render, list."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Started by its path: the folder's own random.py and types.py are not Python's.
    sys.path[0] = __file__.rpartition("/")[0].rpartition("/")[0] or ".."

import contextlib
import io
import pathlib
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from mtrl_jax import errors, xla
from mtrl_jax.training import callbacks, machine, provenance, screen

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # It takes [default: …] for markup.
    help="Populations of RL agents on mixtures of tasks as one compiled JAX program.",
)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings as dotted.name=value")
]
Run = Annotated[pathlib.Path, typer.Argument(help="the folder of a run")]


def _say_version(asked: bool) -> None:
    if asked:
        found = provenance.versions()
        names = ("mtrl-jax", "jax", "jaxlib", "python")
        typer.echo(", ".join(f"{name} {found[name]}" for name in names))
        raise typer.Exit()


@app.callback()
def _before(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="say which it is"
        ),
    ] = False,
) -> None:
    """Take what is said before a command."""


@app.command()
def train(
    config: Annotated[pathlib.Path, typer.Argument(help="a YAML file, see configs/")],
    overrides: Overrides = None,
    run_dir: Annotated[
        pathlib.Path | None,
        typer.Option(help="a new folder  [default: runs/CONFIG-TIME]"),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="say what it would be, or what is wrong, and end"),
    ] = False,
) -> None:
    """Train a population from a config.

    Settings change as dotted.name=value: mtrl train configs/quickstart.yaml
    population.size=8 tasks.0.slots=64
    """
    from mtrl_jax.config import loading
    from mtrl_jax.experiments import runs
    from mtrl_jax.training import run_folder

    settings = loading.load(config, overrides or [])
    machine.check()
    if check:
        names = run_folder.names(pathlib.Path("runs"), config.stem)
        for line in runs.check(settings, run_dir or next(names), where=str(config)):
            typer.echo(line)
        return
    named = run_folder.claimed(pathlib.Path("runs"), config.stem)
    with (
        screen.outlived(),
        contextlib.nullcontext(run_dir) if run_dir else named as folder,
    ):
        code = runs.train(settings, folder, where=str(config))
        typer.echo(f"run folder: {folder}")
    raise typer.Exit(code)


@app.command()
def resume(run: Run, overrides: Overrides = None) -> None:
    """Go on with a run from its newest checkpoint.

    At the stage it was in. Settings may change: mtrl resume RUN
    training.env_steps=2_000_000 makes a finished run longer.
    """
    from mtrl_jax.experiments import runs

    machine.check()
    with screen.outlived():
        code = runs.resume(run, overrides)
        typer.echo(f"run folder: {run}")
    raise typer.Exit(code)


@app.command()
def evaluate(
    run: Run,
    episodes: Annotated[
        int | None,
        typer.Option(
            help="per member and task  [default: the run's evaluation.episodes]", min=1
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="of the episodes  [default: those of a test in training]",
            min=0,
            max=2**32 - 1,
        ),
    ] = None,
    member: Annotated[
        int | None, typer.Option(help="this one alone  [default: every one]")
    ] = None,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="a .json file for what --json prints")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Test a run's members on fresh episodes.

    Those of its newest checkpoint, with frozen weights.
    """
    from mtrl_jax import metrics
    from mtrl_jax.experiments import evaluation
    from mtrl_jax.training import report

    if out is not None and out.suffix.lower() != ".json":
        raise errors.ConfigError(f"--out {out}: give a file that ends in .json")
    if out is not None:
        errors.check_file(f"--out {out}", out)
    machine.check()
    found = evaluation.evaluate(run, episodes, seed=seed, member=member)
    if out is not None:
        metrics.write_json(out, found)
    if as_json:
        typer.echo(metrics.to_json(found))
        return
    typer.echo(f"checkpoint of update {found['update']}, best #{found['best_member']}")
    typer.echo(f"{'task':32s} member       mean  95 % interval")
    for name, task in found["tasks"].items():
        for row in task["members"]:
            typer.echo(
                f"{name:32s} {row['member']:6d} {row['mean']:10.3f}  "
                f"{report.interval(row['interval'])} {report.episodes(row)}"
            )


@app.command()
def plot(
    folders: Annotated[list[pathlib.Path], typer.Argument(help="folders of runs")],
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="one picture of them  [default: comparison.png of several]"),
    ] = None,
) -> None:
    """Draw a run's pictures, or compare runs.

    With several runs, or --out, it is one picture that compares them.
    """
    from mtrl_jax import plots
    from mtrl_jax.experiments import reading

    parts = folders if len(folders) > 1 else reading.parts(folders[0])
    for folder in parts:
        reading.check_drawable(folder)
    if out is not None or len(folders) > 1:
        typer.echo(plots.compare(parts, out or pathlib.Path("comparison.png")))
        return
    for folder in parts:
        for path in plots.draw(folder):
            typer.echo(path)


@app.command()
def render(
    run: Annotated[
        pathlib.Path,
        typer.Argument(help="the folder of a run, or an environment's name"),
    ],
    out: Annotated[pathlib.Path, typer.Option(help="a .gif file")],
    member: Annotated[
        int | None, typer.Option(help="which member  [default: the best]")
    ] = None,
    steps: Annotated[int, typer.Option(help="environment steps at most", min=1)] = 500,
    seed: Annotated[
        int,
        typer.Option(help="of an environment without a run", min=0, max=2**32 - 1),
    ] = 0,
    open_loop: Annotated[
        bool,
        typer.Option(
            "--open-loop", help="what a world model predicts, beside what came"
        ),
    ] = False,
    context: Annotated[
        int | None,
        typer.Option(help="steps that a world model sees first  [default: 5]", min=1),
    ] = None,
) -> None:
    """Play an episode of every task into a GIF.

    Of a run by a member's newest checkpoint; of an environment by a scripted
    player where there is one (Labyrinth), else at random.
    """
    from mtrl_jax.experiments import open_loop as predictions
    from mtrl_jax.experiments import render

    machine.check()
    if open_loop:
        seen = predictions.CONTEXT if context is None else context
        for line in predictions.draw(run, out, member, steps, seen):
            typer.echo(line)
        return
    if context is not None:
        raise errors.ConfigError(
            "--context: of what a world model sees; add --open-loop"
        )
    typer.echo(render.render(run, out, member, steps, seed))


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="agents, envs, configs, or agents/NAME: its settings")
    ],
    match: Annotated[str, typer.Option(help="only lines that contain this")] = "",
) -> None:
    """List agents, envs or configs, or an agent's settings."""
    from mtrl_jax.experiments import listing

    for line in listing.lines(what):
        if match.lower() in line.lower():
            typer.echo(line)


def main() -> None:
    """Run the command; a known error is one line and exit code 2 or 1, no traceback."""
    xla.configure_process()
    # In the locale "C" stdout is ASCII: a name that is not must not end a run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with callbacks.ending_on_error(_tell), warnings.catch_warnings():
            warnings.showwarning = _in_one_line(warnings.showwarning)
            app(standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if line := machine.explain(error):
            _tell(line)
            sys.exit(1)
        code = _exit_code(error)
        if code is None:
            raise
        _tell(error)
        sys.exit(code)


def _in_one_line(show: Callable[..., None]) -> Callable[..., None]:
    """Returns ``show`` with warnings for the user as a line without its origin."""

    def show_warning(message, category, *where, **more) -> None:
        if category is UserWarning:
            _tell(message)
        else:
            show(message, category, *where, **more)

    return show_warning


def _tell(what: object) -> None:
    """Print a line to stderr, if there is one that takes it."""
    line = f"mtrl: {' '.join(str(what).split())}"
    print(line, file=screen.unfailing(sys.stderr), flush=True)


def _exit_code(error: Exception) -> int | None:
    """Returns the exit code of an error that is the user's to read, None otherwise."""
    if isinstance(error, errors.MtrlError):
        return error.exit_code
    if isinstance(error, OSError) and not isinstance(error, ImportError):
        return 1
    return None


if __name__ == "__main__":
    main()
