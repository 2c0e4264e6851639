r"""Functions that keep latents within bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["SATURATIONS", "Saturation", "saturate"]

Saturation: TypeAlias = Literal["softclip", "softclip2", "tanh", "asinh", "rmsnorm"]

SATURATIONS: Mapping[Saturation, Callable[[Tensor, float], Tensor]] = {
    "softclip": lambda x, s: x / (1 + x.abs() / s),
    "softclip2": lambda x, s: x * torch.rsqrt(1 + (x / s).square()),
    "tanh": lambda x, s: s * torch.tanh(x / s),
    "asinh": lambda x, s: torch.asinh(x),
    "rmsnorm": lambda x, s: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5),
}


def saturate(x: Tensor, saturation: Saturation | None, bound: float) -> Tensor:
    r"""Saturates latents.

    ============  ===========================================
    `softclip`    :math:`x / (1 + |x| / s)`
    `softclip2`   :math:`x / \sqrt{1 + (x / s)^2}`
    `tanh`        :math:`s \tanh (x / s)`
    `asinh`       :math:`\mathrm{arsinh} \, x`, unbounded
    `rmsnorm`     :math:`x` over its root mean square by cell
    ============  ===========================================

    Arguments:
        x: The latents, with shape :math:`(B, c, h, w)`.
        saturation: The function; by default the identity.
        bound: The bound :math:`s`, of the first three.

    Raises:
        ValueError: If there is no such function.

    Example:
        >>> saturate(torch.tensor([-100.0, 0.0, 5.0]), "softclip", 5.0)
        tensor([-4.7619,  0.0000,  2.5000])
    """
    if saturation is None:
        return x
    if saturation not in SATURATIONS:
        raise ValueError(
            f"expected a saturation among {', '.join(SATURATIONS)} or None, got {saturation!r}"
        )
    return SATURATIONS[saturation](x, bound)
