"""Learning histories as tokens: what a step of a history is, and how it is embedded.

A step is what is known when an action is to be chosen: the observation and the step
before it (action, reward, whether an episode ended there). The action chosen *at* a step
is therefore no input of that step, and cannot leak into its own prediction; acting and
training read the same rows.

    step    one token a step: o_t, a_{t-1}, r_{t-1}, done_{t-1} together
    triple  three tokens: a_{t-1}; r_{t-1} and done_{t-1}; o_t. In a row they are
            o_0, a_0, r_0, o_1, ..., and the action is predicted at the o token
    set     two tokens: the transition (o_{t-1}, a_{t-1}, r_{t-1}, done_{t-1}, o_t),
            which sees nothing else, and o_t, which sees the transitions and predicts.
            In what order they came makes no difference

With returns (``outlook``) a step has one token more, the last: R_t, what is to come. It
stands after o_t, so that it can be predicted from what came before; the action is predicted
at it ("step_return", "triple_return"). With ``outlook.steps`` all tokens of a step have
its place in the episode added, a vector that is learned for each.

Episodes follow each other in one history; nothing is reset between them.

Refs: Laskin et al. 2023, arXiv:2210.14215; for "set", Lee et al. 2023, "Supervised
Pretraining Can Learn In-Context Reinforcement Learning" (arXiv:2306.14892). There the
transitions see those before them, so that their order does make a difference.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import tree, types
from mtrl_jax.networks import heads, product, torsos
from mtrl_jax.networks.transformers import tokeniser
from mtrl_jax.networks.transformers.outlook import Outlook, features
from mtrl_jax.types import Array, Tree

# Of a step, by encoding; the last one predicts.
TOKENS = {"step": 1, "triple": 3, "set": 2, "step_return": 2, "triple_return": 4}
# Of these, the last that belong to the step itself and not to what came before it.
OWN = {"step": 1, "triple": 1, "set": 1, "step_return": 2, "triple_return": 2}
_NUMBER = 16  # what a number's bin is worth, see tokeniser
# The encodings to choose from; ``with_returns`` gives the others.
ENCODINGS = ("step", "triple", "set")


class Steps(NamedTuple):
    """Steps of learning histories, ``[T, B, ...]``, or of one moment, ``[B, ...]``.

    From a TimeStep: ``Steps(ts.obs, prev_action, ts.reward, ts.first, has_prev)``, where
    has_prev is False only at the first step of all. Rewards are read as they are.
    """

    obs: Tree  # [T, B, ...]
    prev_action: Array  # [T, B, ...] a_{t-1}
    prev_reward: Array  # [T, B] r_{t-1}
    prev_done: Array  # [T, B] bool, a_{t-1} was the last action of an episode
    has_prev: (
        Array  # [T, B] bool, False: no step is before; the prev_ fields are unread
    )
    live: Array | None = (
        None  # [T, B] bool, False: padding, as if absent; None: all live
    )
    prev_obs: Tree = None  # [T, B, ...] o_{t-1}; read where steps are a "set"
    # Read where there are tokens of returns:
    return_to_go: Array | None = None  # [T, B]
    return_known: Array | None = None  # [T, B] from 0, not at all, to 1
    # Read where steps of an episode have embeddings:
    episode_step: Array | None = None  # [T, B] int32, from 0
    step_known: Array | None = None  # [T, B] from 0, not at all, to 1
    # Read where steps may see their own episode alone:
    begins: Array | None = None  # [T, B] bool, the first step of an episode
    prompt: Array | None = None  # [T, B] bool, before all others, and seen by all


def dummy(
    obs: dict[str, jax.ShapeDtypeStruct],
    space: types.ActionSpace,
    encoding: str,
    counted: bool = False,
) -> Steps:
    """Returns Steps [1] of zeros, with all that an encoding reads, for one slot.

    ``counted``: the step of the episode is read, too.
    """

    def zeros(struct) -> Any:
        return np.zeros((1, *struct.shape), struct.dtype)  # Compiles nothing.

    action = zeros(types.action_shape(space))
    no = zeros(jax.ShapeDtypeStruct((), bool))
    seen = {k: zeros(v) for k, v in obs.items()}
    nothing = zeros(jax.ShapeDtypeStruct((), jnp.float32))
    made = Steps(seen, action, nothing, no, no, None, seen, nothing, nothing)
    if counted:
        place = zeros(jax.ShapeDtypeStruct((), jnp.int32))
        made = made._replace(episode_step=place, step_known=nothing)
    return read(made, encoding)


def with_returns(encoding: str) -> str:
    """Returns the encoding with a token of the return; ValueError of a set."""
    if encoding == "set":
        raise ValueError(
            "encoding: 'set' has no token of a return; use 'step' or 'triple'"
        )
    return f"{encoding}_return"


def has_returns(encoding: str) -> bool:
    """Returns whether the last token of a step is its return."""
    return encoding.endswith("_return")


def read(steps: Steps, encoding: str) -> Steps:
    """Returns Steps without what an encoding does not read.

    Raises ValueError where what it reads is not there.
    """
    if not has_returns(encoding):
        steps = steps._replace(return_to_go=None, return_known=None)
    if encoding != "set":
        return steps._replace(prev_obs=None)
    if steps.prev_obs is None:
        raise ValueError(
            "prev_obs: None, but the encoding 'set' reads it; give o_{t-1} of each step"
        )
    return steps


def live_tokens(steps: Steps, encoding: str) -> Array | None:
    """Returns which tokens exist, [B, S]; None where all do, whatever the values.

    >>> two = Steps({}, None, None, None, has_prev=jnp.array([[False], [True]]))
    >>> live_tokens(two, "triple").tolist()  # Action, reward and observation of each.
    [[False, False, True, True, True, True]]
    """
    tokens, own = TOKENS[encoding], OWN[encoding]
    if tokens == own == 1:
        return None if steps.live is None else steps.live.T
    live = jnp.ones(steps.has_prev.shape, bool) if steps.live is None else steps.live
    before = live & steps.has_prev
    each = jnp.stack([before] * (tokens - own) + [live] * own, axis=-1)
    return jnp.swapaxes(each, 0, 1).reshape(live.shape[1], -1)


class Tokens(nn.Module):
    """Returns the tokens [B, S, width] of Steps [T, B]; S = T times TOKENS[encoding]."""

    encoding: str
    width: int
    space: types.ActionSpace
    torso: str  # one that torsos.choose gave
    hidden: tuple[int, ...]
    activation: str
    convolution: str
    dtype: Any
    numbers: str = "none"  # see tokeniser
    outlook: Outlook | None = None  # where there are returns

    @nn.compact
    def __call__(self, steps: Steps) -> Array:
        chex.assert_rank(steps.has_prev, 2)
        action = heads.encode(self.space, steps.prev_action)
        outcome = jnp.stack(
            [steps.prev_reward, steps.prev_done.astype(jnp.float32)], axis=-1
        )
        obs = tokeniser.observation(self.numbers, _NUMBER, steps.obs)
        if self.encoding in ("step", "step_return"):
            last = jnp.concatenate([action, outcome], axis=-1)
            last = tree.where(steps.has_prev, last, jnp.zeros_like(last))
            one = self._dense("observation")(self._torso()(obs, last))
            if self.encoding == "step":
                return jnp.swapaxes(self._placed(one, steps), 0, 1)
            return self._in_a_row([one, self._return(steps)], steps)
        nothing = jnp.zeros((*steps.has_prev.shape, 0))
        torso = self._torso()
        seen = torso(obs, nothing)
        if self.encoding == "set":
            # What follows the end of an episode is no part of it.
            after = tree.where(steps.prev_done, jnp.zeros_like(seen), seen)
            before = torso(steps.prev_obs, nothing)
            transition = jnp.concatenate([before, action, outcome, after], axis=-1)
            tokens = [self._dense("transition")(transition)]
        else:
            tokens = [self._dense("action")(action), self._dense("outcome")(outcome)]
        tokens.append(self._dense("observation")(seen))
        if has_returns(self.encoding):
            tokens.append(self._return(steps))
        return self._in_a_row(tokens, steps)

    def _return(self, steps: Steps) -> Array:
        """Returns the token of R_t [T, B, width]: what is learned of one not known."""
        if (
            self.outlook is None
            or steps.return_to_go is None
            or steps.return_known is None
        ):
            raise ValueError(
                "return_to_go: None, but there are tokens of returns; give them"
            )
        shape = (self.width,)
        unknown = self.param("unknown_return", nn.initializers.normal(1.0), shape)
        embedded = self._dense("return")(features(self.outlook, steps.return_to_go))
        known = steps.return_known[..., None]
        return known * embedded + (1.0 - known) * unknown[None, None]

    def _placed(self, token: Array, steps: Steps) -> Array:
        """Returns the token [T, B, width] with the step's place in its episode added."""
        number = 0 if self.outlook is None else self.outlook.steps
        if not number:
            return token
        if steps.episode_step is None or steps.step_known is None:
            raise ValueError("episode_step: None, but steps have embeddings; give it")
        shape = (number, self.width)
        table = self.param("episode_step", nn.initializers.normal(0.02), shape)
        place = jnp.minimum(steps.episode_step, number - 1)
        return token + steps.step_known[..., None] * jnp.take(table, place, axis=0)

    def _in_a_row(self, tokens: list[Array], steps: Steps) -> Array:
        """Returns n tokens [T, B, width] of each step one after the other, [B, T n, width]."""
        if self.outlook is not None and self.outlook.steps:
            place = self._placed(jnp.zeros_like(tokens[0]), steps)
            tokens = [token + place for token in tokens]
        batched = jnp.moveaxis(jnp.stack(tokens, axis=2), 0, 1)  # [B, T, n, width]
        return batched.reshape(batched.shape[0], -1, self.width)

    def _torso(self) -> torsos.Torso:
        return torsos.Torso(
            self.torso,
            self.hidden,
            self.activation,
            self.convolution,
            dtype=self.dtype,
            name="torso",
        )

    def _dense(self, name: str) -> nn.Dense:
        return nn.Dense(
            self.width, dtype=self.dtype, dot_general=product.dot_general, name=name
        )
