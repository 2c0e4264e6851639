r"""The tensors of an operator, found, replaced and put back.

An operator is a tree: its attributes are tensors, other operators, or tuples of them. Whatever
must visit all tensors (moving to another device, pickling, the representation that
``linear_operator`` differentiates) goes through the two functions here, so that a new operator has
nothing to declare. Values kept by :func:`functools.cached_property` are not part of the tree: a
copy computes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from .external import LinearOperator

__all__ = ["Replant", "convert", "fields", "nodes", "replace", "tensors"]

T = TypeVar("T")


def fields(node: object) -> Iterator[tuple[str, Any]]:
    """The attributes of an operator, but for what is computed from them and kept."""
    for name, value in vars(node).items():
        if name != "_memoize_cache" and not isinstance(
            getattr(type(node), name, None), cached_property
        ):
            yield name, value


def tensors(value: Any) -> Iterator[Tensor]:
    r"""All tensors of an operator, depth first.

    Arguments:
        value: An operator, a tensor, a tuple of these, or anything else, which holds no tensor.

    Example:
        >>> from appa_prob.operators import Diagonal, Identity
        >>> [t.shape for t in tensors(Diagonal(torch.ones(3)) + Identity(3).to(torch.float32))]
        [torch.Size([3])]
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple) and not isinstance(value, torch.Size):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "in_shape"):
        for _, item in fields(value):
            yield from tensors(item)
    elif isinstance(value, LinearOperator):
        yield from value.representation()


def nodes(value: Any) -> Iterator[Any]:
    r"""All operators of an expression, the whole before its parts.

    Arguments:
        value: An operator, or a tuple of them; anything else holds none.

    Example:
        >>> from appa_prob.operators import Dense, Identity
        >>> list(nodes(Dense(torch.ones(1, 3)) + Dense(torch.ones(1, 3))))
        [Dense((3,) -> (1,)) + Dense((3,) -> (1,)), Dense((3,) -> (1,)), Dense((3,) -> (1,))]
    """
    if isinstance(value, tuple):
        for item in value:
            yield from nodes(item)
    elif hasattr(value, "in_shape"):
        yield value
        for _, item in fields(value):
            yield from nodes(item)


def replace(
    value: T,
    function: Callable[[Tensor], Tensor],
    visit: Callable[[Any], None] | None = None,
    done: dict[int, Any] | None = None,
) -> T:
    r"""A copy of an operator whose tensors are :math:`f(a)` instead of :math:`a`.

    What occurs twice, such as :math:`H` in :math:`H V H^T`, is replaced once.

    Arguments:
        value: An operator, a tensor, a tuple of these, or anything else, which is returned as it
            is.
        function: The function :math:`f`.
        visit: Called on the copy of each operator of the tree.
        done: What has been replaced already, by the identity of the original.

    Example:
        >>> from appa_prob.operators import Diagonal
        >>> replace(Diagonal(torch.ones(2)), lambda a: 3 * a)(torch.ones(2))
        tensor([3., 3.])
    """
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]  # type: ignore[no-any-return]
    result: Any = value
    if isinstance(value, Tensor):
        result = function(value)
    elif isinstance(value, tuple) and not isinstance(value, torch.Size):
        result = tuple(replace(item, function, visit, done) for item in value)
    elif hasattr(value, "in_shape"):
        result = object.__new__(type(value))
        result.__dict__.update(
            {name: replace(item, function, visit, done) for name, item in fields(value)}
        )
        if visit is not None:
            visit(result)
    elif isinstance(value, LinearOperator):
        result = value.representation_tree()(*map(function, value.representation()))
    else:
        return value
    done[id(value)] = result
    return result  # type: ignore[no-any-return]


def convert(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | None) -> Tensor:
    r"""Moves a tensor to a device, and to a floating type unless it holds integers or truth
    values.

    Arguments:
        tensor: The tensor.
        dtype: A real floating type, or None to keep the type. A complex tensor takes the complex
            type of that precision.
        device: The device, or None to stay.

    Example:
        >>> convert(torch.arange(3), torch.float64, None).dtype
        torch.int64
        >>> convert(torch.ones(3), torch.float64, None).dtype
        torch.float64
    """
    if dtype is None or not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor.to(device=device)
    return tensor.to(device=device, dtype=dtype.to_complex() if tensor.is_complex() else dtype)


class Replant:
    r"""Rebuilds an operator from other values of its floating tensors, as ``linear_operator`` asks
    for.

    Arguments:
        operator: The operator to imitate.

    Example:
        >>> from appa_prob.operators import Diagonal
        >>> Replant(Diagonal(torch.ones(2)))(torch.tensor([1.0, 2.0]))(torch.ones(2))
        tensor([1., 2.])
    """

    def __init__(self, operator: Any) -> None:
        self.operator = operator

    def __call__(self, *representation: Tensor) -> Any:
        """The operator with these tensors, in the order of :func:`tensors`, each once."""
        values = iter(representation)
        return replace(self.operator, lambda a: next(values) if differentiable(a) else a)


def differentiable(tensor: Tensor) -> bool:
    """Whether a tensor can carry a gradient: floating or complex."""
    return tensor.is_floating_point() or tensor.is_complex()
