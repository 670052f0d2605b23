"""The contracts of the kit: what an environment, an agent and a rollout are.

An ``Agent`` is four pure functions, an ``Env`` is two. Everything else in the kit either
builds one of them or moves them along the leading axes ``[P, T, B, ...]``: population
member, time, environment slot, always in this order. An agent never sees ``P``; only
the engine does. An environment is batched by contract: its functions take and return
``[P, B, ...]``, because some environments (envpool) cannot be vmapped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Tree = Any  # A pytree of arrays.
Key = jax.Array  # Typed PRNG key(s), never raw uint32.
Scalar = float | jax.Array  # A Python number or a traced scalar.


class Discrete(NamedTuple):
    """One categorical choice. Actions are int32 ``[]`` in ``[0, n)``."""

    n: int


class Factorised(NamedTuple):
    """Several independent categorical choices. Actions are int32 ``[len(sizes)]``."""

    sizes: tuple[int, ...]


class Box(NamedTuple):
    """A bounded real vector. Actions are float32 ``[len(low)]``, clipped to the bounds."""

    low: tuple[float, ...]
    high: tuple[float, ...]


# The leaf of an observation, int32 [], that tells a demonstrator what is best to do.
OPTIMAL = "optimal"

# The logit or value of an illegal action: below any that a network produces, and far
# enough inside float32 that differences of two and their products with 0 stay finite.
ILLEGAL = -1e30

ActionSpace = Discrete | Factorised | Box

# Some joint actions of a discrete space: a row holds the choice in each of its groups.
ActionSet = tuple[tuple[int, ...], ...]


class TimeStep(NamedTuple):
    """What an environment returns; leading axes ``[...]`` are ``[P, B]`` or fewer.

    ``reward`` and ``discount`` belong to *arriving* here. Autoreset is next-step: the
    step after ``last`` has ``first=True``, the new episode's first observation and
    reward 0; the action that led to it was ignored.
    """

    obs: Tree  # dict with "vector" [..., N] and/or "image" [..., H, W, C]; OPTIMAL
    reward: Array  # [...] float32, raw: clipping and scaling are the agent's choice
    discount: Array  # [...] float32, 0 iff terminal, 1 otherwise (also on truncation)
    first: Array  # [...] bool, first step of an episode
    last: Array  # [...] bool, last step of an episode (terminal or truncated)
    task: Array  # [...] int32, index into EnvSpec.tasks
    action_mask: Array  # [..., M] bool, see action_mask_size


class TaskSpec(NamedTuple):
    """One task of a mixture, in its own sizes (before padding)."""

    name: str
    obs: dict[str, jax.ShapeDtypeStruct]  # one slot
    action: ActionSpace
    # Scores that normalise a return to 0 (random policy) and 1 (reference).
    random_score: float | None = None
    reference_score: float | None = None
    # Longest episode in steps; None where the environment knows no limit.
    max_steps: int | None = None
    # Subsets of the actions that are worth a name ("small"), for action curricula.
    action_sets: Mapping[str, ActionSet] = {}
    # Episodes of one task that an episode is made of, see envs/trials.py.
    trial: int = 1
    # What Env.info measures of it beside the return ("success").
    measures: tuple[str, ...] = ()
    # What rewards were multiplied by (envs/wrappers.py); returns are reported without it.
    reward_scale: float = 1.0
    # How many observations its image is a stack of, the oldest first; None where nobody
    # says. A replay may store the newest of them alone (data/frame_stacks.py).
    frames: int | None = None


class EnvSpec(NamedTuple):
    """The shapes an agent must be built for: padded over all tasks."""

    obs: dict[str, jax.ShapeDtypeStruct]  # one slot
    action: ActionSpace
    tasks: tuple[TaskSpec, ...]
    action_sets: Mapping[str, ActionSet] = {}  # that all tasks have in common
    # The task of each slot [B], the same in every member; () where members have a task
    # each (``axis="population"``), or slots change theirs.
    slot_tasks: tuple[int, ...] = ()
    # The legal actions of each task [K][M], where they never change; () where an
    # environment says at every step which they are.
    masks: tuple[tuple[bool, ...], ...] = ()
    # A member learns one of the tasks alone; which one is another's in every member.
    one_each: bool = False

    @property
    def own_tasks(self) -> int:
        """How many of the tasks a member learns."""
        return 1 if self.one_each else len(self.tasks)


class Env(NamedTuple):
    """A batch of environments. ``reset`` and ``step`` work on ``[P, B, ...]``.

    ``reset(key, params)`` takes one key per member ``[P]``; slot b of member p draws
    from ``fold_in(key[p], b)`` alone. ``params`` is the traced pytree that curricula
    write to; ``Env.params`` holds the defaults. ``pure`` is False where a step acts on
    the world outside the program (envpool): such a state cannot be saved.
    """

    spec: EnvSpec
    batch: tuple[int, int]  # (P, B)
    reset: Callable[[Key, Tree], tuple[Tree, TimeStep]]
    step: Callable[[Tree, Array, Tree], tuple[Tree, TimeStep]]
    params: Tree = ()
    pure: bool = True
    # Measures beside the return (success, ...): state -> {name: [P, B] float32}. The
    # engine reads them where ts.last and averages them per member and task.
    info: Callable[[Tree], dict[str, Array]] = lambda state: {}
    # A picture for people of one slot, uint8 [H, W, 3]: (state, member, slot); None
    # where an environment has none. Not compiled with anything.
    render: Callable[[Tree, int, int], Any] = lambda state, member, slot: None


class HostEnv(NamedTuple):
    """The same batch of environments driven from Python, for the host runner.

    ``reset()`` returns the first TimeStep, ``send(action)`` starts a step and returns at
    once, ``recv()`` waits for it; everything is ``[P, B, ...]``, numpy or device arrays.
    Exactly one ``recv`` follows each ``send``. ``close()`` frees what the pool holds.
    """

    spec: EnvSpec
    batch: tuple[int, int]  # (P, B)
    reset: Callable[[], TimeStep]
    send: Callable[[Any], None]
    recv: Callable[[], TimeStep]
    close: Callable[[], None]
    # What Env.info gives, of the newest TimeStep: after reset or recv, not before a recv.
    info: Callable[[], dict[str, Array]] = dict
    # What Env.render gives, of the newest TimeStep: (member, slot).
    render: Callable[[int, int], Any] = lambda member, slot: None
    # A reset to the streams of keys [P], as Env.reset; None where keys mean nothing
    # (envpool), and every reset goes on with streams of its own.
    restart: Callable[[Key], TimeStep] | None = None


class Rollout(NamedTuple):
    """``T`` transitions of ``B`` slots; transition t goes from ``ts[t]`` to ``ts[t+1]``."""

    ts: TimeStep  # [T+1, B, ...]
    action: Array  # [T, B, ...]
    extras: Tree  # [T, B, ...] what act() wanted its update to know
    carry: Tree  # [B, ...] the memory before ts[0] was seen


class Replay(NamedTuple):
    """What stays with its member: experience that never travels. Pure functions.

    ``init(slots)`` returns the empty memory of one member.
    ``observe(memory, rollout, key, hp, step)`` returns ``(memory, batch)``: it adds the
    rollout, then draws the batches of all gradient steps of the update at once. ``step``
    [] int32 counts updates since the memory was empty, is the same for all members and
    is not batched, so that a position in the memory, or a ``lax.cond``, may depend on it.
    ``feedback(memory, feedback)`` returns the memory after what ``update`` found out
    about the batch (new priorities).

    The engine maps all three over members together and donates the memory, so it is
    written in place and never copied. Acting, evaluation, rendering, frozen weights and
    offline learning do not see it.
    """

    init: Callable[[int], Tree]
    observe: Callable[[Tree, Rollout, Key, Tree, Array], tuple[Tree, Tree]]
    feedback: Callable[[Tree, Tree], Tree] = lambda memory, feedback: memory


class Agent(NamedTuple):
    """A learning algorithm as four pure functions, without a population axis.

    ``init(key, hp)`` returns the learner: parameters, optimiser, target networks,
    statistics; what PBT copies, and all that ``act`` needs. Its leaves do not alias.
    ``carry(batch)`` returns the memory of ``batch`` fresh slots; the runner never
    resets it, ``act`` and ``update`` mask it by ``ts.first``.
    ``act(learner, carry, ts, key, hp)`` returns ``(action, carry, extras)``, all ``[B]``.
    ``update(learner, batch, key, hp, step)`` returns ``(learner, metrics, feedback)``.
    ``batch`` is what ``replay.observe`` drew, or the Rollout where there is no replay;
    metrics are a flat dict of float32 scalars; ``feedback`` is for ``replay.feedback``
    and () of an agent without one. ``step`` [] int32 counts updates, as for Replay.
    ``replay`` is what stays with the member, None where nothing does.
    """

    init: Callable[[Key, Tree], Tree]
    carry: Callable[[int], Tree]
    act: Callable[[Tree, Tree, TimeStep, Key, Tree], tuple[Array, Tree, Tree]]
    update: Callable[
        [Tree, Tree, Key, Tree, Array], tuple[Tree, dict[str, Array], Tree]
    ]
    replay: Replay | None = None


class Idle(NamedTuple):
    """A hyperparameter that a program does not read, and any value but ``off`` asks for."""

    off: float | None  # None: its default
    needs: str  # the static setting that makes a program that reads it


class Extent(NamedTuple):
    """The values of a hyperparameter that mean something under an agent's Config."""

    low: float
    high: float
    of: str  # the static settings that say so


class Wait(NamedTuple):
    """How long an agent waits before it learns, in updates and in steps of a member."""

    updates: int = 0
    steps: int = 0


class AgentInfo(NamedTuple):
    """What an agent needs and promises, so that its name need not be known."""

    summary: str  # one line, with the paper
    # update() reads what its own acting noted down (log-probabilities), which no dataset
    # of another's play has: the agent cannot learn offline.
    needs_extras: bool = False
    # update() reads what a teacher's acting noted down: of a dataset, what it recorded.
    reads_recorded: bool = False
    # Of a dataset it wants the columns of whole histories, too (data/columns.py).
    reads_columns: bool = False
    # {hyperparameter: value} with which held-out data are measured, whatever members are
    # trained with: of those that choose what is learned from.
    measured_with: Mapping[str, float] = {}
    # It observes the environment's optimal action, ``types.OPTIMAL``.
    reads_expert_labels: bool = False
    # Its carry outlives episodes: what it learns in one it knows in the next, unless its
    # hyperparameter ``across`` is there and 0.
    learns_across_episodes: bool = False
    # (carry, ts, action), [B, ...] -> the carry that ``act`` returned, as if it had
    # chosen ``action``: an agent that has it can watch others play.
    observe_action: Callable[[Tree, TimeStep, Array], Tree] | None = None
    # (carry, ts), [B, ...] -> the carry to which the step at ``ts`` is one of a prompt;
    # None where a prompt is remembered as anything else.
    keep_prompt: Callable[[Tree, TimeStep], Tree] | None = None
    # (spec, config) -> predict(learner, ts, action, key, hp, context), what its world model
    # says of observations that it does not see; see agents/dreamer_v2.py.
    open_loop: Callable[[EnvSpec, Any], Callable[..., dict[str, Array]]] | None = None
    # (own, given) -> the learner that a stage with ``init_from`` begins with, of its own
    # fresh one and another's; by default the other's as it was saved.
    inherit: Callable[[Tree, Tree], Tree] = lambda own, given: given
    # (config) -> {hyperparameter: Idle} of those that its program does not read.
    idle: Callable[[Any], dict[str, Idle]] = lambda config: {}
    # (config) -> {hyperparameter: Extent} of those that are counted on a scale of its own.
    limits: Callable[[Any], dict[str, Extent]] = lambda config: {}
    # (config) -> pairs of hyperparameters of which the first is below the second.
    ordered: Callable[[Any], tuple[tuple[str, str], ...]] = lambda config: ()
    # (config, {hyperparameter: value}) raises ValueError unless the values go together;
    # those that a search or a schedule sets are not among them.
    check_hparams: Callable[[Any, Mapping[str, float]], None] = lambda config, given: (
        None
    )
    # (config, hyperparameters [P], steps) raises ValueError unless a prompt and the longest
    # episode after it, ``steps`` together, are remembered by the end.
    check_prompt: Callable[[Any, Tree, int], None] = lambda config, hp, steps: None
    # (config, columns [H, L], task [H]) raises ValueError unless it can read what a dataset's
    # columns say (reads_columns).
    check_columns: Callable[[Any, Any, Array], None] = lambda config, columns, task: (
        None
    )
    # The field of its config, "replay.capacity" or such, that says how many steps a
    # member's replay holds, the bytes of which are in proportion to it.
    capacity: str | None = None
    # (config) -> plans of a slot in acting, each of which has a carry of its own.
    plans: Callable[[Any], int] = lambda config: 0
    # (config) -> {field of its config: Wait} of those that let it wait.
    waits: Callable[[Any], dict[str, Wait]] = lambda config: {}
    # The action spaces it acts in.
    actions: tuple[type, ...] = (Discrete, Factorised, Box)
    # A mixture of fewer tasks is refused by ``mtrl train``.
    fewest_tasks: int = 1
    # The probe tasks that it promises to learn (envs/probes.py, without "probe/").
    learns: tuple[str, ...] = ()


class AgentModule(Protocol):
    """What a file in ``agents/`` offers: static Config, traced Hparams, INFO, make."""

    Config: type
    Hparams: type
    INFO: AgentInfo

    @staticmethod
    def make(spec: EnvSpec, config: Any) -> Agent: ...


def check_several_tasks(spec: EnvSpec, what: str, works: str) -> None:
    """Raises ValueError unless a member learns several tasks.

    ``what`` is a setting that is of several, ``works`` one that is not.
    """
    if spec.own_tasks > 1:
        return
    names = ", ".join(task.name for task in spec.tasks)
    there, more = f"there is one ({names})", "more tasks"
    if spec.one_each:
        there = f"each member has one of {names} (population.axis=population)"
        more = "population.axis=slot"
    raise ValueError(f"{what}, {there}; use {works}, or {more}")


def action_mask_size(space: ActionSpace) -> int:
    """Returns the length of ``TimeStep.action_mask`` for a space.

    One entry per action (Discrete), per choice of each group one after the other
    (Factorised), per dimension (Box).
    """
    match space:
        case Discrete(n):
            return n
        case Factorised(sizes):
            return sum(sizes)
        case Box(low, _):
            return len(low)


def groups(space: ActionSpace) -> tuple[int, ...]:
    """Returns the sizes of the categorical groups; Discrete(n) is one, a Box has none."""
    match space:
        case Discrete(n):
            return (n,)
        case Factorised(sizes):
            return sizes
        case Box():
            return ()


def action_shape(space: ActionSpace) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of one slot's action."""
    import jax.numpy as jnp

    match space:
        case Discrete(_):
            return jax.ShapeDtypeStruct((), jnp.int32)
        case Factorised(sizes):
            return jax.ShapeDtypeStruct((len(sizes),), jnp.int32)
        case Box(low, _):
            return jax.ShapeDtypeStruct((len(low),), jnp.float32)
