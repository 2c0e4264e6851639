"""Programs of Pyro with diffusion priors: what is read of them, and their posteriors."""

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor

from appa_prob import DiffusionPrior, condition
from appa_prob.inference_data import inference_data
from appa_prob.likelihoods import GaussianLikelihood, Missing
from appa_prob.operators import GMRES, Cholesky, Dense, Isotropic
from appa_prob.program import Program
from appa_prob.samplers import (
    DPS,
    MMPS,
    TDS,
    DPMSolver,
    GaussianDenoiser,
    MixtureDenoiser,
    VESchedule,
)
from appa_prob.samplers.testing import affine_law, diffused

SCHEDULE = VESchedule(1e-2, 1e2)
F = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
V = F @ F.mT / 4 + 0.1 * torch.eye(4).double()
MEAN = torch.tensor([1.0, -1.0, 0.5, 0.0]).double()
A = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()
R = torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double()
Y = torch.tensor([1.0, -0.5, 2.0]).double()
Z = torch.tensor([0.3, 0.4]).double()


def prior(size: int = 4, steps: int = 32) -> DiffusionPrior:
    covariance = Dense(V[:size, :size].clone(), symmetric=True)
    denoiser = GaussianDenoiser(MEAN[:size].clone(), covariance, SCHEDULE)
    return DiffusionPrior(denoiser, DPMSolver(steps), dtype=torch.float64)


def block_diagonal(*blocks: Tensor) -> Tensor:
    joined: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return joined


def kalman(H: Tensor, y: Tensor, noise: Tensor, m: Tensor = MEAN) -> tuple[Tensor, Tensor]:
    V_ = block_diagonal(V, V) if len(m) == 8 else V
    gain = V_ @ H.mT @ torch.linalg.inv(H @ V_ @ H.mT + noise)
    return m + gain @ (y - H @ m), V_ - gain @ H @ V_


def assert_posterior(program: Program, mean: Tensor, covariance: Tensor) -> None:
    """The law of samples, computed without Monte Carlo, is that of Kalman."""
    posterior = MMPS(program.prior, program.likelihood, Cholesky())
    sampler = DPMSolver(48)
    start = diffused(mean, (covariance + covariance.mT) / 2, SCHEDULE, 1.0)
    found_mean, found = affine_law(sampler, posterior, start=start)
    torch.testing.assert_close(found_mean, mean, rtol=3e-3, atol=3e-3)
    torch.testing.assert_close(found, covariance, rtol=1e-2, atol=5e-3)


def two_instruments(y: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    x: Tensor = pyro.sample("x", prior())
    pyro.deterministic("total", x.sum(-1))
    with pyro.plate("instruments", 3):
        pyro.sample("y", dist.Normal(x @ A.mT, 0.5), obs=y)
    pyro.sample("z", dist.MultivariateNormal(x[..., :2], R), obs=z)
    return x


def test_a_linear_gaussian_program_has_the_posterior_of_kalman() -> None:
    program = Program(two_instruments, (Y, Z))
    H = torch.cat((A, torch.eye(4).double()[:2]))
    noise = block_diagonal(0.25 * torch.eye(3).double(), R)
    assert_posterior(program, *kalman(H, torch.cat((Y, Z)), noise))
    x = torch.randn(5, 4).double()
    law = dist.MultivariateNormal(x @ H.mT, noise)
    torch.testing.assert_close(program.likelihood.log_prob(x), law.log_prob(torch.cat((Y, Z))))


def test_condition_returns_samples_as_mcmc_does() -> None:
    pyro.set_rng_seed(0)
    samples = condition(two_instruments, Y, Z, num_samples=400, batch_size=150)
    assert {name: value.shape for name, value in samples.items()} == {
        "x": (400, 4),
        "total": (400,),
    }
    torch.testing.assert_close(samples["total"], samples["x"].sum(-1))
    H = torch.cat((A, torch.eye(4).double()[:2]))
    noise = block_diagonal(0.25 * torch.eye(3).double(), R)
    mean, covariance = kalman(H, torch.cat((Y, Z)), noise)
    # 5 standard errors: a right sampler fails once in 10^6 seeds.
    bound = 5 * covariance.diagonal().sqrt() / 20
    assert bool(((samples["x"].mean(0) - mean).abs() < bound).all())
    g = torch.Generator().manual_seed(0)
    first = condition(two_instruments, Y, Z, num_samples=3, generator=g)["x"]
    g.manual_seed(0)
    again = condition(two_instruments, y=Y, z=Z, num_samples=3, generator=g)["x"]
    assert torch.equal(first, again)
    drawn = Predictive(two_instruments, samples)()
    assert drawn["y"].shape == (400, 3) and drawn["z"].shape == (400, 1, 2)  # as Pyro has it


def test_any_guidance_serves() -> None:
    found = condition(two_instruments, Y, Z, num_samples=4, guidance=DPS)["x"]
    assert found.shape == (4, 4)
    with pytest.raises(ValueError, match="guidance or an integrator made of the likelihood"):
        condition(two_instruments, Y, Z, guidance=DPS, integrator=lambda y: TDS(8, likelihood=y))


def in_a_plate(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    with pyro.plate("times", 5):
        pyro.sample("y", dist.Normal(x @ A.mT, 0.5).to_event(1), obs=y)


def along_the_event(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    with pyro.plate("places", 4):
        pyro.sample("y", dist.Poisson(x.exp()), obs=y)


def one_by_one(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.sample("y", dist.Normal(x[0] * x[1] + x.sum(), 0.5), obs=y)


def heteroscedastic(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.sample("y", dist.Normal(x, x.exp()).to_event(1), obs=y)


def by_probability(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.sample("y", dist.Bernoulli(0.9 * torch.sigmoid(x)).to_event(1), obs=y)


def by_odds(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.sample("y", dist.NegativeBinomial(3.0, torch.sigmoid(x)).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "y", "axes"),
    [
        (in_a_plate, torch.randn(5, 3).double(), 1),
        (along_the_event, torch.tensor([1.0, 0.0, 3.0, 2.0]).double(), 0),
        (one_by_one, torch.tensor(1.0).double(), None),
        (heteroscedastic, torch.randn(4).double(), 0),
        (by_probability, torch.tensor([1.0, 0.0, 1.0, 0.0]).double(), 0),
        (by_odds, torch.tensor([1.0, 0.0, 7.0, 2.0]).double(), 0),
    ],
)
def test_programs_run_for_many_states_at_once_where_that_is_the_same(
    model: Callable[[Tensor], None], y: Tensor, axes: int | None
) -> None:
    likelihood = Program(model, (y,)).likelihood
    assert likelihood.runs.axes == axes
    x = torch.randn(2, 3, 4).double()
    residual, H, noise = likelihood.linearize(x)
    score = H.adjoint(noise.solve(residual))
    for i in range(2):
        for j in range(3):
            point = x[i, j].clone().requires_grad_()
            trace = poutine.trace(poutine.condition(model, {"x": point})).get_trace(y)
            trace.compute_log_prob()
            node: Any = trace.nodes["y"]
            total = node["log_prob"].sum()
            torch.testing.assert_close(likelihood.log_prob(x)[i, j], total.detach())
            (expected,) = torch.autograd.grad(total, point)
            torch.testing.assert_close(score[i, j], expected)
            alone = likelihood.linearize(x[i, j])[1].to_dense()
            torch.testing.assert_close(H.to_dense().expand(2, 3, *alone.shape)[i, j], alone)


def test_scales_temper_and_masks_leave_out() -> None:
    mask = torch.tensor([True, False, True])
    seen: Any = poutine.mask(mask=mask)  # type: ignore[call-overload]

    def model(y: Tensor) -> None:
        x = pyro.sample("x", prior())
        with poutine.scale(scale=0.5), seen, pyro.plate("data", 3):
            pyro.sample("y", dist.Normal(x @ A.mT, 0.5), obs=y)

    H, y = A[mask], Y[mask]
    exact = kalman(H, y, 0.5 * torch.eye(2).double())
    assert_posterior(Program(model, (Y,)), *exact)

    def masked(y: Tensor) -> None:
        x = pyro.sample("x", prior())
        with poutine.scale(scale=0.5), pyro.plate("data", 3):
            pyro.sample("y", dist.Normal(x @ A.mT, 0.5).mask(mask), obs=y)

    assert_posterior(Program(masked, (Y,)), *exact)

    def missing(y: Tensor) -> None:
        x = pyro.sample("x", prior())
        likelihood = Missing(GaussianLikelihood(Dense(A), 0.5**0.5))
        pyro.sample("y", likelihood(x), obs=y)

    assert_posterior(Program(missing, (torch.where(mask, Y, torch.nan),)), *exact)


def test_scales_of_priors_are_powers() -> None:
    def model(y: Tensor) -> None:
        with poutine.scale(scale=4.0):
            x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x @ A.mT, 0.5).to_event(1), obs=y)

    gain = V @ A.mT @ torch.linalg.inv(A @ V @ A.mT + 1.0 * torch.eye(3).double())
    mean = MEAN + gain @ (Y - A @ MEAN)
    x_t, t = torch.zeros(4).double(), torch.tensor(1.0).double()
    program = Program(model, (Y,))
    found = MMPS(program.prior, program.likelihood, GMRES())(x_t, t)
    torch.testing.assert_close(found, mean, rtol=1e-3, atol=1e-3)


def test_several_fields_and_copies_of_one() -> None:
    H = torch.cat((A, 2 * A), -1)
    exact = kalman(H, Y, 0.25 * torch.eye(3).double(), torch.cat((MEAN, MEAN)))

    def two(y: Tensor) -> None:
        a, b = pyro.sample("a", prior()), pyro.sample("b", prior())
        pyro.sample("y", dist.Normal(a @ A.mT + 2 * b @ A.mT, 0.5).to_event(1), obs=y)

    def copies(y: Tensor) -> None:
        with pyro.plate("copies", 2):
            x = pyro.sample("x", prior())
        mean = x[..., 0, :] @ A.mT + 2 * x[..., 1, :] @ A.mT
        pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)

    def expanded(y: Tensor) -> None:
        several: Any = prior().expand((2,))
        x = pyro.sample("x", several.to_event(1))
        mean = x[..., 0, :] @ A.mT + 2 * x[..., 1, :] @ A.mT
        pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)

    for model in (two, copies, expanded):
        assert_posterior(Program(model, (Y,)), *exact)
    samples = condition(two, Y, num_samples=2)
    assert samples["a"].shape == samples["b"].shape == (2, 4)
    assert condition(copies, Y, num_samples=3)["x"].shape == (3, 2, 4)


def test_other_latent_sites_are_held() -> None:
    def model(y: Tensor) -> None:
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x @ A.mT, s).to_event(1), obs=y)

    program = Program(model, (Y,), values={"s": torch.tensor(0.5).double()})
    assert_posterior(program, *kalman(A, Y, 0.25 * torch.eye(3).double()))
    wider = program.at({"s": torch.tensor(2.0).double()})
    assert_posterior(wider, *kalman(A, Y, 4.0 * torch.eye(3).double()))


def test_schools_with_a_mixture_prior_match_enumeration() -> None:
    """Eight schools, of one of two kinds: the exact posterior is a mixture."""
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]).double()
    error = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]).double()
    means = torch.stack((torch.zeros(8), torch.full((8,), 15.0))).double()
    spread = Isotropic(torch.tensor(25.0).double(), 8)
    schools = MixtureDenoiser(torch.ones(2).double(), means, spread, VESchedule(0.3, 1e3))
    kinds = DiffusionPrior(schools, dtype=torch.float64)

    def model(y: Tensor) -> None:
        effect = pyro.sample("effect", kinds)
        with pyro.plate("schools", 8):
            pyro.sample("y", dist.Normal(effect, error), obs=y)

    pyro.set_rng_seed(0)
    found = condition(model, y, num_samples=1000, integrator=lambda y: TDS(64, likelihood=y))
    evidence = dist.Normal(means, (25 + error.square()).sqrt()).log_prob(y).sum(-1)
    share = torch.softmax(evidence, 0)
    each = means + 25 / (25 + error.square()) * (y - means)
    mean = (share[:, None] * each).sum(0)
    spread_each = 25 * error.square() / (25 + error.square())
    variance = spread_each + (share[:, None] * (each - mean).square()).sum(0)
    # 5 standard errors of at least 300 effective samples.
    gap = (found["effect"].mean(0) - mean).abs() / (variance / 300).sqrt()
    assert bool((gap < 5).all())
    assert 0.1 < float(share[0]) < 0.9
    nearest = (found["effect"][:, None] - each).square() / spread_each
    kind = (-0.5 * nearest.sum(-1) + share.log()).softmax(-1).mean(0)
    assert abs(float(kind[0] - share[0])) < 5 * float((share[0] * share[1] / 300).sqrt())


def test_samples_go_to_arviz() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its next version once a day
        import arviz
    samples = condition(two_instruments, Y, Z, num_samples=50)
    drawn = Predictive(two_instruments, samples)()
    tree = inference_data(
        two_instruments,
        samples,
        Y,
        Z,
        predictive={"y": drawn["y"]},
        dims={"x": ["place"]},
        coords={"place": list("abcd")},
    )
    assert dict(tree["posterior"]["x"].sizes) == {"chain": 1, "draw": 50, "place": 4}
    assert tree["log_likelihood"]["y"].shape == (1, 50, 3)
    assert tree["log_likelihood"]["z"].shape == (1, 50)
    assert tree["posterior_predictive"]["y"].shape == (1, 50, 3)
    expected = dist.Normal(samples["x"] @ A.mT, 0.5).log_prob(Y)
    torch.testing.assert_close(torch.from_numpy(tree["log_likelihood"]["y"].values)[0], expected)
    groups: Any = {name: group.to_dataset() for name, group in tree.children.items()}
    data = arviz.InferenceData(**groups)
    summary = arviz.summary(data, var_names=["x"], kind="stats")
    assert list(summary.index) == ["x[a]", "x[b]", "x[c]", "x[d]"]
    with pytest.raises(ValueError, match="expected samples of 'x', got total"):
        inference_data(two_instruments, {"total": samples["total"]}, Y, Z)


def no_field(y: Tensor) -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x, 1.0), obs=y.sum())


def nothing_observed(y: Tensor) -> None:
    pyro.sample("x", prior())


def independent(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y.sum())
    pyro.sample("other", dist.Normal(0.0, 1.0), obs=y.sum())


def discrete(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    k = pyro.sample("kind", dist.Bernoulli(0.5))
    pyro.sample("y", dist.Normal(x.sum(-1) + k, 1.0), obs=y.sum())


def latent(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    s = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x.sum(-1), s), obs=y.sum())


def wrong_plate(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    with pyro.plate("data", 5):
        pyro.sample("y", dist.Normal(x @ A.mT, 1.0), obs=y)


def no_plate(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.sample("y", dist.Normal(x @ A.mT, 1.0), obs=y)


def wrong_shape(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y)


def subsampled(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    with pyro.plate("data", 3, subsample_size=2) as i:
        pyro.sample("y", dist.Normal((x @ A.mT)[..., i], 1.0), obs=y[i])


def factor(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.factor("penalty", -x.square().sum(-1))


def unknown_law(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.sample("y", dist.VonMises(x, 1.0).to_event(1), obs=torch.ones(4).double())


def hidden_parameter(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    law = dist.Beta(x.exp(), 1.0).to_event(1)
    pyro.sample("y", law, obs=torch.full((4,), 0.5).double())


def transform_of_the_field(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    pyro.sample("y", dist.Weibull(x.exp(), 1.0).to_event(1), obs=torch.ones(4).double())


def unknown_parameter(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    law = dist.Gamma(x.exp(), 1.0).to_event(1)
    pyro.sample("y", law, obs=torch.ones(4).double())


def not_a_number(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    y = torch.where(y > 1, torch.nan, y)
    pyro.sample("y", dist.Normal(x @ A.mT, 1.0).to_event(1), obs=y)


def masked_prior(y: Tensor) -> None:
    with poutine.mask(mask=False):
        x = pyro.sample("x", prior())
    pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y.sum())


def covariance_of_the_field(y: Tensor) -> None:
    x = pyro.sample("x", prior())
    law = dist.MultivariateNormal(x, torch.diag_embed(x.exp()))
    pyro.sample("y", law, obs=torch.ones(4).double())


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (no_field, ValueError, "DiffusionPrior site, got none among the latent sites 'x'"),
        (nothing_observed, ValueError, "an observed site beside 'x', got none"),
        (independent, ValueError, "site 'other' is observed, but .* does not depend on"),
        (discrete, ValueError, "site 'kind' is discrete and latent, got Bernoulli"),
        (latent, ValueError, "site 'noise' is latent, and neither a DiffusionPrior nor given"),
        (wrong_plate, ValueError, r"plate\('data'\) at site y dim -1, 5 vs 3"),
        (no_plate, ValueError, r"at site \"y\", invalid log_prob shape"),
        (wrong_shape, ValueError, r"site 'y': expected an observation of shape \(\), .* \(3,\)"),
        (subsampled, ValueError, "plate 'data': expected all of 3 elements, got a subsample of 2"),
        (factor, ValueError, r"site 'penalty': .* got pyro\.factor"),
        (unknown_law, TypeError, "site 'y': expected a distribution with a known Fisher info"),
        (hidden_parameter, TypeError, "site 'y': .* known Fisher information, got Beta"),
        (transform_of_the_field, TypeError, "site 'y': expected transforms that don't depend"),
        (unknown_parameter, TypeError, "site 'y': .* whose concentration does"),
        (not_a_number, ValueError, "(?s)site 'y': .*some are NaN: see .*Missing"),
        (masked_prior, ValueError, "site 'x': expected a DiffusionPrior without a mask"),
        (covariance_of_the_field, TypeError, "site 'y': expected a covariance of errors"),
    ],
)
def test_bad_programs_are_refused_by_the_name_of_the_site(
    model: Callable[[Tensor], None], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        condition(model, Y)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        condition(two_instruments, Y, Z, num_samples=0)
    with pytest.raises(TypeError, match="a program lives where its data live"):
        Program(two_instruments, (Y, Z)).likelihood.to(torch.float32)
    with pytest.raises(ValueError, match=r"states of shape \(\*, 4\), got \(3,\)"):
        Program(two_instruments, (Y, Z)).likelihood.log_prob(torch.zeros(3).double())
