r"""Means and variances, as normalisations take them, recorded with their derivatives.

.. math:: m = \frac{1}{n} \sum_i x_i \qquad s = \frac{1}{n - c} \sum_i (x_i - m)^2 \qquad
    \frac{\partial m}{\partial x_i} = \frac{1}{n} \qquad
    \frac{\partial s}{\partial x_i} = \frac{2}{n - c} (x_i - m)

for a correction :math:`c`. Both moments are computed by two sums, which are vectorised; on a CPU
:func:`torch.var_mean` takes ten times as long along axes that aren't the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .frozen_function import Known, varies

__all__ = ["MOMENTS"]


def _var_mean(
    func: Callable[..., tuple[Tensor, Tensor]], *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    known = len(args) in (1, 2) and kwargs.keys() <= {"dim", "keepdim", "correction", "unbiased"}
    dim = args[1] if len(args) == 2 else kwargs.get("dim")
    axes = isinstance(dim, int | list | tuple) and not isinstance(dim, bool)
    plain = known and axes and kwargs.get("keepdim", False) and varies(args[0])
    if not plain or args[0].dtype not in (torch.float32, torch.float64):
        return func(*args, **kwargs)
    correction = kwargs.get("correction")
    if correction is None:
        correction = int(kwargs.get("unbiased", True))
    return _moments(args[0], dim, correction)


def _moments(x: Tensor, dim: Any, correction: float) -> tuple[Tensor, Tensor]:
    fixed = x.detach()
    mean = fixed.mean(dim, keepdim=True)
    count = fixed.numel() // max(mean.numel(), 1)
    scale = 1 / (count - correction) if count > correction else torch.inf
    centred = fixed - mean
    variance = centred.square().sum(dim, keepdim=True).mul_(scale)
    slope = centred.mul_(2 * scale)

    def pull(of_variance: Tensor, of_mean: Tensor) -> Tensor:
        return torch.addcmul(of_mean / count, of_variance, slope)

    s, m = Known.apply(x, pull, [variance, mean])
    return s, m


MOMENTS: dict[Callable[..., Any], Callable[..., Any]] = {torch.var_mean: _var_mean}
