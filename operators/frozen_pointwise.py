r"""Functions of one number, recorded with their slopes.

.. math:: y_i = f(x_i) \qquad (J v)_i = f'(x_i) \, v_i = (J^T v)_i

The slope is computed once, and each product is one multiplication. Differentiating torch's own
backward passes takes up to ten, as these recompute what depends upon the input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .frozen_function import Known, varies

__all__ = ["POINTWISE"]


def _pointwise(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    plain = len(args) > 0 and varies(args[0]) and kwargs.get("out") is None
    in_place = kwargs.get("inplace", False) or any(a is True for a in args)
    if in_place or not plain:
        return func(*args, **kwargs)
    with torch.enable_grad():
        x = args[0].detach().requires_grad_()
        y = func(x, *args[1:], **kwargs)
    (slope,) = torch.autograd.grad(y, x, y.new_ones(()).expand_as(y))
    (recorded,) = Known.apply(args[0], slope.mul, [y.detach()])
    result: Tensor = recorded
    return result


POINTWISE: dict[Callable[..., Any], Callable[..., Any]] = dict.fromkeys(
    (
        functional.elu,
        functional.gelu,
        functional.hardswish,
        functional.mish,
        functional.silu,
        functional.softplus,
        torch.sigmoid,
        torch.tanh,
        Tensor.sigmoid,
        Tensor.tanh,
    ),
    _pointwise,
)
