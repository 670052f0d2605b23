"""Convolutions and max-pooling that stay fast inside ``scan`` and under ``vmap``.

On XLA:CPU the gradient of a ``lax.conv`` inside a loop falls to a naive implementation,
and weights with a population axis become grouped convolutions: each costs an order of
magnitude. A convolution is therefore written as a matrix product wherever that helps:

1. space-to-depth: stride s becomes s x s more channels, and the stride 1;
2. the kh x kw shifted copies of the input are concatenated along the channels;
3. one product with the kernel as a matrix; a population makes it a batched product.

Where there are four times more channels than features, the product comes first and its
shifted parts are added.

Slices, concatenations and products all have fast gradients and batching rules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.types import Array

IMPLEMENTATIONS = ("auto", "matmul", "lax")
PADDINGS = ("SAME", "VALID")


class Conv(nn.Module):
    """A 2D convolution with the parameters, initialisers and numbers of ``nn.Conv``.

    Parameters: kernel [kh, kw, cin, cout], bias [cout]. Input [..., H, W, cin], any
    number of leading axes; output [..., H', W', cout].
    Raises ValueError for a padding or an implementation that does not exist.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int | tuple[int, int] = 1
    padding: str = "SAME"
    use_bias: bool = True
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Any] = nn.initializers.zeros_init()
    implementation: str = "auto"
    dtype: str = "float32"  # of the products and the output; parameters are float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
            implementation=self.implementation,
        )
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            bias = bias.astype(self.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y


def conv2d(
    x: Array,
    kernel: Array,
    *,
    strides: int | tuple[int, int] = 1,
    padding: str = "SAME",
    implementation: str = "auto",
) -> Array:
    """Returns the cross-correlation of ``x`` [..., H, W, cin] with ``kernel``.

    y[i, j, o] = sum over a, b, c of x[i s + a, j s + b, c] kernel[a, b, c, o]

    ``implementation`` "matmul" is the module's own, "lax" is XLA's convolution, "auto"
    picks by backend: matmul on CPU; lax on accelerators, whose convolution libraries
    have no such loop problem, until a measurement there says otherwise.
    """
    _check("padding", padding, PADDINGS)
    _check("implementation", implementation, IMPLEMENTATIONS)
    strides = (strides, strides) if isinstance(strides, int) else strides
    apply = {"matmul": _matmul_conv, "lax": _lax_conv}[chosen(implementation)]
    y = apply(x.reshape((-1, *x.shape[-3:])), kernel, strides, padding)
    return y.reshape(x.shape[:-3] + y.shape[1:])


def max_pool(
    x: Array, *, window: int = 3, stride: int = 2, implementation: str = "auto"
) -> Array:
    """Returns the maximum over windows of ``x`` [..., H, W, C], padded as SAME.

    "matmul" (the name is shared with ``conv2d``) takes maxima of shifted slices, one
    axis after the other; "lax" is ``reduce_window``. Where several entries of a window
    are the maximum, the slices share the gradient among them, ``reduce_window`` gives it
    to one.
    """
    _check("implementation", implementation, IMPLEMENTATIONS)
    if chosen(implementation) == "lax":
        flat = x.reshape((-1, *x.shape[-3:]))
        y = nn.max_pool(flat, (window, window), (stride, stride), "SAME")
        return y.reshape(x.shape[:-3] + y.shape[1:])
    for axis in (x.ndim - 3, x.ndim - 2):
        x = _max_along(x, axis, window, stride)
    return x


def chosen(implementation: str) -> str:
    """Returns what "auto" is on this backend; any other implementation as it is."""
    if implementation != "auto":
        return implementation
    return "matmul" if jax.default_backend() == "cpu" else "lax"


def parts(x: Array, number: int) -> list[Array]:
    """Returns ``number`` equal parts of the last axis of ``x``.

    By slices: the gradient of an index of one more axis takes XLA:CPU four times as long.
    """
    size = x.shape[-1] // number
    return [
        jax.lax.slice_in_dim(x, i * size, (i + 1) * size, axis=-1)
        for i in range(number)
    ]


def _lax_conv(x: Array, kernel: Array, strides: tuple[int, int], padding: str) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _matmul_conv(
    x: Array, kernel: Array, strides: tuple[int, int], padding: str
) -> Array:
    """As ``_lax_conv``, by space-to-depth and products with patches."""
    geometry = [
        _geometry(x.shape[1 + i], kernel.shape[i], strides[i], padding) for i in (0, 1)
    ]
    x, kernel = _space_to_depth(x, kernel, strides, geometry)
    (height, rows, _, _), (width, columns, _, _) = geometry
    channels, features = kernel.shape[2:]
    if 4 * features <= channels:
        return _contributions(x, kernel, height, width)

    # One product over all shifts, except where its patches (rows * columns times the
    # input) are what costs: there, one product a row, of patches that share memory.
    # Measured on CPU, deep ResNet: 1.2-1.4 x faster; MinAtar's 4 channels: slower.
    if rows >= 3 and columns * channels >= 32:
        x = jnp.concatenate([x[:, :, j : j + width] for j in range(columns)], axis=-1)
        views = [x[:, i : i + height] for i in range(rows)]
        products = [_product(view, kernel[i]) for i, view in enumerate(views)]
        return functools.reduce(jnp.add, products)
    shifts = [(i, j) for i in range(rows) for j in range(columns)]
    views = [x[:, i : i + height, j : j + width] for i, j in shifts]
    return _product(jnp.concatenate(views, axis=-1), kernel)


def _contributions(x: Array, kernel: Array, height: int, width: int) -> Array:
    """Returns the convolution as every pixel's products, added where they belong.

    Features are fewer than channels, so that these are less than patches of the input.
    """
    rows, columns, channels, _ = kernel.shape
    y = _product(x, kernel.transpose(2, 0, 1, 3).reshape(channels, -1))
    shifts = [(i, j) for i in range(rows) for j in range(columns)]
    shifted = [
        part[:, i : i + height, j : j + width]
        for part, (i, j) in zip(parts(y, len(shifts)), shifts)
    ]
    return functools.reduce(jnp.add, shifted)


def _product(patches: Array, kernel: Array) -> Array:
    """Returns [N, H', W', K] times a kernel [..., cout] seen as [K, cout]."""
    kernel = kernel.reshape(-1, kernel.shape[-1])
    y = patches.reshape(-1, patches.shape[-1]) @ kernel
    return y.reshape(*patches.shape[:-1], -1)


def _space_to_depth(x, kernel, strides, geometry):
    """Returns input and kernel of the same convolution with stride 1.

    A kernel that is no multiple of the stride is filled up with zeros.
    """
    (height, rows, top, bottom), (width, columns, left, right) = geometry
    sh, sw = strides
    zero = jnp.zeros((), x.dtype)
    pads = ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))
    x = jax.lax.pad(x, zero, pads)
    if strides == (1, 1):
        return x, kernel
    n, _, _, channels = x.shape
    x = x.reshape(n, height + rows - 1, sh, width + columns - 1, sw, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(*x.shape[:3], -1)

    kh, kw, _, features = kernel.shape
    fill = ((0, rows * sh - kh), (0, columns * sw - kw), (0, 0), (0, 0))
    kernel = jnp.pad(kernel, fill)
    kernel = kernel.reshape(rows, sh, columns, sw, channels, features)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    return x, kernel.reshape(rows, columns, -1, features)


def _geometry(
    size: int, kernel: int, stride: int, padding: str
) -> tuple[int, int, int, int]:
    """Returns (output size, kernel size in blocks of ``stride``, pad before, pad after).

    The padding makes the input exactly the blocks that the output reads; the pad after
    is negative where the input has rows that no output reads.
    """
    if padding == "SAME":
        out = -(-size // stride)
        before = max((out - 1) * stride + kernel - size, 0) // 2
    else:
        out, before = (size - kernel) // stride + 1, 0
    if out < 1:
        raise ValueError(
            f"image: size {size} is too small for a VALID convolution with "
            f"kernel {kernel}; give at least {kernel}"
        )
    blocks = -(-kernel // stride)
    return out, blocks, before, (out - 1 + blocks) * stride - before - size


def _max_along(x: Array, axis: int, window: int, stride: int) -> Array:
    """Returns the SAME-padded maximum over windows along one axis, by slices."""
    out, blocks, before, after = _geometry(x.shape[axis], window, stride, "SAME")
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (before, after, 0)
    x = jax.lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), pads)
    # Entry i * stride + a of the axis is block i, offset a.
    split = (out + blocks - 1, stride)
    x = x.reshape(x.shape[:axis] + split + x.shape[axis + 1 :])
    offsets = [jax.lax.index_in_dim(x, a, axis + 1, False) for a in range(stride)]
    slices = [
        jax.lax.slice_in_dim(
            offsets[a % stride], a // stride, a // stride + out, 1, axis
        )
        for a in range(window)
    ]
    return functools.reduce(jnp.maximum, slices)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: {value!r} is not known, use one of {known}")
