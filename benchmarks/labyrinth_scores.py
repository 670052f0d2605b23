"""Labyrinth: what random play and the oracle score on every level, by action set.

Means over whole episodes with 95 % bootstrap intervals. ``--write`` puts the numbers into
the table that normalised scores are computed with; ``--check`` plays other episodes and
fails where the table does not hold. Of levels that are not played the results stay.

    python benchmarks/labyrinth_scores.py --write    # 128 episodes a level: half an hour
    python benchmarks/labyrinth_scores.py --check    # 16 episodes a level: ten minutes
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import sys
from typing import Any

import common

from mtrl_jax import xla
from mtrl_jax.envs import labyrinth
from mtrl_jax.envs.labyrinth import levels, scores

COLUMNS = {"level": "<31", **dict.fromkeys(scores.PLAYERS, ">24")}
QUICK = 16
_START = "TABLE: "


def main() -> None:
    """Prints the table; writes JSON and, if asked to, the module; checks if asked to."""
    args = arguments()
    xla.configure_process()
    print(common.header(COLUMNS))
    table, lengths, wrong = {}, {}, []
    for level in args.levels:
        table[level], lengths[level], off = measure(level, args)
        cells = {player: _cell(x) for player, x in table[level]._asdict().items()}
        print(common.line({"level": level, **cells}, COLUMNS), flush=True)
        wrong += off
    if args.check:
        sys.exit("\n".join(["scores.TABLE does not hold:", *wrong]) if wrong else 0)
    machine = common.environment()
    rows = kept(args) | {
        level: _row(level, table[level], lengths[level])
        | {"measured": machine["date"][:10]}
        for level in table
    }
    result = {
        "machine": machine,
        "episodes": args.episodes,
        "seed": args.seed,
        "rows": [rows[level] for level in labyrinth.names() if level in rows],
    }
    print(common.write(args.out, "labyrinth_scores", result))
    if args.write:
        write(pathlib.Path(scores.__file__), {**scores.TABLE, **table})


def kept(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns the rows of a result of as many episodes by the same seed, by level."""
    path = args.out / "labyrinth_scores.json"
    before = json.loads(path.read_text()) if path.exists() else {"rows": []}
    if any(before.get(name) != getattr(args, name) for name in ("episodes", "seed")):
        return {}
    day = before["machine"]["date"][:10]
    rows = before["rows"]
    return {row["level"]: row | {"measured": row.get("measured", day)} for row in rows}


def measure(level: str, args: argparse.Namespace) -> tuple:
    """Returns (Scores, {player: mean decisions}, what differs from the table)."""
    found, lengths, wrong = {}, {}, []
    for player in scores.PLAYERS:
        play = _player(levels.LEVELS[level].kind, player, args.episodes)
        returns, length = play(args.seed, labyrinth.task(level).params)
        found[player], lengths[player] = scores.score(returns), float(length.mean())
        if args.check and not scores.agrees(level, player, returns):
            stored = getattr(scores.TABLE[level], player)
            wrong.append(f"{level}, {player}: {stored} and now {found[player]}")
    return scores.Scores(**found), lengths, wrong


@functools.cache
def _player(kind: Any, player: str, episodes: int):
    """Returns ``play``, compiled once for all levels of a kind."""
    level = next(name for name, it in levels.LEVELS.items() if it.kind is kind)
    action_set, policy = scores.PLAYERS[player]
    task = labyrinth.task(level, {"actions": action_set})
    return scores.player(task, policy, episodes)


def write(path: pathlib.Path, table: dict[str, scores.Scores]) -> None:
    """Replaces everything from the table's first line to the end of the module."""
    before, _, _ = path.read_text().partition(_START)
    lines = [f"{_START}dict[str, Scores] = {{"]
    for level in filter(table.__contains__, labyrinth.names()):
        lines.append(f'    "{level}": Scores(')
        for name, (mean, low, high) in table[level]._asdict().items():
            lines.append(f"        {name}=Score({mean:.4g}, {low:.4g}, {high:.4g}),")
        lines.append("    ),")
    path.write_text(before + "\n".join([*lines, "}", ""]))


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", f"{QUICK} episodes of two levels")
    names = labyrinth.names()
    made.add_argument("--levels", nargs="+", default=names, choices=names)
    made.add_argument("--episodes", type=int, help="of each player on a level")
    made.add_argument("--seed", type=int, help="of the episodes")
    made.add_argument("--write", action="store_true", help="write scores.py as well")
    made.add_argument("--check", action="store_true", help="compare with scores.py")
    args = made.parse_args()
    if args.quick:
        args.levels = ["explore_object_locations_small", "nav_maze_static_01"]
    few = args.quick or args.check
    args.episodes = args.episodes or (QUICK if few else scores.EPISODES)
    # Other episodes than those of the table, or a check would repeat them.
    args.seed = int(args.check) if args.seed is None else args.seed
    if args.write and args.episodes != scores.EPISODES:
        made.error(
            f"--write: the table's scores are of {scores.EPISODES} episodes, these would "
            f"be of {args.episodes}; leave out --quick, --check and --episodes"
        )
    return args


def _cell(score: scores.Score) -> str:
    return f"{score.mean:.2f} ({score.low:.2f}, {score.high:.2f})"


def _row(level: str, found: scores.Scores, lengths: dict[str, float]) -> dict[str, Any]:
    each = {player: score._asdict() for player, score in found._asdict().items()}
    return {"level": level, "returns": each, "decisions": lengths}


if __name__ == "__main__":
    main()
