r"""Observations of some variables at some cells of the grid, as lists of cells for each time.

This is how the published assimilation experiments describe what they observe: each mask has its
variables and its variance, cells that change with time for a satellite and stay for stations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from appa_prob.operators import Gather

__all__ = ["PointMask", "compile_masks"]


@dataclass(frozen=True)
class PointMask:
    r"""What one kind of instrument sees.

    Arguments:
        points: The cells :math:`i W + j` that are seen at each time, each with shape
            :math:`(n_l)`.
        channels: The channels that are seen there.
        variance: The variance of the errors in standardised units: a number, or one for each cell,
            as `points`.
    """

    points: Sequence[Tensor]
    channels: Sequence[int]
    variance: float | Sequence[Tensor]


def compile_masks(
    masks: Sequence[PointMask], shape: Sequence[int], *, tiled: bool = False
) -> tuple[Gather, Tensor]:
    r"""The operator of masks, and the variances of what it gives.

    Observations are ordered by time, then by mask, then by cell, then by channel.

    Arguments:
        masks: The masks.
        shape: The shape :math:`(L, C, H, W)` of a trajectory.
        tiled: Whether to order the variances of a mask by channel, then by cell, as the published
            code does. That is wrong where the cells of a mask differ in their variances.

    Returns:
        The operator, from trajectories to :math:`(n)`, and the variances in double precision,
        with shape :math:`(n)`.

    Raises:
        ValueError: If a mask has not as many lists of cells as there are times.

    Example:
        >>> mask = PointMask([torch.tensor([0, 5])], [1], 0.04)
        >>> H, variances = compile_masks([mask], (1, 2, 2, 3))
        >>> H(torch.arange(12.0).reshape(1, 2, 2, 3)), variances
        (tensor([ 6., 11.]), tensor([0.0400, 0.0400], dtype=torch.float64))
    """
    length, channels, rows, columns = shape
    for mask in masks:
        if len(mask.points) != length:
            raise ValueError(
                f"expected a list of cells for each of {length} times, got {len(mask.points)}"
            )
    indices, variances = [], []
    for time in range(length):
        for mask in masks:
            points, seen = mask.points[time].long(), torch.tensor(mask.channels, dtype=torch.long)
            cells = (time * channels + seen) * rows * columns + points.unsqueeze(-1)
            variance = mask.variance
            each = variance[time] if isinstance(variance, Sequence) else torch.tensor(variance)
            spread = each.double().reshape(-1, 1).expand(cells.shape)
            indices.append(cells.flatten())
            variances.append((spread.mT if tiled else spread).flatten())
    return Gather(torch.cat(indices), shape), torch.cat(variances)
