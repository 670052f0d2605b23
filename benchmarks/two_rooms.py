"""Distral on two rooms and a corridor, solved exactly, by its own equations.

Two 5 x 5 rooms, a corridor of 7 cells between them, 12 goals (a task each), moves left,
right, up, down; -0.01 a step, +1 on entering the goal, which ends the episode; discount
0.95. Task policies know the cell; the distilled policy knows the cell alone, or the
action before as well. Soft values of all tasks and the distilled policy's refit take
turns until nothing moves. Prints, for each (beta, alpha),

    left, right   π_0 of a policy without memory in the middle of the corridor
    onward        least π_0(go on as before) over the corridor, with the action before
    return        mean discounted return of the task policies, without and with it

beside the specification's own run (other goals), and draws π_0 along the corridor.

    python benchmarks/two_rooms.py [--quick] [--out benchmarks/results]

Ref: Teh et al. 2017 (arXiv:1707.04175), section 4.1.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import pathlib
from typing import NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import xla
from mtrl_jax.losses import distral_equations as distral
from mtrl_jax.types import Array, Scalar

MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))  # left, right, up, down; rows, columns
DISCOUNT, STEP_COST, SMOOTHING = 0.95, 0.01, 1e-6
ALTERNATIONS, SWEEPS, STEPS = 40, 250, 300
STILL = 1e-6  # values that move less have arrived
# (beta, alpha): left and right, onward, the returns, of the specification's run.
EXPECTED = {
    (5.0, 0.5): (0.25, 0.25, 0.25, -0.196, -0.196),
    (20.0, 0.0): (0.25, 0.25, 0.24, -0.161, -0.161),
    (20.0, 0.5): (0.31, 0.35, 0.59, 0.382, 0.457),
    (20.0, 0.9): (0.50, 0.50, 1.00, 0.582, 0.628),
    (50.0, 0.0): (0.40, 0.41, 0.71, 0.569, 0.569),
    (50.0, 0.5): (0.49, 0.49, 0.96, 0.621, 0.630),
    (100.0, 0.5): (0.50, 0.50, 1.00, 0.633, 0.633),
}
COLUMNS = {
    "beta": ">5.0f",
    "alpha": ">5.1f",
    "left": ">5.2f",
    "right": ">5.2f",
    "onward": ">6.2f",
    "return": ">7.3f",
    "return, memory": ">14.3f",
    "expected": "<40",
}


class Rooms(NamedTuple):
    """The maze as tables of its N cells."""

    after: np.ndarray  # [N, 4] the cell that a move leads to
    corridor: tuple[int, ...]  # cells, from left to right
    rooms: tuple[tuple[int, ...], tuple[int, ...]]  # cells of the left, the right one


class Solution(NamedTuple):
    """What the alternation ends in; K tasks, M memories of the distilled policy."""

    prior: Array  # [N, M, 4]
    policies: Array  # [K, N, M, 4]
    returns: Array  # [K]
    objective: Array  # [alternations] J of each


def make_rooms() -> Rooms:
    """Returns the two rooms; who would leave the maze stays."""
    left, right = (
        [(row, column) for row in range(5) for column in columns]
        for columns in (range(5), range(12, 17))
    )
    corridor = [(2, column) for column in range(5, 12)]
    cells = [*left, *right, *corridor]
    number = {cell: i for i, cell in enumerate(cells)}
    after = [
        [number.get((row + down, column + along), i) for down, along in MOVES]
        for i, (row, column) in enumerate(cells)
    ]
    names = [tuple(number[cell] for cell in part) for part in (left, right, corridor)]
    return Rooms(np.asarray(after), names[2], (names[0], names[1]))


def draw_goals(rooms: Rooms, seed: int) -> Array:
    """Returns 12 goals [K], six cells of each room."""
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(room, 6, replace=False) for room in rooms.rooms]
    return jnp.asarray(np.concatenate(chosen))


@functools.partial(jax.jit, static_argnames="memory")
def solve(goals: Array, alpha: Scalar, beta: Scalar, memory: bool) -> Solution:
    """Returns the fixed point of exact alternation for tasks ``goals`` [K]."""
    rooms = make_rooms()
    memories = 5 if memory else 1
    # The memory after each action; the last one is that of an episode's first step.
    remembered = jnp.arange(4) if memory else jnp.zeros(4, int)
    shape = (len(rooms.after), memories, 4)

    def alternate(state, _):
        q, prior = state
        log_prior = jnp.broadcast_to(jnp.log(prior), q.shape)

        def sweep(state):
            n, q, _ = state
            value = distral.soft_value(q, log_prior, alpha, beta)  # [K, N, M]
            backup = jax.vmap(functools.partial(_backup, rooms, remembered))
            after = backup(goals, value)
            return n + 1, after, jnp.max(jnp.abs(after - q))

        def moves(state):
            n, _, moved = state
            return (n < SWEEPS) & (moved > STILL)

        _, q, _ = jax.lax.while_loop(moves, sweep, (0, q, jnp.inf))
        policies = jnp.exp(distral.log_policy(q, log_prior, alpha, beta))
        visits, returns, shaped = jax.vmap(
            functools.partial(_visits, rooms, remembered, log_prior[0], alpha, beta)
        )(goals, policies)
        counts = jnp.sum(visits, axis=0) + SMOOTHING
        after = counts / jnp.sum(counts, axis=-1, keepdims=True)
        return (q, after), (policies, returns, jnp.sum(shaped), prior)

    start = (jnp.zeros((len(goals), *shape)), jnp.full(shape, 0.25))
    (_, prior), history = jax.lax.scan(alternate, start, None, length=ALTERNATIONS)
    policies, returns, objective, _ = history
    return Solution(prior, policies[-1], returns[-1], objective)


def _backup(rooms: Rooms, remembered: Array, goal: Array, value: Array) -> Array:
    """Returns q [N, M, 4] = r + γ V(cell, memory after the action); 0 beyond the goal."""
    beyond = value[rooms.after, remembered]  # [N, 4]
    there = rooms.after == goal
    q = -STEP_COST + jnp.where(there, 1.0, DISCOUNT * beyond)
    return jnp.broadcast_to(q[:, None], (*value.shape, 4))


def _visits(rooms, remembered, log_prior, alpha, beta, goal, policy):
    """Returns (discounted visits [N, M, 4], return [], shaped return []) of a task.

    From a cell of the rooms drawn uniformly, the goal left out.
    """
    cells = np.concatenate(rooms.rooms)
    starts = jnp.zeros(len(rooms.after)).at[cells].set(1.0).at[goal].set(0.0)
    present = jnp.zeros(policy.shape[:2]).at[:, -1].set(starts / jnp.sum(starts))
    there = rooms.after == goal
    extra = distral.shaped_reward(
        jnp.zeros(()), jnp.log(policy), log_prior, alpha, beta
    )
    reward = jnp.broadcast_to(
        (jnp.where(there, 1.0, 0.0) - STEP_COST)[:, None], policy.shape
    )

    def step(state, _):
        present, weight, seen = state
        flow = present[..., None] * policy  # [N, M, 4]
        going = jnp.where(there, 0.0, jnp.sum(flow, axis=1))  # [N, 4]
        after = jnp.zeros_like(present)
        after = after.at[rooms.after, jnp.broadcast_to(remembered, going.shape)].add(
            going
        )
        return (after, weight * DISCOUNT, seen + weight * flow), None

    start = (present, jnp.ones(()), jnp.zeros_like(policy))
    (_, _, seen), _ = jax.lax.scan(step, start, None, length=STEPS)
    return seen, jnp.sum(seen * reward), jnp.sum(seen * (reward + extra))


def row(goals: Array, beta: float, alpha: float) -> dict:
    """Returns the row of one setting."""
    plain, knowing = (solve(goals, alpha, beta, memory) for memory in (False, True))
    return row_of(plain, knowing, beta, alpha)


def row_of(plain: Solution, knowing: Solution, beta: float, alpha: float) -> dict:
    """Returns the row of a setting's solutions, without and with a memory."""
    rooms = make_rooms()
    middle = plain.prior[rooms.corridor[3], 0]
    onward = [
        knowing.prior[cell, move, move]
        for cell, move in itertools.product(rooms.corridor, (0, 1))
    ]
    return {
        "beta": beta,
        "alpha": alpha,
        "left": float(middle[0]),
        "right": float(middle[1]),
        "onward": float(min(onward)),
        "return": float(jnp.mean(plain.returns)),
        "return, memory": float(jnp.mean(knowing.returns)),
        "expected": " ".join(map(str, EXPECTED.get((beta, alpha), ()))),
    }


def main() -> None:
    """Solves, prints, writes and draws."""
    args = arguments()
    xla.configure_process()
    goals = draw_goals(make_rooms(), args.seed)
    settings = [(50.0, 0.5)] if args.quick else list(EXPECTED)
    print(common.header(COLUMNS), flush=True)
    rows = []
    for beta, alpha in settings:
        rows.append(row(goals, beta, alpha))
        print(common.line(rows[-1], COLUMNS), flush=True)
    result = {"machine": common.environment(), "seed": args.seed, "rows": rows}
    print(f"written: {common.write(args.out, 'two_rooms', result)}")
    draw(goals, args.out / "two_rooms.png")


def draw(goals: Array, path: pathlib.Path) -> None:
    """Draws π_0 along the corridor at β = 50, α = 0.5, by what it knows."""
    cells = list(make_rooms().corridor)
    plain, knowing = (solve(goals, 0.5, 50.0, memory).prior for memory in (False, True))
    panels = {
        "knows the cell": plain[cells, 0],
        "and came from the left": knowing[cells, 1],
        "and came from the right": knowing[cells, 0],
    }
    with common.figure(path, tuple(panels)) as axes:
        for ax, prior in zip(axes, panels.values()):
            for move, name in enumerate(("left", "right", "up", "down")):
                ax.plot(range(1, len(cells) + 1), prior[:, move], "o-", label=name)
            ax.set(xlabel="cell of the corridor", ylabel="π₀", ylim=(-0.05, 1.05))
            ax.legend(fontsize="small")


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "one setting")
    made.add_argument("--seed", type=int, default=0, help="of the goals")
    return made.parse_args()


if __name__ == "__main__":
    main()
