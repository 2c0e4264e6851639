r"""The loss of an autoencoder, weighted by latitude and by channel.

.. math:: \frac{1}{n} \sum_{c, i, j} w_i \, v_c \, |x_{cij} - y_{cij}|^p \qquad p \in \{1, 2\}
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .catalogue import Catalogue
from .grid import Grid

__all__ = ["channel_weights", "latitude_weights", "reconstruction_loss"]

# What the published loss takes a variable of the surface for, beside those of the upper air.
SURFACE = {"2m_temperature": 1.0}
OTHER_SURFACE = 0.1


def reconstruction_loss(
    x: Tensor,
    y: Tensor,
    *,
    power: Literal[1, 2] = 2,
    rows: Tensor | None = None,
    channels: Tensor | None = None,
) -> Tensor:
    r"""The mean error of reconstructions.

    Arguments:
        x: The reconstructions, with shape :math:`(*, C, H, W)`.
        y: The states, with the same shape.
        power: The power :math:`p` of the error.
        rows: The weights :math:`w` of rows, with shape :math:`(H)`; by default 1.
        channels: The weights :math:`v` of channels, with shape :math:`(C)`; by default 1.

    Returns:
        The loss, with shape :math:`()`.

    Example:
        >>> x, rows = torch.ones(1, 2, 3), torch.tensor([1.0, 3.0])
        >>> reconstruction_loss(x, 0 * x, rows=rows)
        tensor(2.)
    """
    error = (x - y).abs() if power == 1 else (x - y).square()
    if rows is not None:
        error = error * rows.to(error).unsqueeze(-1)
    if channels is not None:
        error = error * channels.to(error).reshape(-1, 1, 1)
    return error.mean()


def latitude_weights(grid: Grid, *, published: bool = False) -> Tensor:
    r"""The weights of rows: the areas of their cells, of mean 1.

    Arguments:
        grid: The grid.
        published: Whether to take the weights of the published loss instead,
            :math:`\cos \varphi_i + 1 / W`. Their mean is 0.64, so that losses with and without
            them can't be compared.

    Returns:
        The weights, with shape :math:`(H)`.

    Example:
        >>> latitude_weights(Grid([60.0, 0.0, -60.0], [0.0, 180.0]))
        tensor([0.7500, 1.5000, 0.7500], dtype=torch.float64)
    """
    if not published:
        return torch.as_tensor(grid.weights)
    latitude = torch.as_tensor(grid.latitude) * math.pi / 180
    return latitude.cos() + 1 / len(grid.longitude)


def channel_weights(catalogue: Catalogue, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    r"""The weights of the channels of the published loss, in proportion to pressure.

    The levels of a variable of the upper air share a weight of 1 (`sum`), or have one of 1 on
    average (`mean`). Variables of the surface have 0.1, but for the temperature at 2 m, which has
    1.

    Arguments:
        catalogue: The channels.
        reduction: How weights of levels are normalised.

    Returns:
        The weights, with shape :math:`(C)`.

    Example:
        >>> from appa_prob.era5 import era5_catalogue
        >>> channel_weights(era5_catalogue((250, 750)))[:8]
        tensor([1.0000, 0.1000, 0.1000, 0.1000, 0.1000, 0.1000, 0.2500, 0.7500],
               dtype=torch.float64)
    """
    weights = []
    for channel in catalogue.channels:
        levels = catalogue.levels(channel.variable)
        if channel.level is None:
            weights.append(SURFACE.get(channel.variable, OTHER_SURFACE))
        else:
            total = sum(levels) / (len(levels) if reduction == "mean" else 1)
            weights.append(channel.level / total)
    return torch.tensor(weights, dtype=torch.float64)
