"""Solvers keep what an innovation covariance lifts: the product V H^T u."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
    GMRES,
    MINRES,
    Cholesky,
    Dense,
    InnovationCovariance,
    Isotropic,
    Operator,
    Solution,
    Solver,
)
from appa_prob.operators.iterative import KrylovSolver
from appa_prob.operators.solution import OnFailure

SOLVERS: dict[str, Solver] = {
    "CG": CG(rtol=1e-12),
    "MINRES": MINRES(rtol=1e-12),
    "GMRES": GMRES(rtol=1e-12),
    "GMRES(3)": GMRES(rtol=1e-12, max_iterations=400, restart=3),
    "Cholesky": Cholesky(rtol=1e-12),
}
ITERATIVE: list[type[KrylovSolver]] = [CG, MINRES, GMRES]
F64 = torch.float64


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def definite(n: int) -> Tensor:
    """A symmetric positive definite matrix."""
    factor = noise(n, n)
    return factor @ factor.mT / n + torch.eye(n, dtype=F64)


def innovation(n: int = 8, m: int = 5) -> InnovationCovariance:
    V = Dense(definite(n), (2, n // 2), symmetric=True)
    H = Dense(noise(m, n), (2, n // 2))
    return InnovationCovariance(H, V, Isotropic(0.5, m))


def lifts(S: InnovationCovariance, solution: Solution) -> None:
    assert solution.lifted is not None
    expected = S.V(S.H.adjoint(solution.value))
    assert float(expected.abs().max()) > 0.01
    torch.testing.assert_close(solution.lifted, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("guess", [False, True])
def test_lifted_is_the_product_with_the_covariance(solver: Solver, guess: bool) -> None:
    S, b = innovation(), noise(3, 5)
    lifts(S, solver(S, b, noise(3, 5) if guess else None))
    assert solver(Dense(S.to_dense(), symmetric=True), b).lifted is None


@pytest.mark.parametrize("on_failure", ["ignore", "warn"])
@pytest.mark.parametrize("kind", ITERATIVE)
@pytest.mark.filterwarnings("ignore::appa_prob.operators.ConvergenceWarning")
def test_lifted_is_right_at_the_cap_too(kind: type[KrylovSolver], on_failure: OnFailure) -> None:
    S, b = innovation(), noise(3, 5)
    capped = kind(rtol=1e-10, max_iterations=2, on_failure=on_failure)(S, b)
    assert not bool(capped.converged.any())
    lifts(S, capped)


def test_cg_spares_the_last_product_and_admits_not_knowing_the_residual() -> None:
    S, b = innovation(), noise(5)
    spared = CG(rtol=1e-12, max_iterations=3, on_failure="ignore")(S, b)
    checked = CG(rtol=1e-12, max_iterations=3, on_failure="ignore", verify=True)(S, b)
    torch.testing.assert_close(spared.value, checked.value)
    assert spared.residual.isnan() and not spared.converged
    torch.testing.assert_close(checked.residual, (b - S(checked.value)).norm() / b.norm())


def test_a_dense_factorisation_takes_no_product_beyond_those_of_its_rows() -> None:
    class Counted(Dense):
        products = 0

        def forward(self, x: Tensor) -> Tensor:
            Counted.products += x.shape[: x.ndim - 2].numel()
            return super().forward(x)

        def cross(self, H: Operator) -> Tensor:
            return Operator.cross(self, H)

    V, H = Counted(definite(8), (2, 4), symmetric=True), Dense(noise(5, 8), (2, 4))
    S = InnovationCovariance(H, V, Isotropic(0.5, 5))
    solution = Cholesky()(S, noise(3, 5))
    assert Counted.products == 5
    lifts(S, solution)
