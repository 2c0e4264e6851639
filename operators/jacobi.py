"""Preconditioning by the diagonal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Operator
from .elementary import Diagonal
from .preconditioner import Preconditioner
from .registry import register
from .shapes import unflatten

__all__ = ["Jacobi"]


@register
@dataclass(frozen=True)
class Jacobi(Preconditioner):
    r"""Preconditioning by the diagonal, :math:`M = \mathrm{diag}(|S_{11}|, |S_{22}|, \dots)^{-1}`.

    It undoes a bad scaling of the unknowns, and nothing else. Entries of 0 are left alone.

    Raises:
        ValueError: If the operator has no structure to read its diagonal from and is too large
            for a dense matrix.

    Example:
        >>> Jacobi().prepare(Diagonal(torch.tensor([2.0, -4.0])))(torch.ones(2))
        tensor([0.5000, 0.2500])
    """

    def prepare(self, S: Operator) -> Callable[[Tensor], Tensor]:
        diagonal = unflatten(S.diagonal(), S.in_shape).abs()
        return Diagonal(torch.where(diagonal > 0, 1 / diagonal, 1.0), event_ndim=len(S.in_shape))
