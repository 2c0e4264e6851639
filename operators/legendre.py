r"""Legendre functions, the meridional parts of spherical harmonics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["normalised_legendre"]


def normalised_legendre(m: int, degree: int, mu: Tensor) -> Tensor:
    r"""The associated Legendre functions :math:`P_{lm}` of one order, of all degrees from it on.

    .. math:: P_{lm} = a_{lm} (\mu P_{l - 1, m} - P_{l - 2, m} / a_{l - 1, m}) \qquad
        a_{lm} = \sqrt{\frac{4 l^2 - 1}{l^2 - m^2}}

    from :math:`P_{mm} = (-1)^m \prod_{k = 1}^m \sqrt{(2 k + 1) / 2 k} \, (1 - \mu^2)^{m / 2}`, so
    that :math:`P_{lm} e^{i m \lambda}` has unit mean square over the sphere. The recurrence is
    stable.

    Arguments:
        m: The order.
        degree: The largest degree :math:`L \ge m`.
        mu: The sines of latitudes, with shape :math:`(H)`.

    Returns:
        Their values, with shape :math:`(L - m + 1, H)`.

    Example:
        >>> normalised_legendre(0, 1, torch.tensor([1.0])).ravel()
        tensor([1.0000, 1.7321])
    """
    norm = math.prod(math.sqrt(1 + 1 / (2 * k)) for k in range(1, m + 1))
    rows = [(-1) ** m * norm * (1 - mu.square()) ** (m / 2)]
    before, last = torch.zeros_like(mu), math.inf
    for order in range(m + 1, degree + 1):
        a = math.sqrt((4 * order**2 - 1) / (order**2 - m**2))
        rows.append(a * (mu * rows[-1] - before / last))
        before, last = rows[-2], a
    return torch.stack(rows)
