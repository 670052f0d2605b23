"""One form for every observation: a dict with "vector" [N] and/or "image" [H, W, C].

Torsos are chosen by these two names, mixtures pad them leaf by leaf. A uint8 image is
divided by 255 by the torso that reads it, a bool image stands for planes of 0 and 1:
so binary planes stay bool and are never stored as uint8 ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Tree

Structs = dict[str, jax.ShapeDtypeStruct]


def canonical(obs: Tree) -> dict[str, Array]:
    """Returns one slot's observation as a dict of "vector" and/or "image".

    Leaves of rank <= 2 are flattened, cast to float32 and concatenated in the order of
    ``jax.tree.leaves`` (dicts: sorted keys). Leaves of rank 3 are joined along their
    channels; uint8 and bool stay as they are, anything else becomes float32. Applying
    it twice changes nothing. Raises ValueError for rank > 3, for images that cannot be
    joined, and for an empty observation.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(obs)]
    if not leaves or max(x.ndim for x in leaves) > 3:
        shapes = [x.shape for x in leaves]
        raise ValueError(
            f"observation: leaves of shape {shapes}; give at least one, all of rank <= 3"
        )
    vectors = [x.ravel().astype(jnp.float32) for x in leaves if x.ndim < 3]
    images = [_image(x) for x in leaves if x.ndim == 3]
    out = {}
    if images:
        out["image"] = _join_channels(images)
    if vectors:
        out["vector"] = jnp.concatenate(vectors)
    return out


def combine(observations: Sequence[Structs]) -> Structs:
    """Returns names, shapes and dtypes that hold every one of ``observations``.

    A leaf gets the largest size along each of its axes. Dtypes that differ are promoted
    as ``pad`` converts them: bool with uint8 to uint8, anything else to float32.
    """
    names = sorted({name for obs in observations for name in obs})
    out = {}
    for name in names:
        leaves = [obs[name] for obs in observations if name in obs]
        shape = tuple(map(max, zip(*(x.shape for x in leaves))))
        out[name] = jax.ShapeDtypeStruct(shape, _promote([x.dtype for x in leaves]))
    return out


def pad(obs: dict[str, Array], target: Structs, batch: tuple[int, ...]) -> Tree:
    """Returns ``obs`` ``[*batch, ...]`` zero-padded at the end of its axes to ``target``.

    Missing leaves are zeros. Brightness survives a change of dtype: True becomes 255
    in a uint8 image, 255 becomes 1.0 in a float32 one, so a torso reads the same.
    """

    def leaf(name, struct):
        if name not in obs:
            return jnp.zeros((*batch, *struct.shape), struct.dtype)
        x = _convert(jnp.asarray(obs[name]), struct.dtype)
        sizes = x.shape[len(batch) :]
        widths = [(0, 0)] * len(batch) + [
            (0, n - m) for n, m in zip(struct.shape, sizes)
        ]
        return jnp.pad(x, widths)

    return {name: leaf(name, struct) for name, struct in target.items()}


def _image(x: Array) -> Array:
    return x if x.dtype in (jnp.uint8, jnp.bool_) else x.astype(jnp.float32)


def _join_channels(images: list[Array]) -> Array:
    if len({(x.shape[:2], x.dtype) for x in images}) > 1:
        kinds = [f"{x.dtype}{list(x.shape)}" for x in images]
        raise ValueError(
            f"observation: images {kinds} cannot be joined along channels; "
            "give one size and one dtype"
        )
    return jnp.concatenate(images, axis=-1)


def _promote(dtypes: Sequence[jnp.dtype]) -> jnp.dtype:
    kinds = set(dtypes)
    if len(kinds) == 1:
        return kinds.pop()
    binary = {jnp.dtype(jnp.bool_), jnp.dtype(jnp.uint8)}
    return jnp.dtype(jnp.uint8 if kinds <= binary else jnp.float32)


def _convert(x: Array, dtype: jnp.dtype) -> Array:
    if x.dtype == dtype:
        return x
    if dtype == jnp.uint8:
        return x.astype(jnp.uint8) * jnp.uint8(255)
    scale = 1.0 / 255.0 if x.dtype == jnp.uint8 else 1.0
    return x.astype(jnp.float32) * scale
