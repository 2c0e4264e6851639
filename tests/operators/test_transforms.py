"""Operators inside the transforms of `torch.func` and inside `torch.compile`."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from appa_prob.operators import CG, GMRES, LSMR, LSQR, MINRES, Coarsen, Dense, Diagonal, Mask
from tests.operators.registered_cases import CASES

F64 = torch.float64


@pytest.fixture
def no_fallback() -> Iterator[None]:
    """Operations that can only be mapped one by one, with a warning, fail."""
    functorch: Any = torch._C._functorch
    functorch._set_vmap_fallback_enabled(False)
    yield
    functorch._set_vmap_fallback_enabled(True)


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("name", sorted(CASES))
def test_products_are_mapped_at_once(name: str, generator: torch.Generator) -> None:
    A, _ = CASES[name](generator)
    x = torch.randn(2, *A.batch_shape, *A.in_shape, generator=generator, dtype=F64)
    y = torch.randn(2, *A.batch_shape, *A.out_shape, generator=generator, dtype=F64)
    torch.testing.assert_close(torch.func.vmap(A)(x), A(x))
    torch.testing.assert_close(torch.func.vmap(A.adjoint)(y), A.adjoint(y))


@pytest.mark.parametrize("name", sorted(CASES))
def test_products_in_forward_mode(name: str, generator: torch.Generator) -> None:
    A, _ = CASES[name](generator)
    x = torch.randn(2, *A.batch_shape, *A.in_shape, generator=generator, dtype=F64)
    value, product = torch.func.jvp(A, (x[0],), (x[1],))[:2]
    torch.testing.assert_close(value, A(x[0]))
    torch.testing.assert_close(product, A(x[1]))


@pytest.mark.parametrize("kind", [CG, MINRES, GMRES])
def test_solvers_are_mapped(kind: type[CG | MINRES | GMRES]) -> None:
    d, b = torch.linspace(1, 4, 5, dtype=F64), torch.randn(3, 5, dtype=F64)
    solve = kind(rtol=1e-12, max_iterations=6)
    x = torch.func.vmap(lambda b: solve(Diagonal(d), b).value)(b)
    torch.testing.assert_close(x, b / d)


@pytest.mark.parametrize("kind", [LSMR, LSQR])
def test_least_squares_are_mapped(kind: type[LSMR | LSQR]) -> None:
    A, b = Dense(torch.randn(6, 3, dtype=F64)), torch.randn(4, 6, dtype=F64)
    x = torch.func.vmap(lambda b: kind(rtol=1e-12, max_iterations=6)(A, b).value)(b)
    torch.testing.assert_close(x, b @ torch.linalg.pinv(A.matrix).mT)


def test_operators_are_made_inside_transforms() -> None:
    d, x = torch.rand(3, 4, dtype=F64), torch.randn(3, 4, dtype=F64)
    mask = torch.tensor([True, False, True, True])
    y = torch.func.vmap(lambda d, x: (Mask(mask) @ Diagonal(d))(x))(d, x)
    torch.testing.assert_close(y, (d * x)[:, mask])


def test_expressions_are_compiled_whole() -> None:
    mask = torch.rand(4, 6) > 0.5
    A = 2.0 * Mask(mask) @ Diagonal(torch.rand(4, 6, dtype=F64)) @ Coarsen(2, (8, 12)).to(F64)
    product = torch.compile(lambda x: A.adjoint(A(x)), backend="aot_eager", fullgraph=True)
    x = torch.randn(8, 12, dtype=F64)
    torch.testing.assert_close(product(x), A.adjoint(A(x)))
