"""Programs as users of Pyro write them: what has to work does, what can't says why."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor

from appa_prob import DiffusionPrior, condition
from appa_prob.gibbs import gibbs
from appa_prob.inference_data import inference_data
from appa_prob.operators import Dense
from appa_prob.program import Program
from appa_prob.samplers import DPMSolver, GaussianDenoiser, VESchedule

V = torch.eye(4) + 0.3
Y = torch.tensor([1.0, 2.0, 0.0, -1.0])
NAN = torch.tensor([1.0, torch.nan, 0.0, 2.0])


def gaussian(mean: Tensor, kernel: Tensor = V) -> DiffusionPrior:
    denoiser = GaussianDenoiser(mean, Dense(kernel, symmetric=True), VESchedule(0.01, 30.0))
    return DiffusionPrior(denoiser, DPMSolver(16))


PRIOR = gaussian(torch.zeros(4))


def exact(H: Tensor, noise: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    gain = V @ H.mT @ torch.linalg.inv(H @ V @ H.mT + noise)
    return gain @ y, V - gain @ H @ V


def assert_exact(x: Tensor, H: Tensor, noise: Tensor, y: Tensor) -> None:
    """Means within 5 standard errors, which a right sampler exceeds once in 10^5 seeds, and a
    tolerance for the steps of the integrator."""
    mean, covariance = exact(H, noise, y)
    spread = covariance.diagonal().sqrt()
    assert bool(((x.mean(0) - mean).abs() < (5 / len(x) ** 0.5 + 0.02) * spread).all())
    assert bool(((x.std(0) / spread - 1).abs() < 5 / (2 * len(x)) ** 0.5 + 0.02).all())


def test_errors_of_low_rank() -> None:
    factor = torch.tensor([[1.0], [0.5], [-0.5], [0.2]])

    def model(y: Tensor) -> None:
        x = pyro.sample("x", PRIOR)
        law = dist.LowRankMultivariateNormal(x, factor, torch.full((4,), 0.3))
        pyro.sample("y", law, obs=y)

    assert Program(model, (Y,)).likelihood.linear
    noise = factor @ factor.mT + 0.3 * torch.eye(4)
    assert_exact(condition(model, Y, num_samples=400)["x"], torch.eye(4), noise, Y)


def test_vectors_in_a_plate() -> None:
    def model(y: Tensor) -> None:
        x = pyro.sample("x", PRIOR)
        with pyro.plate("times", 3):
            pyro.sample("y", dist.MultivariateNormal(x, scale_tril=torch.eye(4)), obs=y)

    y = torch.stack((Y, Y + 1, Y - 1))
    found = condition(model, y, num_samples=400)["x"]
    assert_exact(found, torch.eye(4), torch.eye(4) / 3, Y)


def test_nested_plates_with_dims() -> None:
    """Three fields, each seen twice."""

    def model(y: Tensor) -> None:
        with pyro.plate("fields", 3, dim=-2):
            x = pyro.sample("x", PRIOR)
            with pyro.plate("looks", 2, dim=-1):
                pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)

    y = torch.stack((Y, 2 * Y, -Y))[:, None].expand(3, 2, 4)
    found = condition(model, y, num_samples=400)["x"]
    assert found.shape == (400, 3, 1, 4)
    for i in range(3):
        assert_exact(found[:, i, 0], torch.eye(4), torch.eye(4) / 2, y[i, 0])


def test_sequential_plates_are_vectorised_ones() -> None:
    def model(y: Tensor) -> None:
        x = pyro.sample("x", PRIOR)
        for i in map(int, pyro.plate("places", 4)):
            pyro.sample(f"y{i}", dist.Normal(x[..., i], 1.0), obs=y[i])

    assert_exact(condition(model, Y, num_samples=400)["x"], torch.eye(4), torch.eye(4), Y)


def test_what_is_masked_may_hold_anything_but_nan() -> None:
    def model(y: Tensor, kept: Tensor) -> None:
        x = pyro.sample("x", PRIOR)
        seen: Any = poutine.mask(mask=kept)  # type: ignore[call-overload]
        with pyro.plate("places", 4), seen:
            pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    kept = ~NAN.isnan()
    found = condition(model, torch.nan_to_num(NAN, 1e6), kept, num_samples=400)["x"]
    assert_exact(found, torch.eye(4)[kept], torch.eye(3), NAN[kept])
    with pytest.raises(ValueError, match=r"(?s)site 'y': .*NaN.*mask the site.*nan_to_num"):
        condition(model, NAN, kept)


def unobserved(x: Tensor, y: Tensor) -> None:
    kept: Any = ~y.isnan()
    with pyro.plate("places", 4):
        pyro.sample("y", dist.Normal(x, 1.0), obs=torch.nan_to_num(y), obs_mask=kept)


def plain(x: Tensor, y: Any) -> None:
    pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)


def with_noise(x: Tensor, y: Tensor) -> None:
    noise = pyro.sample("noise", dist.LogNormal(0.0, 0.3))
    pyro.sample("y", dist.Normal(x, noise).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("rest", "y", "error", "message"),
    [
        (unobserved, NAN, ValueError, r"site 'y': .* without obs_mask.*likelihoods\.Missing"),
        (plain, Y.numpy(), TypeError, r"site 'y': .* that is a tensor, got ndarray; torch\.as"),
        (plain, [1.0, 2.0], TypeError, r"site 'y': .* that is a tensor, got list"),
        (plain, Y[:3], ValueError, r"site 'y': expected an observation of shape \(4,\).* \(3,\)"),
        (with_noise, Y, ValueError, r"site 'noise' is latent.* values=\{'noise': .*gibbs"),
    ],
)
def test_what_is_wrong_is_said(
    rest: Callable[[Tensor, Any], None], y: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        condition(lambda y: rest(pyro.sample("x", PRIOR), y), y)


def test_a_latent_site_is_fixed_as_the_error_says() -> None:
    found = condition(
        lambda y: with_noise(pyro.sample("x", PRIOR), y),
        Y,
        num_samples=400,
        values={"noise": torch.tensor(0.5)},
    )
    assert_exact(found["x"], torch.eye(4), 0.25 * torch.eye(4), Y)


def test_programs_that_are_conditioned_from_outside() -> None:
    def model() -> None:
        plain(pyro.sample("x", PRIOR), None)

    for seen in (pyro.condition(model, data={"y": Y}), poutine.condition(model, {"y": Y})):
        assert_exact(condition(seen, num_samples=400)["x"], torch.eye(4), torch.eye(4), Y)


def of_a_length(y: Tensor) -> None:
    place = torch.arange(4.0)
    length = pyro.sample("length", dist.LogNormal(0.0, 0.5))
    kernel = torch.exp(-(place[:, None] - place).abs() / length) + 0.01 * torch.eye(4)
    plain(pyro.sample("x", gaussian(torch.zeros(4), kernel)), y)


def of_a_field(y: Tensor) -> None:
    first = pyro.sample("first", PRIOR)
    plain(pyro.sample("x", gaussian(first)), y)


def made_in_the_program(y: Tensor) -> None:
    offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
    plain(pyro.sample("x", gaussian(torch.zeros(4))) + offset[..., None], y)


def test_priors_that_depend_on_other_sites_are_refused() -> None:
    """They used to stay what they were for the first draw of these."""
    with pytest.raises(ValueError, match=r"site 'x': .* got one that depends on 'length'"):
        gibbs(of_a_length, Y, num_samples=1, warmup_steps=0)
    with pytest.raises(ValueError, match=r"site 'x': .* got one that depends on 'first'"):
        condition(of_a_field, Y, num_samples=1)
    assert gibbs(made_in_the_program, Y, num_samples=1, warmup_steps=0)["x"].shape == (1, 4)
    fixed = condition(of_a_length, Y, num_samples=2, values={"length": torch.tensor(2.0)})
    assert fixed["x"].shape == (2, 4)


def test_chains_of_fields_and_parameters_go_to_arviz() -> None:
    def model(y: Tensor) -> None:
        with_noise(pyro.sample("x", PRIOR), y)

    samples = gibbs(model, Y, num_samples=3, warmup_steps=1, num_chains=2)
    tree = inference_data(model, samples, Y, num_chains=2)
    assert dict(tree["posterior"]["x"].sizes) == {"chain": 2, "draw": 3, "x_dim_0": 4}
    assert tree["posterior"]["noise"].shape == (2, 3)
    scale = samples["noise"][:, None]
    expected = dist.Normal(samples["x"], scale).log_prob(Y).sum(-1).reshape(2, 3)
    np.testing.assert_allclose(tree["log_likelihood"]["y"], expected, rtol=1e-5)
    drawn = Predictive(model, samples)(None)
    assert drawn["y"].shape == (6, 4)
    with pytest.raises(ValueError, match="expected 4 chains of one length, got 6 samples"):
        inference_data(model, samples, Y, num_chains=4)


def test_modules_and_learned_parameters() -> None:
    class Look(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 2, bias=False)

        def forward(self, y: Tensor) -> None:
            x = pyro.sample("x", PRIOR)
            gain = pyro.param("gain", torch.ones(2))
            pyro.sample("y", dist.Normal(gain * self.linear(x), 0.5).to_event(1), obs=y)

    look = Look()
    H = look.linear.weight.detach()
    found = condition(look, Y[:2], num_samples=400)["x"]
    assert_exact(found, H, 0.25 * torch.eye(2), Y[:2])
    assert not found.requires_grad
    pyro.clear_param_store()
