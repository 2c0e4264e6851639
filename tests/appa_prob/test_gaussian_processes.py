"""Kernels of GPyTorch as priors, as errors and as denoisers, against its own exact regression."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Cholesky, Gather, Isotropic, KernelCovariance
from appa_prob.samplers import (
    MMPS,
    DPMSolver,
    Gaussian,
    GaussianDenoiser,
    GaussianLikelihood,
    VESchedule,
)
from appa_prob.samplers.testing import affine_law

F64 = torch.float64
EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kernels() -> dict[str, Any]:
    from gpytorch.kernels import MaternKernel, PeriodicKernel, RBFKernel, RQKernel, ScaleKernel

    return {
        "scaled": ScaleKernel(MaternKernel(nu=2.5)),
        "several lengths": RBFKernel(ard_num_dims=2),
        "sum": MaternKernel(nu=0.5) + ScaleKernel(RQKernel()),
        "product": PeriodicKernel() * RBFKernel(active_dims=(0,)),
    }


def exact_regression(kernel: Any, x: Tensor, y: Tensor, noise: float) -> tuple[Any, Any]:
    """GPyTorch's own model; imported after operators, which know its warnings."""
    import gpytorch

    class Regression(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.LinearMean(2)
            self.covar_module = kernel

        def forward(self, x: Tensor) -> Any:
            covariance = self.covar_module(x)
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), covariance)

    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    likelihood.noise = noise
    return Regression(likelihood).double(), likelihood.double()


@pytest.mark.parametrize("name", kernels())
def test_a_kernel_as_prior_is_the_regression_of_gpytorch(name: str) -> None:
    """A field on 5 x 4 points, seen at 7: mean, covariance and evidence, exactly."""
    torch.manual_seed(0)
    kernel, place = kernels()[name].double(), torch.rand(20, 2, dtype=F64)
    seen, y = torch.randperm(20)[:7], torch.randn(7, dtype=F64)
    model, noise = exact_regression(kernel, place[seen], y, 0.1)
    with torch.no_grad():
        mean = model.mean_module(place)
        prior = Gaussian(mean.reshape(5, 4), KernelCovariance(kernel, place, (5, 4)))
        likelihood = GaussianLikelihood(Gather(seen, (5, 4)), y, float(noise.noise))
        posterior, evidence = prior.condition_with_evidence(likelihood)
        model.train()
        expected = noise(model(place[seen])).log_prob(y)
        model.eval()
        found = model(place)
    torch.testing.assert_close(posterior.mean.flatten(), found.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        posterior.covariance.to_dense(), found.covariance_matrix, rtol=1e-8, atol=1e-8
    )
    torch.testing.assert_close(evidence, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", kernels())
def test_a_denoiser_of_a_kernel_samples_the_regression(name: str) -> None:
    """The law of the sampler, without Monte Carlo."""
    torch.manual_seed(0)
    kernel, place = kernels()[name].double(), torch.rand(12, 2, dtype=F64)
    seen, y = torch.randperm(12)[:5], torch.randn(5, dtype=F64)
    model, noise = exact_regression(kernel, place[seen], y, 0.1)
    model.eval()
    with torch.no_grad():
        mean, exact = model.mean_module(place), model(place)
        prior = GaussianDenoiser(mean, KernelCovariance(kernel, place), VESchedule(1e-3, 1e3))
        likelihood = GaussianLikelihood(Gather(seen, 12), y, float(noise.noise))
        posterior = MMPS(prior, likelihood, Cholesky())
        errors = []
        for steps in (64, 128):
            found, covariance = affine_law(DPMSolver(steps), posterior)
            errors.append(float((covariance - exact.covariance_matrix).norm()))
        assert float((found - exact.mean).norm()) < 2e-3 * float(exact.mean.norm())
    assert errors[1] < 0.35 * errors[0]  # second order
    assert errors[1] < 2e-2 * float(exact.covariance_matrix.norm())


def test_a_kernel_as_covariance_of_errors() -> None:
    """Errors that are correlated along a track, against dense algebra of GPyTorch's matrices."""
    torch.manual_seed(0)
    all_kernels = kernels()
    kernel, errors = all_kernels["scaled"].double(), all_kernels["several lengths"].double()
    place = torch.rand(15, 2, dtype=F64)
    seen, y = torch.randperm(15)[:6], torch.randn(6, dtype=F64)
    with torch.no_grad():
        R = KernelCovariance(errors, place[seen]) + Isotropic(torch.tensor(0.05, dtype=F64), 6)
        prior = GaussianDenoiser(
            torch.zeros(15, dtype=F64), KernelCovariance(kernel, place), VESchedule(1e-3, 1e3)
        )
        likelihood = GaussianLikelihood(Gather(seen, 15), y, R)
        posterior = MMPS(prior, likelihood, Cholesky())
        found, covariance = affine_law(DPMSolver(128), posterior)
        K = kernel(place).to_dense()
        S = K[seen][:, seen] + errors(place[seen]).to_dense() + 0.05 * torch.eye(6)
        gain = torch.linalg.solve(S, K[seen]).mT
    torch.testing.assert_close(found, gain @ y, rtol=0, atol=3e-3)
    torch.testing.assert_close(covariance, K - gain @ K[seen], rtol=0, atol=1e-2)


def test_the_program_of_the_example_with_either_prior(tmp_path: Path) -> None:
    """The law of either prior is known, and so are both posteriors."""
    module = example("gp_or_diffusion")
    module.main(tmp_path / "picture.png", members=16)
    assert (tmp_path / "picture.png").stat().st_size > 20_000
    evidence = torch.randn(module.N, dtype=F64)
    chain = torch.tensor(module.math.exp(-1 / module.LENGTH), dtype=F64)
    change = (1 + torch.tensor([[1, -1], [-1, 1]]) * chain) / 2
    forward = torch.full((2,), 0.5, dtype=F64)
    laws = []  # of each point given those before it and itself
    for e in evidence:
        forward = change @ forward * torch.stack((torch.sigmoid(e), torch.sigmoid(-e)))
        forward = forward / forward.sum()
        laws.append(forward)
    later, means = torch.ones(2, dtype=F64), []
    for law, e in zip(reversed(laws), reversed(evidence), strict=True):
        both = law * later / (law * later).sum()
        means.append(both[0] - both[1])
        later = change @ (later * torch.stack((torch.sigmoid(e), torch.sigmoid(-e))))
    torch.testing.assert_close(module.mean_of_signal(evidence), torch.stack(means[::-1]))
    # The second moments of the signal are those of the Gaussian process.
    covariance = module.gaussian_process().covariance.to_dense()
    apart = (module.PLACE[:, None] - module.PLACE).abs()
    torch.testing.assert_close(covariance, chain**apart)
