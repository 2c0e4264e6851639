"""Integrators: seeds, progress, times, bad input."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Dense, Isotropic, Mask
from appa_prob.samplers import (
    DDIM,
    DDPM,
    MMPS,
    Denoiser,
    GaussianDenoiser,
    GaussianLikelihood,
    Integrator,
    PredictorCorrector,
    State,
    VESchedule,
)

INTEGRATORS = [DDIM(8), DDIM(8, eta=0.7), DDPM(8), PredictorCorrector(8, corrections=2)]


def posterior(device: torch.device) -> Denoiser:
    F = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).to(device)
    prior = GaussianDenoiser(
        torch.zeros(3, device=device), Dense(F @ F.mT, symmetric=True), VESchedule()
    )
    A = Mask(torch.tensor([True, False, True], device=device))
    return MMPS(prior, GaussianLikelihood(A, torch.tensor([1.0, 2.0], device=device), 0.1))


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=str)
def test_a_batch_is_its_members_sampled_alone(
    integrator: Integrator, device: torch.device
) -> None:
    d = posterior(device)
    generators = [torch.Generator(device).manual_seed(i) for i in range(4)]
    x = integrator(d, integrator.noise(d, (4,), generator=generators), generator=generators)
    for i in range(4):
        alone = [torch.Generator(device).manual_seed(i)]
        y = integrator(d, integrator.noise(d, (1,), generator=alone), generator=alone)
        torch.testing.assert_close(y[0], x[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=str)
def test_one_seed_gives_one_sample_bit_for_bit(
    integrator: Integrator, device: torch.device
) -> None:
    def run(seed: int) -> Tensor:
        d, g = posterior(device), torch.Generator(device).manual_seed(seed)
        return integrator(d, integrator.noise(d, (4,), generator=g), generator=g)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_times_may_be_given(device: torch.device) -> None:
    d = posterior(device)
    x_1 = 100 * torch.randn(4, 3, device=device)
    equal, given = DDIM(4), DDIM([1.0, 0.75, 0.5, 0.25, 0.0])
    torch.testing.assert_close(equal(d, x_1), given(d, x_1))
    late = DDIM([0.75, 0.0])
    scale = late.noise(d, (20000,), generator=torch.Generator(device).manual_seed(0)).std()
    assert abs(float(scale) / float(torch.tensor(1 + 10.0**2).sqrt()) - 1) < 0.02


def test_callbacks_see_every_step(
    device: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    d, states = posterior(device), list[State]()
    x_0 = DDIM(5)(d, torch.randn(2, 3, device=device), callback=states.append, progress=True)
    assert [s.step for s in states] == [1, 2, 3, 4, 5]
    assert states[-1].t == 0.0 and states[-1].steps == 5
    assert torch.equal(states[-1].x_t, x_0)
    assert "5/5" in capsys.readouterr().err


def test_samples_need_no_graph(device: torch.device) -> None:
    x = DDIM(3)(posterior(device), torch.randn(2, 3, device=device, requires_grad=True))
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DDIM(0), "at least 1 step"),
        (lambda: DDIM([1.0]), "two times"),
        (lambda: DDIM([0.5, 0.7]), "decreasing"),
        (lambda: DDIM([1.5, 0.7]), "within"),
        (lambda: DDIM(4, eta=1.5), "eta"),
        (lambda: PredictorCorrector(4, delta=0.0), "delta"),
        (lambda: PredictorCorrector(4, corrections=-1), "corrections"),
    ],
)
def test_bad_arguments_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_generator_and_a_diverging_denoiser_are_reported(device: torch.device) -> None:
    d = posterior(device)
    with pytest.raises(ValueError, match="a generator for each member"):
        DDPM(4)(d, torch.randn(3, 3, device=device), generator=[torch.Generator(device)])

    class Broken(GaussianDenoiser):
        def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
            return x_t / 0

    bad = Broken(torch.zeros(3, device=device), Isotropic(torch.tensor(1.0), 3), VESchedule())
    with pytest.raises(FloatingPointError, match="not finite"):
        DDIM(4)(bad, torch.randn(2, 3, device=device))
