"""Functions with their own backward passes, at little cost a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .transforms import transformed

__all__ = ["Known", "Lean"]


class Lean(torch.autograd.Function):
    """A function that takes its arguments by position. Binding them by name, as torch does for
    functions with a ``setup_context``, takes three times as long as all the rest of a call."""

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """The value, recorded."""
        if kwargs or transformed():
            return super().apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        plain: Any = super(torch.autograd.Function, cls)  # which binds no names
        return plain.apply(*args)


class Known(Lean):
    r"""Values that were computed before, with a backward pass that is linear in what it is applied
    to, and made of operations that torch can differentiate.

    Arguments:
        x: The input.
        pull: The backward pass, from gradients of the values to that of the input.
        values: The values, a list, so that they are no inputs.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> (y,) = Known.apply(x, lambda g: 3 * g, [torch.ones(2)])
        >>> torch.autograd.grad(y.sum(), x)[0]
        tensor([3., 3.])
    """

    @staticmethod
    def forward(
        x: Tensor, pull: Callable[..., Tensor], values: list[Tensor]
    ) -> tuple[Tensor, ...]:
        return tuple(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.pull = inputs[1]

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor, None, None]:
        return ctx.pull(*g), None, None


def varies(x: Any) -> bool:
    """Whether x is recorded, where nothing but autograd looks on."""
    return (
        isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled() and not transformed()
    )
