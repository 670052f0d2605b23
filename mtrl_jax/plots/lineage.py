"""Who copied whom in a run's PBT rounds, coloured by the ancestor in generation 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.plots import figures, run_series


class Segment(NamedTuple):
    """A line of the picture."""

    points: np.ndarray  # [n, 2], (update, member)
    ancestor: int
    rank: float  # 0 for the lowest score of its round, 1 for the highest; NaN: unknown
    copied: bool  # the line from a source to its copy, or the member's own life


def of_run(run: run_series.Run) -> Any:
    """Returns the figure, a row per member; None where there was no round."""
    if not run.rounds:
        return None
    segments = segments_of(run)
    P = len(run.rounds[0]["source"])
    colours = _ancestor_colours(segments, P)
    with figures.style():
        height = min(1.4 + 0.32 * P, 14)
        figure = figures.new_figure((9, height))
        axes = figure.subplots()
        _draw(axes, segments, colours)
        lost = run_series.lost_at(run.rows)
        alive = ~np.isin(np.arange(P), list(lost))
        survivors = np.unique(run.rounds[-1]["ancestor"][alive].astype(int))
        _number(axes, survivors, colours)
        _mark_lost(axes, lost, run.rows.update)
        axes.set(
            xlim=(0, run.rows.update[-1] or 1),
            ylim=(P - 0.4, -0.6),
            xlabel="update",
            yticks=[],
            title=f"Lineage: {_descent(len(survivors), P)}; thicker = higher score"
            + ", dashed: unknown" * any(np.isnan(s.rank) for s in segments),
        )
        axes.set_ylabel("member", labelpad=22)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
    return figure


def _descent(survivors: int, members: int) -> str:
    if survivors == members:
        return "every first member (bold) has descendants"
    return f"all descend from {survivors} of {members} first members (bold)"


def segments_of(run: run_series.Run) -> list[Segment]:
    """Returns each member's lives between rounds and the copies that join them.

    Of a member that is lost at the end there is no line from then on.
    """
    P = len(run.rounds[0]["source"])
    ends = {
        member: float(run.rows.update[row])
        for member, row in run_series.lost_at(run.rows).items()
    }
    segments, ancestor, start, rank = [], np.arange(P), 0.0, np.zeros(P)
    for row in run.rounds:
        end, source = float(row["update"]), row["source"].astype(int)
        rank = _ranks(row["score"])
        for i in range(P):
            until = min(end, ends.get(i, end))
            if until > start:
                segments.append(_life(start, until, i, ancestor[i], rank[i]))
        width = 0.35 * (end - start)
        for copy in np.flatnonzero(source != np.arange(P)):
            parent = int(source[copy])
            points = _bend(end - width, parent, end, float(copy))
            segments.append(Segment(points, int(ancestor[parent]), rank[parent], True))
        ancestor, start, rank = row["ancestor"].astype(int), end, rank[source]
    end = float(run.rows.update[-1])
    if end > start:
        segments += [
            _life(start, min(end, ends.get(i, end)), i, ancestor[i], rank[i])
            for i in range(P)
            if ends.get(i, end) > start
        ]
    return segments


def _draw(axes: Any, segments: list[Segment], colours: list[Any]) -> None:
    """Draw the copies, and over them the lives, thicker and darker with their rank.

    One without a score, not judged in its round, is in the middle, dashed.
    """
    from matplotlib.collections import LineCollection

    for copied in (True, False):
        chosen = [s for s in segments if s.copied == copied]
        if not chosen:  # matplotlib reduces over the empty list of alphas
            continue
        ranks = [0.5 if np.isnan(s.rank) else s.rank for s in chosen]
        lines = LineCollection(
            [s.points for s in chosen],
            colors=[colours[s.ancestor] for s in chosen],
            linewidths=[0.9 if copied else 1.0 + 4.0 * rank for rank in ranks],
            alpha=[0.55 if copied else 0.35 + 0.65 * rank for rank in ranks],
            linestyles=[
                "--" if np.isnan(s.rank) and not copied else "-" for s in chosen
            ],
            capstyle="round",
        )
        axes.add_collection(lines)


def _ranks(score: np.ndarray) -> np.ndarray:
    """Returns ranks [P] of the scores that are known; NaN of others."""
    known = ~np.isnan(score)
    found = np.full(len(score), np.nan)
    if known.any():
        found[known] = run_series.ranks(score[known])
    return found


def _number(axes: Any, survivors: np.ndarray, colours: list[Any]) -> None:
    """Write the members' numbers, in bold of those that have descendants at the end."""
    for member, colour in enumerate(colours):
        axes.annotate(
            str(member),
            (0, member),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=colour,
            weight="bold" if member in survivors else "normal",
        )


def _mark_lost(axes: Any, lost: Mapping[int, int], updates: np.ndarray) -> None:
    """Mark the end of a life that was lost and that no copy followed."""
    for member, row in lost.items():
        axes.plot(updates[row], member, "x", color=figures.LOST, ms=6, zorder=5)
        axes.annotate(
            "lost",
            (updates[row], member),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=figures.LOST,
        )


def _ancestor_colours(segments: list[Segment], P: int) -> list[Any]:
    """Returns one colour per ancestor; of many, only the most prolific get their own."""
    if P <= 10:
        return figures.colours(P)
    lives = np.bincount([s.ancestor for s in segments], minlength=P)
    colours: list[Any] = ["#b5b5b5"] * P
    # Number 7 is grey itself.
    palette = [c for i, c in enumerate(figures.colours(10)) if i != 7]
    for ancestor, colour in zip(np.argsort(-lives, kind="stable"), palette):
        colours[ancestor] = colour
    return colours


def _life(start: float, end: float, member: int, ancestor: int, rank: float) -> Segment:
    points = np.array([[start, member], [end, member]], float)
    return Segment(points, ancestor, rank, False)


def _bend(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Returns a curve that leaves and arrives level."""
    u = np.linspace(0, 1, 24)
    return np.stack(
        [x0 + (x1 - x0) * u, y0 + (y1 - y0) * (3 * u**2 - 2 * u**3)], axis=-1
    )
