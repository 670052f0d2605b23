"""What never changes in the time steps of an environment: task numbers, legal actions.

A step of the loop need neither carry nor write down what is known before it is compiled.
An agent finds it in ``TimeStep.task`` and ``action_mask`` as always: as constants, which
the compiler folds into what reads them.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from mtrl_jax import types


def known(spec: types.EnvSpec, ts: types.TimeStep) -> types.TimeStep:
    """Returns time steps ``[..., B]`` with what ``spec`` says of them as constants.

    The values are those that are there already: tasks where each slot has one in every
    member, legal actions where no environment decides about them.
    """
    owners = np.asarray(spec.slot_tasks, np.int32)
    masks = np.asarray(spec.masks, bool)
    task, mask = ts.task, ts.action_mask
    if owners.size:
        task = jnp.broadcast_to(owners, task.shape)
    if masks.size and owners.size:
        mask = jnp.broadcast_to(masks[owners], mask.shape)
    elif masks.size and (masks == masks[0]).all():
        mask = jnp.broadcast_to(masks[0], mask.shape)
    return ts._replace(task=task, action_mask=mask)
