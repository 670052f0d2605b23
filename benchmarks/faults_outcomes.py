"""What a run left behind, and whether that is what it should have left."""

from __future__ import annotations

import json
import pathlib
from typing import Any

# What two runs with the same numbers may differ in.
_OF_THE_PROCESS = ("wall_s", "steps_per_s", "compiles")
# Results of a summary that other episodes give other values.
_OF_EPISODES = ("tasks", "score", "best_member")
Outcome = dict[str, Any]


def of(run: pathlib.Path) -> Outcome:
    """Returns {file: content} of all rows, rounds and results in a run's folder."""
    found: Outcome = {}
    for path in sorted(run.rglob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            for name in _OF_THE_PROCESS:
                row.pop(name, None)
        found[str(path.relative_to(run))] = rows
    for path in sorted(run.rglob("summary.json")):
        summary = json.loads(path.read_text())
        keys = (*_OF_EPISODES, "complete", "lost")
        found[str(path.relative_to(run))] = {k: summary.get(k) for k in keys}
    found["pictures"] = sorted(str(p.relative_to(run)) for p in run.rglob("*.png"))
    return found


def after_restart(outcome: Outcome, update: int) -> Outcome:
    """Returns what must be the same where new episodes began at ``update``.

    All of the rows up to it, that there are the later ones, tasks, and that it ended.
    """
    kept: Outcome = {}
    for name, content in outcome.items():
        if name.endswith(".jsonl"):
            content = [
                row if row["update"] <= update else row["update"] for row in content
            ]
        elif name.endswith("summary.json"):
            others = {k: v for k, v in content.items() if k not in _OF_EPISODES}
            content = {**others, "tasks": sorted(content["tasks"] or [])}
        kept[name] = content
    return kept


def gone_on_from(run: pathlib.Path) -> int | None:
    """Returns the checkpoint that a run will go on from.

    None without one, and of a run that has ended: nothing of it is played again.
    """
    summary = run / "summary.json"
    if summary.exists() and json.loads(summary.read_text()).get("complete", True):
        return None
    saved = [int(p.name) for p in run.glob("checkpoints/*") if p.name.isdigit()]
    return max(saved, default=0) or None


def rows_of(run: pathlib.Path) -> int:
    """Returns how many rows a run has in all of its stages."""
    # Not all of the folder is looked through: checkpoints come and go meanwhile.
    paths = [*run.glob("metrics.jsonl"), *run.glob("stages/*/metrics.jsonl")]
    return sum(path.read_bytes().count(b"\n") for path in paths)


def is_partial(run: pathlib.Path) -> bool:
    """Returns whether a folder can neither be gone on with nor begun in anew."""
    if not run.exists() or (run / "config.yaml").exists():
        return False
    left = {path.name for path in run.iterdir()}
    left -= {path.name for path in run.glob(".config.yaml*.tmp")}
    return not left <= {".lock", "checkpoints"}
