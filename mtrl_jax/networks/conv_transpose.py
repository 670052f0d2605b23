"""A transposed convolution that stays fast inside ``scan`` and under ``vmap``.

Written as one matrix product and shifted sums, for the reasons that ``conv`` gives:

1. every pixel times the kernel as a matrix: its k x k x cout contributions;
2. with stride s, offset a = b s + r of the kernel is block b, phase r: contributions are
   added block by block, shifted by b, with the phases as channels;
3. depth-to-space: the s x s phases become pixels.

The product has no wasted multiplication by the zeros that a dilated input holds. Where a
pixel has fewer channels than there are phases of features, its contributions are what
costs: there, patches of the input meet the blocks of the kernel, as in ``conv``.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from mtrl_jax.networks import conv, product
from mtrl_jax.types import Array


def output_size(size: int, kernel: int, stride: int) -> int:
    """Returns (size - 1) stride + kernel."""
    return (size - 1) * stride + kernel


def conv_transpose2d(
    x: Array, kernel: Array, *, stride: int, implementation: str = "auto"
) -> Array:
    """Returns the VALID transposed convolution of ``x`` [..., H, W, cin].

    y[i s + kh - 1 - a, j s + kw - 1 - b, o] += x[i, j, c] kernel[a, b, c, o]

    ``kernel`` [kh, kw, cin, cout] lies as in ``nn.ConvTranspose`` (a correlation with the
    dilated input); kh and kw are at least the stride. ``implementation`` is as in
    ``conv.conv2d``.
    Raises ValueError for an implementation that does not exist or too small a kernel.
    """
    if implementation not in conv.IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: {implementation!r} is not known, use one of "
            f"{conv.IMPLEMENTATIONS}"
        )
    if min(kernel.shape[:2]) < stride:
        raise ValueError(
            f"kernel: {kernel.shape[:2]} leaves holes at stride {stride}, give at least "
            "the stride"
        )
    apply = _matmul if conv.chosen(implementation) == "matmul" else _lax
    y = apply(x.reshape((-1, *x.shape[-3:])), kernel, stride)
    return y.reshape(x.shape[:-3] + y.shape[1:])


def _lax(x: Array, kernel: Array, stride: int) -> Array:
    return jax.lax.conv_transpose(
        x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _matmul(x: Array, kernel: Array, stride: int) -> Array:
    n, height, width, channels = x.shape
    kh, kw, _, features = kernel.shape
    rows, columns = -(-kh // stride), -(-kw // stride)
    fill = ((0, rows * stride - kh), (0, columns * stride - kw), (0, 0), (0, 0))
    kernel = jnp.pad(kernel[::-1, ::-1], fill)
    kernel = kernel.reshape(rows, stride, columns, stride, channels, features)
    kernel = kernel.transpose(4, 0, 2, 1, 3, 5)  # cin, blocks, phases, cout
    kernel = kernel.reshape(channels, rows, columns, stride * stride, features)
    if channels < kernel.shape[3] * features:
        y = _by_patches(x, kernel)
    else:
        y = _by_contributions(x, kernel)
    y = y.reshape(n, height + rows - 1, width + columns - 1, stride, stride, features)
    y = y.transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(n, (height + rows - 1) * stride, -1, features)
    bottom, right = output_size(height, kh, stride), output_size(width, kw, stride)
    return y[:, :bottom, :right]


def _by_contributions(x: Array, kernel: Array) -> Array:
    """Returns the phases [N, H', W', s s cout] of ``x`` and a kernel by blocks."""
    n, height, width, channels = x.shape
    _, rows, columns, _, _ = kernel.shape
    y = product.product(x.reshape(-1, channels), kernel.reshape(channels, -1))
    y = y.reshape(n, height, width, -1)

    def shifted(part: Array, i: int, j: int) -> Array:
        pads = ((0, 0), (i, rows - 1 - i), (j, columns - 1 - j), (0, 0))
        return jnp.pad(part, pads)

    shifts = [(i, j) for i in range(rows) for j in range(columns)]
    parts = conv.parts(y, len(shifts))
    return functools.reduce(jnp.add, [shifted(x, *at) for x, at in zip(parts, shifts)])


def _by_patches(x: Array, kernel: Array) -> Array:
    """Returns the same as a convolution of the padded ``x`` with the turned blocks."""
    channels, rows, columns, _, _ = kernel.shape
    pads = ((0, 0), (rows - 1, rows - 1), (columns - 1, columns - 1), (0, 0))
    turned = kernel.transpose(1, 2, 0, 3, 4)[::-1, ::-1]
    turned = turned.reshape(rows, columns, channels, -1)
    return conv.conv2d(
        jnp.pad(x, pads), turned, padding="VALID", implementation="matmul"
    )
