"""Operators with matrices made without them: the register, and what its entries share."""

from collections.abc import Callable

import torch
from torch import Tensor

from appa_prob.operators import (
    Operator,
)

Case = tuple[Operator, Tensor]
CASES: dict[str, Callable[[torch.Generator], Case]] = {}


def case(make: Callable[[torch.Generator], Case]) -> Callable[[torch.Generator], Case]:
    """Registers an operator with its dense twin."""
    CASES[make.__name__] = make
    return make


def block_diag(*blocks: Tensor) -> Tensor:
    matrix: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return matrix


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)


def eye(generator: torch.Generator, n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64, device=generator.device)


def covariance(generator: torch.Generator, n: int, *batch: int) -> Tensor:
    factor = noise(generator, *batch, n, n)
    return factor @ factor.mT + eye(generator, n)


def mask(generator: torch.Generator, *shape: int) -> Tensor:
    return noise(generator, *shape) > 0
