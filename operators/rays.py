r"""Line integrals through a grid: tomography, path delays, limb soundings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from .registry import register
from .shapes import as_size
from .sparse import Sparse

__all__ = ["LineIntegrals", "Radon"]

CHUNK = 2**22  # crossings that are sorted at a time


@register
class LineIntegrals(Sparse):
    r"""Integrals of a field along straight lines.

    .. math:: (A x)_r = \sum_i \ell_{ri} \, x_i

    with :math:`\ell_{ri}` the exact length of the line :math:`r` in the cell :math:`i`: the field
    is constant in each cell, and 0 outside of the grid. The cell :math:`(0, \dots, 0)` has its
    corner at the origin, and the centre of cell :math:`i` is at :math:`(i + \tfrac{1}{2}) \Delta`.
    The operator is differentiable with respect to the ends of the lines.

    References:
        | Fast calculation of the exact radiological path for a three-dimensional CT array
          (Siddon, 1985)
        | https://doi.org/10.1118/1.595715

    Arguments:
        start: The starts of the lines, with shape :math:`(n, d)`, in the unit of the spacing.
        end: The ends of the lines, likewise.
        in_shape: The shape of the input event, of :math:`d` axes.
        spacing: The size :math:`\Delta` of cells along each axis, or one number for all.

    Raises:
        ValueError: If the shapes don't fit, or a spacing isn't positive.

    Example:
        >>> A = LineIntegrals(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.5, 2.0]]), (2, 2))
        >>> A.to_dense()
        tensor([[1., 1., 0., 0.]])
    """

    def __init__(
        self,
        start: Tensor,
        end: Tensor,
        in_shape: int | Sequence[int],
        spacing: float | Sequence[float] = 1.0,
    ) -> None:
        shape = as_size(in_shape)
        sizes = (spacing,) * len(shape) if isinstance(spacing, (int, float)) else tuple(spacing)
        if start.ndim != 2 or start.shape != end.shape or start.shape[-1] != len(shape):
            raise ValueError(
                f"expected starts and ends of shape (n, {len(shape)}) for events of shape "
                f"{tuple(shape)}, got {tuple(start.shape)} and {tuple(end.shape)}"
            )
        if len(sizes) != len(shape) or not min(sizes) > 0:
            raise ValueError(f"expected one or {len(shape)} positive spacings, got {spacing}")
        scale = torch.tensor(sizes, dtype=start.dtype, device=start.device)
        chunk = max(1, CHUNK // (sum(shape) + len(shape) + 2))
        parts = [
            crossed(a, b, scale, shape)
            for a, b in zip(torch.split(start, chunk), torch.split(end, chunk), strict=True)
        ]
        offsets = range(0, max(len(start), 1), chunk)
        rays = torch.cat([ray + k for (ray, _, _), k in zip(parts, offsets, strict=True)])
        cells = torch.cat([cell for _, cell, _ in parts])
        lengths = torch.cat([length for _, _, length in parts])
        matrix = torch.sparse_coo_tensor(
            torch.stack((rays, cells)),
            lengths,
            (len(start), shape.numel()),
            check_invariants=False,
        )
        super().__init__(matrix, shape)
        self.start, self.end, self.spacing = start, end, spacing


@register
class Radon(LineIntegrals):
    r"""The Radon transform of images: integrals along parallel lines at some angles.

    .. math:: (A x)_{\theta s} = \int x(c + s \, n_\theta + r \, t_\theta) \, dr \qquad
        n_\theta = (-\sin \theta, \cos \theta) \qquad t_\theta = (\cos \theta, \sin \theta)

    in coordinates of rows and columns, with :math:`c` the centre of the image; at
    :math:`\theta = 0` the lines run along columns. Detectors lie symmetrically about the centre,
    one pixel apart.

    Arguments:
        angles: The angles :math:`\theta` in radians, with shape :math:`(n)`.
        in_shape: The shape of images, rows and columns.
        detectors: The number of detectors; by default as many as see all of the image.

    Raises:
        ValueError: If events aren't images, or there is no detector.

    Example:
        >>> A = Radon(torch.tensor([0.0]), (2, 2), detectors=2)
        >>> A(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[4., 6.]])
    """

    def __init__(
        self, angles: Tensor, in_shape: Sequence[int], detectors: int | None = None
    ) -> None:
        shape = as_size(in_shape)
        if angles.ndim != 1 or len(shape) != 2 or (detectors is not None and detectors < 1):
            raise ValueError(
                f"expected angles of shape (n,), images of two axes and one or more detectors, "
                f"got shapes {tuple(angles.shape)} and {tuple(shape)} and {detectors}"
            )
        count = math.ceil(math.hypot(*shape)) if detectors is None else detectors
        along = torch.stack((angles.cos(), angles.sin()), dim=-1)[:, None]
        across = torch.stack((-angles.sin(), angles.cos()), dim=-1)[:, None]
        s = torch.arange(count, dtype=angles.dtype, device=angles.device) - (count - 1) / 2
        centre = angles.new_tensor([n / 2 for n in shape])
        middle = centre + s[:, None] * across
        reach = math.hypot(*shape)
        start, end = (middle + r * along for r in (-reach, reach))
        super().__init__(start.flatten(0, 1), end.flatten(0, 1), shape)
        self.angles, self.detectors = angles, count
        self.out_shape = Size((len(angles), count))


def crossed(start: Tensor, end: Tensor, spacing: Tensor, shape: Size) -> tuple[Tensor, ...]:
    r"""The cells that lines cross, and the lengths of the lines in them.

    Arguments:
        start: The starts of the lines, with shape :math:`(n, d)`.
        end: The ends of the lines.
        spacing: The size of cells along each axis, with shape :math:`(d)`.
        shape: The numbers of cells.

    Returns:
        The numbers of the lines, the flat indices of the cells, and the lengths.
    """
    a, step = start / spacing, (end - start) / spacing
    shares = [a.new_zeros(len(a), 1), a.new_ones(len(a), 1)]
    for axis, n in enumerate(shape):
        planes = torch.arange(n + 1, dtype=a.dtype, device=a.device)
        slope = step[:, axis, None]
        share = (planes - a[:, axis, None]) / torch.where(slope == 0, 1.0, slope)
        shares.append(torch.where(slope == 0, 0.0, share))  # parallel lines cross no plane
    share = torch.cat(shares, dim=1).clamp(0, 1).sort(dim=1).values
    part = share.diff(dim=1)
    middle = a[:, None] + (share[:, :-1, None] + part[..., None] / 2) * step[:, None]
    place = middle.detach().floor().long()
    limits = torch.tensor(shape, device=place.device)
    inside = ((place >= 0) & (place < limits)).all(-1) & (part > 0)
    flat = torch.zeros_like(place[..., 0])
    for axis, n in enumerate(shape):
        flat = flat * n + place[..., axis]
    length = part * (end - start).norm(dim=1, keepdim=True)
    return inside.nonzero()[:, 0], flat[inside], length[inside]
