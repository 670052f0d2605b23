"""Convolutions of planes [C, H, W, N], the batch innermost: for pictures of few channels.

In [N, H, W, C] the innermost axis then has two or three entries, and XLA:CPU computes
whatever is elementwise (activations, slices, sums) number by number. With the batch there
all of it is vectorised: a gradient step of DreamerV2 on 64x64 pictures with two features
takes half as long. As in ``conv``, a convolution is a matrix product:

1. space-to-depth: stride s becomes s x s more planes, and the stride 1;
2. the shifted copies of the planes are stacked;
3. one product with the kernel as a matrix.

Where there are more planes than features, the product comes first and its parts are
shifted and added.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Array


def of_images(x: Array) -> Array:
    """Returns the planes [C, H, W, N] of images [..., H, W, C]."""
    return x.reshape(-1, *x.shape[-3:]).transpose(3, 1, 2, 0)


def of_pixels(x: Array) -> Array:
    """Returns the same row by row, for large images that no gradient goes to.

    Where an image takes a multiple of 4 kB, its pixels' neighbours in a plane share one
    set of the cache: a transpose of all rows together took 9 times as long.
    """
    height, width, channels = x.shape[-3:]
    rows = x.reshape(-1, height, width * channels).transpose(1, 0, 2)
    rows = jax.lax.map(jnp.transpose, rows)
    return rows.reshape(height, width, channels, -1).transpose(2, 0, 1, 3)


def images(x: Array) -> Array:
    """Returns the images [N, H, W, C] of planes."""
    return x.transpose(3, 1, 2, 0)


def conv2d(x: Array, kernel: Array, stride: int) -> Array:
    """Returns the VALID convolution [cout, H', W', N]; otherwise as ``conv.conv2d``."""
    height, width = (
        (size - k) // stride + 1 for size, k in zip(x.shape[1:3], kernel.shape)
    )
    kernel = _blocks(kernel, stride)
    rows, columns, _, _, channels, features = kernel.shape
    x = _space_to_depth(x, stride, height + rows - 1, width + columns - 1)
    kernel = kernel.reshape(rows, columns, stride * stride * channels, features)
    return _convolved(x, kernel, height, width)


def conv_transpose2d(x: Array, kernel: Array, stride: int) -> Array:
    """Returns ``conv_transpose.conv_transpose2d`` of planes."""
    channels, height, width, n = x.shape
    kh, kw, _, features = kernel.shape
    kernel = _blocks(kernel[::-1, ::-1], stride)
    rows, columns = kernel.shape[:2]
    kernel = kernel.transpose(0, 1, 4, 2, 3, 5)
    kernel = kernel.reshape(rows, columns, channels, stride * stride * features)
    up, across = height + rows - 1, width + columns - 1
    if channels > kernel.shape[-1]:
        y = _contributions(x, kernel)
    else:
        pads = ((0, 0), (rows - 1, rows - 1), (columns - 1, columns - 1), (0, 0))
        y = _convolved(jnp.pad(x, pads), kernel[::-1, ::-1], up, across)
    # Depth-to-space: the phases become pixels.
    y = y.reshape(stride, stride, features, up, across, n)
    y = y.transpose(2, 3, 0, 4, 1, 5).reshape(features, up * stride, -1, n)
    return y[:, : (height - 1) * stride + kh, : (width - 1) * stride + kw]


@jax.custom_vjp
def product(kernel: Array, x: Array) -> Array:
    """Returns the transposed ``kernel`` [K, M] times ``x`` [K, ...]: [M, ...]."""
    y = kernel.T @ x.reshape(len(x), -1)
    return y.reshape(-1, *x.shape[1:])


def _forward(kernel: Array, x: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(kernel, x), (kernel, x)


def _backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """As JAX's, but for the order in which it lays the gradient out by x: [..., K]."""
    kernel, x = kept
    # The barrier: not once as it is and once transposed.
    g = jax.lax.optimization_barrier(g.reshape(len(g), -1))
    over_pixels = (((1,), (1,)), ((), ()))
    by_kernel = jax.lax.dot_general(x.reshape(len(x), -1), g, over_pixels)
    return by_kernel, (kernel @ g).reshape(x.shape)


product.defvjp(_forward, _backward)


def _convolved(x: Array, kernel: Array, height: int, width: int) -> Array:
    """Returns the convolution of stride 1 with ``kernel`` [rows, columns, C, cout]."""
    shifts = list(np.ndindex(kernel.shape[:2]))
    channels, features = kernel.shape[2:]

    def shifted(x: Array, at: tuple[int, ...]) -> Array:
        return x[:, at[0] : at[0] + height, at[1] : at[1] + width]

    if features < channels:
        parts = _products(kernel, x)
        return functools.reduce(jnp.add, map(shifted, parts, shifts))
    stacked = jnp.concatenate([shifted(x, at) for at in shifts])
    return product(kernel.reshape(-1, features), stacked)


def _contributions(x: Array, kernel: Array) -> Array:
    """Returns each pixel's products with all blocks, added where they belong."""
    rows, columns = kernel.shape[:2]
    placed = [
        jnp.pad(part, ((0, 0), (i, rows - 1 - i), (j, columns - 1 - j), (0, 0)))
        for part, (i, j) in zip(_products(kernel, x), np.ndindex(rows, columns))
    ]
    return functools.reduce(jnp.add, placed)


def _products(kernel: Array, x: Array) -> list[Array]:
    """Returns the products of ``x`` with every [C, cout] of ``kernel``, in order."""
    rows, columns, channels, features = kernel.shape
    y = product(kernel.transpose(2, 0, 1, 3).reshape(channels, -1), x)
    return list(jax.lax.split(y, (features,) * (rows * columns)))


def _blocks(kernel: Array, stride: int) -> Array:
    """Returns a kernel as [rows, columns, s, s, cin, cout], filled up with zeros."""
    kh, kw, channels, features = kernel.shape
    rows, columns = -(-kh // stride), -(-kw // stride)
    fill = ((0, rows * stride - kh), (0, columns * stride - kw), (0, 0), (0, 0))
    kernel = jnp.pad(kernel, fill)
    kernel = kernel.reshape(rows, stride, columns, stride, channels, features)
    return kernel.transpose(0, 2, 1, 3, 4, 5)


def _space_to_depth(x: Array, stride: int, height: int, width: int) -> Array:
    """Returns the s s C planes [height, width, N] of as much of ``x`` as is read."""
    channels, own_height, own_width, n = x.shape
    down, right = height * stride - own_height, width * stride - own_width
    pads = ((0, 0, 0), (0, down, 0), (0, right, 0), (0, 0, 0))
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), pads)
    x = x.reshape(channels, height, stride, width, stride, n)
    return x.transpose(2, 4, 0, 1, 3, 5).reshape(-1, height, width, n)
