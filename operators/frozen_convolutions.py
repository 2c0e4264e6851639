r"""Convolutions, recorded so that Jacobians have cheap products in both directions.

The derivative of an adjoint product is a forward product, and torch finds it by differentiating a
backward pass. The second derivative of its convolutions takes half of its time for that with
respect to the weights, whether it is wanted or not. Here a convolution and its adjoint,

.. math:: \frac{\partial \, (W * x)}{\partial x} = W * \qquad
    \frac{\partial \, (W *)^T g}{\partial g} = (W *)^T

are recorded as two linear functions, each the backward pass of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["FrozenConvolutions"]

# Stride, padding, dilation, whether it is transposed, padding of outputs, groups.
Options = tuple[list[int], list[int], list[int], bool, list[int], int]


class FrozenConvolutions(TorchFunctionMode):
    r"""Records convolutions as functions of their input alone, leaves of the graph being
    constants.

    Example:
        >>> x, weight = torch.randn(1, 1, 5, requires_grad=True), torch.ones(1, 1, 3)
        >>> with FrozenConvolutions():
        ...     y = torch.nn.functional.conv1d(x, weight, padding="same")
        >>> torch.autograd.grad(y, x, torch.ones(1, 1, 5))[0]
        tensor([[[2., 3., 3., 3., 2.]]])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        # Weights that are computed may be so from the input.
        constant = isinstance(weight, Tensor) and (weight.is_leaf or not weight.requires_grad)
        if constant and func in PLAIN:
            return _plain(func, *args, **kwargs)
        if constant and func in TRANSPOSED:
            return _transposed(func, *args, **kwargs)
        return func(*args, **kwargs)


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
    y: Tensor = Convolution.apply(x.to(dtype), weight.detach().to(dtype), bias, options)  # type: ignore[no-untyped-call]
    return y


class Convolution(torch.autograd.Function):
    r"""The convolution :math:`W * x + b`, whose backward pass is :class:`Adjoint`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Tensor:
        return torch.convolution(x, weight, bias, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.options = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight = ctx.saved_tensors
        back: Tensor = Adjoint.apply(g, x, weight, ctx.options)  # type: ignore[no-untyped-call]
        return back, None, None, None


class Adjoint(torch.autograd.Function):
    r"""The adjoint :math:`(W *)^T g`, whose backward pass is :class:`Convolution`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, options: Options) -> Tensor:
        # Of the input only the shape counts, but making another costs more than keeping it.
        wanted = True, False, False
        aten = torch.ops.aten
        back: Tensor = aten.convolution_backward(g, x, weight, None, *options, wanted)[0]
        return back

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, weight, ctx.options = inputs
        ctx.save_for_backward(weight)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        y: Tensor = Convolution.apply(v, weight, None, ctx.options)  # type: ignore[no-untyped-call]
        return y, None, None, None


def _each(value: int | Sequence[int], n: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values
