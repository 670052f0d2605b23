"""A run's rows on their way to disk and to the boards; see the package for the files."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import IO, Any

from mtrl_jax.metrics import boards, jsonl

METRICS = "metrics.jsonl"
LINEAGE = "lineage.jsonl"
HELD_OUT = (
    "held_out/"  # begins the names of what histories that none is trained on gave
)


class MetricsWriter:
    """Appends to the files of one run folder; every row is on its way to disk at once.

    Args:
        run: the folder, made if missing.
        resume_after: the update a resumed run goes on from: later rows (of a process
            that was killed after its last checkpoint) and a half-written last line are
            dropped. None: a new run, nothing is dropped.
        round_owed: the round of ``resume_after`` itself is still to be made, so that it
            is dropped as well.
        test_due: the row of ``resume_after`` keeps its test; False where only a run
            that ended there has one.
        tensorboard: whether to write TensorBoard events as well.
        wandb: arguments of ``wandb.init`` (project, name, group, config, …); None: no
            W&B. Its id is kept in the folder, so that a resumed run goes on with it.
        curves: the hyperparameters that move during the run; TensorBoard and W&B have
            the others once, as text and config. None: all are curves.

    Raises:
        ValueError: W&B is asked for and not installed.
    """

    def __init__(
        self,
        run: str | os.PathLike,
        *,
        resume_after: int | None = None,
        round_owed: bool = False,
        test_due: bool = True,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | None = None,
        curves: Collection[str] | None = None,
    ):
        # First what may fail, so that nothing is written if it does.
        self._wandb = None if wandb is None else boards.open_wandb(wandb, run)
        self._run = pathlib.Path(run)
        self._run.mkdir(parents=True, exist_ok=True)
        if self._wandb is not None:
            boards.keep_id(self._wandb, self._run)
        self._curves, self._begun = curves, False
        if resume_after is not None:
            truncate_after(
                self._run, resume_after, round_owed=round_owed, test_due=test_due
            )
        self._files: dict[str, IO[bytes]] = {
            name: open(self._run / name, "ab")  # noqa: SIM115
            for name in (METRICS, LINEAGE)
        }
        self._board = None
        if tensorboard:
            purge = None if resume_after is None else _next_step(self._run)
            self._board = boards.open_tensorboard(self._run, purge)

    def write(
        self,
        *,
        update: int,
        env_steps: int,
        wall_s: float,
        steps_per_s: float,
        compiles: int,
        metrics: Mapping[str, Any],
        returns: Mapping[str, Any],
        hparams: Mapping[str, Any],
        evaluation: Mapping[str, Any] | None = None,
        lost: Sequence[int] = (),
    ) -> None:
        """Append one chunk's row; values per member are arrays [P].

        ``evaluation`` has a task's mean return where members were tested after the
        chunk, ``lost`` the members whose weights are not finite; a row without one of
        them has no such field.
        """
        fields = {
            "update": update,
            "env_steps": env_steps,
            "wall_s": wall_s,
            "steps_per_s": steps_per_s,
            "compiles": compiles,
            "metrics": metrics,
            "returns": returns,
            "hparams": hparams,
        }
        if evaluation is not None:
            fields["evaluation"] = evaluation
        if lost:
            fields["lost"] = list(lost)
        row = jsonl.plain(fields)
        jsonl.append(self._files[METRICS], row)
        if not self._begun:
            self._begun = True
            self._write_constants(boards.constants(row, self._curves), env_steps)
        self._show(row)

    def add_test(
        self,
        update: int,
        metrics: Mapping[str, Any],
        evaluation: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a test at the end to the newest row, that of ``update``, if it has none.

        Of members that the row lists as lost it counts for nothing.
        """
        path = self._run / METRICS
        rows = jsonl.rows(path, path.read_bytes())
        if not rows or rows[-1][1]["update"] != update:
            return  # Somebody has taken it away.
        row = rows[-1][1]
        added = {"metrics": metrics, "evaluation": evaluation or {}}
        added = {group: x for group, x in jsonl.plain(added).items() if x}
        if all(name in row.get(group, {}) for group in added for name in added[group]):
            return
        for group, found in added.items():
            for values in found.values():
                for member in row.get("lost", []):
                    values[member] = None
            row[group] = row.get(group, {}) | found
        self._files[METRICS].close()
        lines = [*(line for line, _ in rows[:-1]), json.dumps(row).encode(), b""]
        jsonl.replace(path, b"\n".join(lines))
        self._files[METRICS] = open(path, "ab")  # noqa: SIM115
        nothing = dict.fromkeys(("steps_per_s", "compiles"))
        where = {name: row[name] for name in ("update", "env_steps")}
        self._show(
            {**where, **nothing, "metrics": {}, "returns": {}, "hparams": {}} | added
        )

    def _show(self, row: Mapping[str, Any]) -> None:
        """Give a row to the boards."""
        scalars = boards.scalars(row, self._curves)
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, row["env_steps"])
        if self._wandb is not None:
            shown = {"update": row["update"], **scalars}
            self._wandb.log(shown, step=row["env_steps"])

    def _write_constants(self, constants: Mapping[str, Any], env_steps: int) -> None:
        if constants and self._board is not None:
            self._board.add_text("hparams", json.dumps(constants), env_steps)
        if constants and self._wandb is not None:
            self._wandb.add_config({"hparams": dict(constants)})

    def write_lineage(
        self,
        *,
        update: int,
        score: Any,
        source: Any,
        ancestor: Any,
        hparams_before: Mapping[str, Any],
        hparams_after: Mapping[str, Any],
    ) -> None:
        """Append one PBT round; ``ancestor`` is that after the copies."""
        row = {
            "update": update,
            "score": score,
            "source": source,
            "ancestor": ancestor,
            "hparams_before": hparams_before,
            "hparams_after": hparams_after,
        }
        jsonl.append(self._files[LINEAGE], jsonl.plain(row))

    def flush(self) -> None:
        """Wait until all rows are on disk: call it before saving a checkpoint.

        A checkpoint whose rows were lost (a power cut) could not get them back.
        """
        for file in self._files.values():
            os.fsync(file.fileno())
        if self._board is not None:
            self._board.flush()

    def close(self, exit_code: int = 0) -> None:
        """Close the files and boards; a second call does nothing.

        W&B marks a run with another ``exit_code`` than 0 as failed.
        """
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=exit_code)
        self._board = self._wandb = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(exit_code=0 if kind is None else 1)


def truncate_after(
    run: str | os.PathLike,
    update: int,
    *,
    round_owed: bool = False,
    test_due: bool = True,
) -> None:
    """Drop the rows of both files beyond ``update`` and cut-off lines.

    With ``round_owed`` the PBT round of ``update`` is dropped, too; without ``test_due``
    the test in its row. The other lines stay byte for byte; a file changes by renaming,
    or not at all.
    """
    for name in (METRICS, LINEAGE):
        path = pathlib.Path(run) / name
        if not path.exists():
            continue
        old = path.read_bytes()
        last = update - (round_owed and name == LINEAGE)
        kept = [(x, row) for x, row in jsonl.rows(path, old) if row["update"] <= last]
        lines = [
            line if test_due or row["update"] < update else _without_test(line, row)
            for line, row in kept
        ]
        new = b"".join(line + b"\n" for line in lines)
        if new != old:
            jsonl.replace(path, new)


def _without_test(line: bytes, row: Mapping[str, Any]) -> bytes:
    """Returns the line of a row as it was before ``MetricsWriter.add_test``."""
    if "metrics" not in row:  # A PBT round.
        return line
    kept = {name: x for name, x in row.items() if name != "evaluation"}
    of_training = {
        name: x for name, x in row["metrics"].items() if not name.startswith(HELD_OUT)
    }
    return json.dumps(kept | {"metrics": of_training}).encode()


def _next_step(run: pathlib.Path) -> int:
    """Returns the first env step that no row has reached; what is later is made again."""
    rows = jsonl.read(run / METRICS) if (run / METRICS).exists() else []
    return rows[-1]["env_steps"] + 1 if rows else 0
