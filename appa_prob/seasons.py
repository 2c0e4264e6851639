r"""The functions of the seasonal cycle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["seasonal_basis"]

YEAR = 365.2425  # days


def seasonal_basis(times: NDArray[np.datetime64], harmonics: int) -> Tensor:
    r"""The functions of the seasonal cycle.

    .. math:: 1, \cos(2 \pi k \tau), \sin(2 \pi k \tau) \qquad k = 1, 2, \dots

    with :math:`\tau` the time since 2000-01-01 in years of 365.2425 days.

    Arguments:
        times: Times, with shape :math:`(L)`.
        harmonics: The number of harmonics.

    Returns:
        Their values, with shape :math:`(L, 1 + 2 \, \mathrm{harmonics})`.

    Example:
        >>> seasonal_basis(np.array(["2000-01-01"], dtype="datetime64[h]"), 1)
        tensor([[1., 1., 0.]])
    """
    days = (times - np.datetime64("2000-01-01")) / np.timedelta64(1, "D")
    phase = torch.as_tensor(2 * math.pi * (days / YEAR), dtype=torch.float64).unsqueeze(-1)
    orders = torch.arange(1, harmonics + 1, dtype=torch.float64)
    waves = torch.stack((torch.cos(orders * phase), torch.sin(orders * phase)), dim=-1).flatten(-2)
    return torch.cat((torch.ones_like(phase), waves), dim=-1).float()
