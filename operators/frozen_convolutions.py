r"""Convolutions, recorded so that Jacobians have cheap products in both directions.

The second derivative of torch's convolutions takes half of its time for that with respect to the
weights, whether it is wanted or not. Here a convolution and its adjoint,

.. math:: \frac{\partial \, (W * x)}{\partial x} = W * \qquad
    \frac{\partial \, (W *)^T g}{\partial g} = (W *)^T

are recorded as two linear functions, each the backward pass of the other, which keep nothing but
the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.nn import functional

from .frozen_function import Lean

__all__ = ["CONVOLUTIONS"]

# Stride, padding, dilation, whether it is transposed, padding of outputs, groups.
Options = tuple[list[int], list[int], list[int], bool, list[int], int]

FEW = 16  # channels, of which vectors of a CPU hold as many


def _convolution(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    weight = args[1] if len(args) > 1 else kwargs.get("weight")
    # Weights that are computed may be so from the input.
    constant = isinstance(weight, Tensor) and (weight.is_leaf or not weight.requires_grad)
    if not constant:
        return func(*args, **kwargs)
    return (_plain if func in PLAIN else _transposed)(func, *args, **kwargs)


PLAIN = {functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3}
TRANSPOSED = {
    functional.conv_transpose1d: 1,
    functional.conv_transpose2d: 2,
    functional.conv_transpose3d: 3,
}


def _plain(
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    n = PLAIN[func]
    if isinstance(padding, str):
        if padding == "same" and all(k % 2 for k in weight.shape[2:]):
            spread = _each(dilation, n)
            padding = [d * (k - 1) // 2 for d, k in zip(spread, weight.shape[2:], strict=True)]
        elif padding == "valid":
            padding = 0
        else:
            return func(input, weight, bias, stride, padding, dilation, groups)
    options = _each(stride, n), _each(padding, n), _each(dilation, n), False, [0] * n, groups
    return _frozen(input, weight, bias, options)


def _transposed(
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    n = TRANSPOSED[func]
    rest = _each(output_padding, n)
    options = _each(stride, n), _each(padding, n), _each(dilation, n), True, rest, groups
    return _frozen(input, weight, bias, options)


def _frozen(x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
    if x.ndim < weight.ndim:
        return _frozen(x[None], weight, bias, options)[0]
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    bias = None if bias is None else bias.detach().to(dtype)
    y: Tensor = Convolution.apply(x.to(dtype), weight.detach().to(dtype), bias, options)
    return y


class Convolution(Lean):
    r"""The convolution :math:`W * x + b`, whose backward pass is :class:`Adjoint`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
        return torch.convolution(x, weight, bias, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.options = inputs
        ctx.shape = x.shape
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return Adjoint.apply(g, weight, ctx.options, ctx.shape), None, None, None


class Adjoint(Lean):
    r"""The adjoint :math:`(W *)^T g`, whose backward pass is :class:`Convolution`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, weight: Tensor, options: Options, shape: Size) -> Tensor:
        return _adjoint(g, weight, options, shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weight, ctx.options, _ = inputs
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return Convolution.apply(v, weight, None, ctx.options), None, None, None


def _adjoint(g: Tensor, weight: Tensor, options: Options, shape: Size) -> Tensor:
    stride, padding, dilation, transposed, rest, groups = options
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    left = [r - p for r, p in zip(reach, padding, strict=True)]
    plain = not transposed and groups == 1 and max(stride) == 1 and min(left) >= 0
    if plain and len(weight) < FEW:
        # As a convolution: on a CPU, the adjoints of those to few channels take up to seven times
        # as long.
        weight = weight.flip(tuple(range(2, weight.ndim))).transpose(0, 1)
        return torch.convolution(g, weight, None, stride, left, dilation, False, rest, 1)
    input = g.new_empty(shape)  # of which only the shape counts
    wanted = True, False, False
    aten = torch.ops.aten
    back: Tensor = aten.convolution_backward(g, input, weight, None, *options, wanted)[0]
    return back


CONVOLUTIONS: dict[Callable[..., Any], Callable[..., Any]] = dict.fromkeys(
    (*PLAIN, *TRANSPOSED), _convolution
)


def _each(value: int | Sequence[int], n: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values
