"""Numbers, types and devices, as operators are multiplied by and moved to them."""

from __future__ import annotations

from numbers import Number
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .base import Operator

__all__ = ["as_scalar", "as_single", "as_target", "common_dtype", "real"]


def common_dtype(operators: tuple[Operator, ...]) -> torch.dtype | None:
    r"""The floating type that operators share.

    Arguments:
        operators: The operators; those without floating tensors fit any type.

    Raises:
        TypeError: If two types meet.
    """
    found = {dtype for dtype in (op._own_dtype() for op in operators) if dtype is not None}
    if len(found) > 1:
        names = " and ".join(sorted(map(str, found)))
        raise TypeError(
            f"expected operators of one floating type, got {names}; convert one with .to(dtype)"
        )
    return found.pop() if found else None


def as_scalar(value: Any) -> float | Tensor | None:
    r"""A number, or a tensor of one number per operator of a batch; None for anything else.

    Arguments:
        value: What may be a number, or a tensor of shape :math:`()` or :math:`(*, 1, 1)`.

    Example:
        >>> as_scalar(2), as_scalar(torch.ones(3, 1, 1)).shape, as_scalar("a")
        (2.0, torch.Size([3]), None)
    """
    if isinstance(value, Number):
        return float(value)  # type: ignore[arg-type]
    if isinstance(value, Tensor) and value.ndim == 0:
        return value
    if isinstance(value, Tensor) and value.ndim > 2 and value.shape[-2:] == (1, 1):
        return value[..., 0, 0]
    return None


def as_single(x: Tensor) -> Tensor:
    r"""A tensor in single precision if it is of half, which Fourier transforms on a CPU refuse.

    Arguments:
        x: The tensor.

    Example:
        >>> as_single(torch.ones(1).bfloat16()).dtype
        torch.float32
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def real(x: Tensor, operator: Operator) -> Tensor:
    r"""A field, checked to be real.

    Arguments:
        x: The field.
        operator: The operator that takes it.

    Raises:
        TypeError: If it is complex.
    """
    if x.is_complex():
        raise TypeError(
            f"expected a real field for {operator!r}, got {x.dtype}; transform its real and "
            "imaginary parts, or pairs of them by Fourier(..., complex_input=True)"
        )
    return x


def as_target(*args: Any, **kwargs: Any) -> tuple[torch.dtype | None, torch.device | None]:
    r"""The type and the device that the arguments of :meth:`torch.Tensor.to` ask for.

    Arguments:
        args: A type, a device, a tensor, or several of these.
        kwargs: The same by the names ``dtype`` and ``device``.

    Raises:
        TypeError: If the type isn't a real floating one.

    Example:
        >>> as_target(torch.float64, device="cpu")
        (torch.float64, device(type='cpu'))
    """
    dtype, device = kwargs.pop("dtype", None), kwargs.pop("device", None)
    for arg in args:
        if isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, Tensor):
            dtype, device = arg.dtype, arg.device
        elif arg is not None:
            device = arg
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"expected a real floating type, got {dtype}")
    return dtype, None if device is None else torch.device(device)
