"""What is left after conditioning, without a dense matrix: diagonals by probing, and draws."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    GMRES,
    Dense,
    Diagonal,
    Isotropic,
    estimate_diagonal,
    root_product,
)
from appa_prob.samplers import (
    MMPS,
    TMPD,
    Denoiser,
    Gaussian,
    GaussianLikelihood,
    Guidance,
    Likelihood,
    MixtureDenoiser,
    VPSchedule,
)

N = 24
EXACT = GMRES(rtol=1e-10, max_iterations=100)


class Opaque(Denoiser):
    """The denoiser of a mixture, whose covariance comes from its Jacobian, as for a network."""

    def __init__(self) -> None:
        super().__init__((N,), VPSchedule())
        means = torch.randn(3, N, generator=torch.Generator().manual_seed(1)).double()
        variances = torch.logspace(0, -2, N).double()
        self.exact = MixtureDenoiser(
            torch.ones(3).double(), means, Diagonal(variances), self.schedule
        )

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        mean: Tensor = self.exact(x_t, t)
        return mean


def left(make: Callable[[Denoiser, Likelihood], Guidance], batch: tuple[int, ...]) -> Gaussian:
    g = torch.Generator().manual_seed(2)
    A, y = torch.randn(6, N, generator=g).double(), torch.randn(6, generator=g).double()
    x_t = torch.randn(*batch, N, generator=g).double()
    guided = make(Opaque(), GaussianLikelihood(Dense(A), y, 0.05))
    return guided.posterior(x_t, torch.tensor(0.4).double())


@pytest.mark.parametrize("make", [lambda d, y: MMPS(d, y, EXACT), TMPD], ids=["MMPS", "TMPD"])
def test_variances_by_probing_are_those_of_the_dense_matrix(
    make: Callable[[Denoiser, Likelihood], Guidance],
) -> None:
    posterior = left(make, (2,))
    exact = posterior.covariance.to_dense().diagonal(dim1=-2, dim2=-1)
    g = torch.Generator().manual_seed(0)
    found, error = estimate_diagonal(posterior.covariance, 100, g)
    assert found.shape == (2, N)
    # Six standard errors: a correct estimate of 48 numbers fails once in 10^7 seeds.
    assert ((found - exact).abs() < 6 * error + 1e-12).all()
    assert float(error.mean()) < 0.5 * float(exact.abs().mean())
    again = posterior.variance(100, torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, found)


def test_the_exact_variance_is_the_diagonal() -> None:
    law = Gaussian(torch.zeros(2, 3), Isotropic(2.0, (2, 3)))
    torch.testing.assert_close(law.variance(), torch.full((2, 3), 2.0))


def test_roots_are_those_of_the_dense_matrix() -> None:
    posterior = left(lambda d, y: MMPS(d, y, EXACT), ())
    dense = posterior.covariance.to_dense()
    values, vectors = torch.linalg.eigh((dense + dense.mT) / 2)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    found = root_product(posterior.covariance, torch.eye(N).double(), N)
    torch.testing.assert_close(found, root, rtol=1e-5, atol=1e-6)
    few = root_product(posterior.covariance, torch.eye(N).double(), 12)
    assert (few - root).norm() < 0.05 * root.norm()


def test_spaces_that_end_early_are_exact() -> None:
    A = Diagonal(torch.tensor([4.0, 4.0, 9.0, 0.0]).double())
    z = torch.tensor([[1.0, 2.0, 0.0, 0.0], [1.0, 0.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]]).double()
    root = torch.tensor([2.0, 2.0, 3.0, 0.0]).double()
    torch.testing.assert_close(root_product(A, z, 8), z * root)


def test_draws_are_roots_of_white_noise() -> None:
    posterior = left(lambda d, y: MMPS(d, y, EXACT), (2,))
    x = posterior.sample((3,), torch.Generator().manual_seed(0), iterations=16)
    z = torch.randn(3, 2, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = posterior.mean + root_product(posterior.covariance, z, 16)
    torch.testing.assert_close(x, expected)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="2 probes or more"):
        estimate_diagonal(Isotropic(1.0, 2), 1)
    with pytest.raises(ValueError, match="keeps the shape"):
        estimate_diagonal(Dense(torch.ones(2, 3)))
    with pytest.raises(ValueError, match="declared symmetric"):
        root_product(Dense(torch.eye(2)), torch.ones(2))
    with pytest.raises(ValueError, match="at least 1 iteration"):
        root_product(Isotropic(1.0, 2), torch.ones(2), 0)
