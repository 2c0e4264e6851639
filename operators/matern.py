r"""Distances and kernels on the sphere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .registry import register

__all__ = ["SphereMatern", "unit_vectors"]


@register
@dataclass(frozen=True)
class SphereMatern:
    r"""The kernel of Matérn between points on the sphere, for :math:`\nu = 1/2, 3/2, 5/2`.

    .. math:: k(r) = \sigma^2 \, p_\nu(u) \, e^{-u} \qquad u = \sqrt{2 \nu} \, r / \ell \qquad
        p_{1/2} = 1 \quad p_{3/2} = 1 + u \quad p_{5/2} = 1 + u + u^2 / 3

    Distances :math:`r` are straight through the sphere (``"chordal"``), where every :math:`\nu`
    gives a covariance, since it gives one in space. With distances along great circles
    (``"great-circle"``) only :math:`\nu \leq 1/2` does, and others are refused: their matrices
    have negative eigenvalues for long length scales. Near by, both distances are the same: on the
    Earth up to 0.1% at 1,000 km.

    It is called on latitudes and longitudes in degrees, as :class:`KernelCovariance` does.

    Arguments:
        length: The length scale :math:`\ell`, in the units of the radius.
        nu: The smoothness :math:`\nu`.
        variance: The variance :math:`\sigma^2`.
        distance: Which distance, ``"chordal"`` or ``"great-circle"``.
        radius: The radius of the sphere, by default that of the Earth in km.

    Raises:
        ValueError: If an argument is out of its range, or if the function is no covariance.

    References:
        | Strictly and Non-Strictly Positive Definite Functions on Spheres (Gneiting, 2013)
        | https://doi.org/10.3150/12-BEJSP06

    Example:
        >>> from appa_prob.operators import KernelCovariance
        >>> places = torch.tensor([[0.0, 350.0], [0.0, 10.0]])
        >>> V = KernelCovariance(SphereMatern(1000.0, nu=1.5), places)
        >>> V.to_dense()
        tensor([[1.0000, 0.1047],
                [0.1047, 1.0000]])
    """

    length: float
    nu: float = 1.5
    variance: float = 1.0
    distance: Literal["chordal", "great-circle"] = "chordal"
    radius: float = 6371.0

    def __post_init__(self) -> None:
        if not (self.length > 0 and self.variance >= 0 and self.radius > 0):
            raise ValueError(
                "expected a length and a radius > 0 and a variance >= 0, got "
                f"{self.length}, {self.radius} and {self.variance}"
            )
        if self.nu not in (0.5, 1.5, 2.5):
            raise ValueError(f"expected nu to be 0.5, 1.5 or 2.5, got {self.nu}")
        if self.distance not in ("chordal", "great-circle"):
            raise ValueError(
                f"expected distance to be 'chordal' or 'great-circle', got {self.distance!r}"
            )
        if self.distance == "great-circle" and self.nu > 0.5:
            raise ValueError(
                f"expected nu <= 0.5 with great-circle distances, got {self.nu}, which gives no "
                "positive definite function on the sphere; use chordal distances"
            )

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        r"""The matrix of the kernel.

        Arguments:
            a: Latitudes and longitudes in degrees, with shape :math:`(n, 2)`.
            b: Latitudes and longitudes in degrees, with shape :math:`(m, 2)`.
        """
        chord = torch.cdist(
            unit_vectors(*a.unbind(-1)),
            unit_vectors(*b.unbind(-1)),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        if self.distance == "great-circle":
            chord = 2 * torch.asin((chord / 2).clamp(max=1.0))
        u = math.sqrt(2 * self.nu) * self.radius / self.length * chord
        decay = self.variance * torch.exp(-u)
        if self.nu == 0.5:
            return decay
        return decay * (1 + u + (u.square() / 3 if self.nu == 2.5 else 0.0))


def unit_vectors(latitude: Tensor, longitude: Tensor) -> Tensor:
    r"""Places on the unit sphere as points in space, between which any kernel of space is one on
    the sphere.

    Arguments:
        latitude: The latitudes in degrees, with shape :math:`(*)`.
        longitude: The longitudes in degrees, with shape :math:`(*)`.

    Returns:
        The unit vectors, with shape :math:`(*, 3)`.

    Example:
        >>> unit_vectors(torch.tensor([0.0, 30.0]), torch.tensor([0.0, 0.0])).round(decimals=3)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.8660, 0.0000, 0.5000]])
    """
    phi, lam = latitude.deg2rad(), longitude.deg2rad()
    x, y = phi.cos() * lam.cos(), phi.cos() * lam.sin()
    return torch.stack((x, y, phi.sin().expand_as(x)), dim=-1)
