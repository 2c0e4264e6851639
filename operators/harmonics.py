r"""Spherical harmonics: fields on the sphere from their coefficients, and back."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .base import Operator
from .elementary import Diagonal
from .registry import register
from .shapes import as_size

__all__ = ["SphericalHarmonics"]

Nodes = Literal["equiangular", "legendre-gauss", "lobatto"]


@register(leading=lambda A: A.in_shape[:-1], shape=lambda A: tuple(A.out_shape[-2:]))
class SphericalHarmonics(Operator):
    r"""The synthesis of fields from coefficients of real spherical harmonics up to a degree.

    .. math:: (A c)(\varphi, \lambda) = \sum_{l = 0}^L \Big( a_{l 0} P_{l 0} + \sqrt{2}
        \sum_{m = 1}^l P_{l m} (a_{l m} \cos m \lambda + b_{l m} \sin m \lambda) \Big)

    with :math:`P_{l m}(\sin \varphi)` the associated Legendre functions for which the harmonics
    are orthonormal on the unit sphere, :math:`\int (A c)^2 = |c|^2`. The coefficients of a degree
    follow those of lower ones, as :math:`a_{l 0}, a_{l 1}, b_{l 1}, \dots, a_{l l}, b_{l l}`. Rows
    of fields go from north to south; columns start at :math:`\lambda = 0`.

    Legendre functions and nodes come from ``torch-harmonics``, which the extra ``harmonics``
    installs; it is needed to make the operator, not to use it.

    Arguments:
        degree: The largest degree :math:`L`.
        shape: The numbers of rows and columns.
        nodes: Where the rows lie: ``"equiangular"``, from pole to pole; at the nodes of Gauss and
            Legendre; or of Lobatto.
        leading: The event axes before coefficients, and before rows and columns.
        dtype: The floating type of the operator.
        device: The device of the operator.

    Raises:
        ImportError: If ``torch-harmonics`` can't be imported.
        ValueError: If the grid is too coarse for the degree, or the nodes aren't known.

    References:
        | Efficient spherical harmonic transforms aimed at pseudospectral numerical simulations
          (Schaeffer, 2013)
        | https://doi.org/10.1002/ggge.20071

    Example:
        >>> A = SphericalHarmonics(3, (7, 8))  # doctest: +SKIP
        >>> c = torch.randn(16)  # doctest: +SKIP
        >>> torch.allclose(A.analysis(A(c)), c, atol=1e-5)  # doctest: +SKIP
        True
    """

    def __init__(
        self,
        degree: int,
        shape: Sequence[int],
        nodes: Nodes = "equiangular",
        leading: int | Sequence[int] = (),
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        rows, columns = check_nodes(degree, shape, nodes)
        self.degree, self.nodes = degree, nodes
        library = torch_harmonics()
        dtype = dtype or torch.get_default_dtype()

        def kept(values: Tensor) -> Tensor:
            return values.to(dtype=dtype, device=device)

        colatitude, weights = library.quadrature.precompute_latitudes(rows, grid=nodes)
        size = degree + 1
        # By order, degree and row, without the phase of Condon and Shortley.
        legendre = library.legendre.legpoly(size, size, colatitude.cos(), csphase=False)
        self.table = kept(legendre)
        self.row_weights = kept(weights * (2 * math.pi / columns))
        self.latitude = kept(90 - colatitude.rad2deg())
        triples = [
            (order, m, part)
            for order in range(degree + 1)
            for m in range(order + 1)
            for part in range(1 if m == 0 else 2)
        ]
        places = [(order * size + m) * 2 + part for order, m, part in triples]
        self.places = torch.tensor(places, device=device)
        scales = [1.0 if m == 0 else 2**0.5 for _, m, _ in triples]
        self.scales = kept(torch.tensor(scales, dtype=torch.float64))
        lead = as_size(leading)
        super().__init__((*lead, size**2), (*lead, rows, columns))

    @property
    def weights(self) -> Diagonal:
        r"""The weights :math:`W` of quadrature over the sphere; their sum is :math:`4 \pi`."""
        return Diagonal(self.row_weights[:, None].expand(self.out_shape))

    @property
    def analysis(self) -> Operator:
        r"""The analysis :math:`A^T W`: the coefficients of fields.

        It undoes the synthesis where the quadrature is exact up to twice the degree.
        """
        result: Operator = self.T @ self.weights
        return result

    def forward(self, x: Tensor) -> Tensor:
        columns, size = self.out_shape[-1], self.degree + 1
        if not x.numel():  # transforms of nothing are refused by some backends
            return x.new_zeros(*x.shape[:-1], *self.out_shape[-2:])
        full = x.new_zeros(*x.shape[:-1], 2 * size**2)
        full = full.index_add(-1, self.places, x / self.scales)
        c = full.reshape(*x.shape[:-1], size, size, 2)
        waves = torch.einsum("...lmp,mlk->...kmp", c, self.table)
        z = torch.complex(waves[..., 0], -waves[..., 1])
        y: Tensor = torch.fft.irfft(z, n=columns, dim=-1, norm="forward")
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        if not y.numel():
            return y.new_zeros(*y.shape[:-2], self.in_shape[-1])
        z = torch.fft.rfft(y, dim=-1)[..., : self.degree + 1]
        waves = torch.stack((z.real, -z.imag), dim=-1)
        c = torch.einsum("...kmp,mlk->...lmp", waves, self.table).flatten(-3)
        return c.index_select(-1, self.places) * self.scales


def check_nodes(degree: int, shape: Sequence[int], nodes: str) -> tuple[int, int]:
    """The numbers of rows and columns, checked."""
    if nodes not in ("equiangular", "legendre-gauss", "lobatto"):
        raise ValueError(f"expected nodes equiangular, legendre-gauss or lobatto, got {nodes!r}")
    if len(shape) != 2 or degree < 0 or shape[0] <= degree or shape[1] <= 2 * degree:
        raise ValueError(
            f"expected {degree + 1} or more rows and {2 * degree + 1} or more columns for a "
            f"degree of {degree}, got {tuple(shape)}"
        )
    return shape[0], shape[1]


def torch_harmonics() -> Any:
    """The library, imported when it is first needed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it scripts functions on import
            return importlib.import_module("torch_harmonics")
    except ImportError as error:
        raise ImportError(
            "SphericalHarmonics needs torch-harmonics: pip install 'appa-prob[harmonics]'. Its "
            "wheels are made for one version of torch each; beside another one try pip install "
            f"--no-deps torch-harmonics ({error})"
        ) from error
