"""Long trajectories from windows."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Dense, Mask
from appa_prob.samplers import (
    DDIM,
    MMPS,
    Denoiser,
    GaussianDenoiser,
    GaussianLikelihood,
    VESchedule,
    WindowedDenoiser,
)
from appa_prob.samplers.testing import affine_law
from appa_prob.samplers.windowed import Overlap

OVERLAPS: list[Overlap] = ["blend", "causal", "centre", "mean"]


def process(length: int, correlation: float) -> GaussianDenoiser:
    """The denoiser of a stationary autoregressive process with unit variance."""
    lag = (torch.arange(length).unsqueeze(-1) - torch.arange(length)).abs().double()
    V = Dense(correlation**lag, (length, 1), (length, 1), symmetric=True)
    return GaussianDenoiser(torch.zeros(length, 1).double(), V, VESchedule(1e-2, 1e2))


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_one_window_is_the_denoiser_itself(overlap: Overlap) -> None:
    d = process(6, 0.8)
    x_t, t = torch.randn(3, 6, 1).double(), torch.tensor([0.2, 0.5, 0.7]).double()
    long = WindowedDenoiser(d, length=6, stride=2, overlap=overlap)
    torch.testing.assert_close(long(x_t, t), d(x_t, t))


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_independent_states_are_denoised_exactly(overlap: Overlap) -> None:
    long = WindowedDenoiser(process(5, 0.0), length=17, stride=3, overlap=overlap)
    x_t, t = torch.randn(2, 17, 1).double(), torch.tensor(0.5).double()
    torch.testing.assert_close(long(x_t, t), process(17, 0.0)(x_t, t))


def test_wider_windows_come_nearer_to_the_law_of_the_process() -> None:
    exact = process(24, 0.7)
    _, reference = affine_law(DDIM(64), exact)
    errors = []
    for window in (4, 8, 16):
        long = WindowedDenoiser(process(window, 0.7), length=24, stride=window // 2)
        _, found = affine_law(DDIM(64), long)
        errors.append(float((found - reference).norm() / reference.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05, errors


def test_no_seam_at_the_ends_of_windows() -> None:
    long = WindowedDenoiser(process(12, 0.8), length=36, stride=3)
    _, found = affine_law(DDIM(64), long)
    _, reference = affine_law(DDIM(64), process(36, 0.8))
    variance = found.diagonal() / reference.diagonal()
    lag = found.diagonal(1) / reference.diagonal(1)
    assert variance.max() < 1.05 * variance.min(), variance
    assert lag.max() < 1.12 * lag.min(), lag


def test_context_is_cut_as_states_are() -> None:
    class Dated(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
            return context["date"].expand(x_t.shape)

    date = torch.arange(9.0).unsqueeze(-1)
    long = WindowedDenoiser(
        Dated((4, 1), VESchedule()), length=9, stride=3, context={"date": date}
    )
    torch.testing.assert_close(long(torch.zeros(2, 9, 1), torch.tensor(0.5)), date.expand(2, 9, 1))


def test_windows_may_have_denoisers_of_their_own() -> None:
    d = process(4, 0.5)
    t = torch.tensor([0.2, 0.5]).double()
    x_t = torch.randn(2, 9, 1).double()
    one = WindowedDenoiser(d, length=9, stride=2)
    each = WindowedDenoiser([d] * 4, length=9, stride=2)
    torch.testing.assert_close(each(x_t, t), one(x_t, t))
    with pytest.raises(ValueError, match="a denoiser for each of 4 windows, got 3"):
        WindowedDenoiser([d] * 3, length=9, stride=2)


def test_a_causal_state_depends_on_no_later_window() -> None:
    long = WindowedDenoiser(process(5, 0.8), length=13, stride=2, overlap="causal")
    x_t, t = torch.randn(13, 1).double(), torch.tensor(0.5).double()
    before = long(x_t, t)
    x_t[7:] += 1.0
    assert torch.equal(long(x_t, t)[:7], before[:7])
    assert not torch.equal(long(x_t, t)[7:], before[7:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 3, "stride": 2}, "length of at least 4"),
        ({"length": 8, "stride": 5}, "stride between 1 and 4"),
        ({"length": 8, "stride": 0}, "stride between 1 and 4"),
        ({"length": 8, "stride": 2, "overlap": "max"}, "overlap"),
        ({"length": 8, "stride": 2, "context": {"date": torch.zeros(7, 2)}}, "expected date"),
    ],
)
def test_bad_windows_are_refused(arguments, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        WindowedDenoiser(process(4, 0.5), **arguments)


class Counting(Denoiser):
    """A denoiser of windows of four states that notes how many it is given."""

    def __init__(self) -> None:
        super().__init__((4, 1), VESchedule(1e-2, 1e2))
        self.weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
        self.counts: list[int] = []

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.counts.append(x_t.shape[-3])
        return torch.tanh(self.weight @ x_t + t[..., None, None]) + context["place"]


def test_windows_are_evaluated_some_at_once_and_again_for_products() -> None:
    x_t, t = torch.randn(3, 13, 1).double(), torch.tensor([0.2, 0.5, 0.7]).double()
    context = {"place": torch.arange(13).double().unsqueeze(-1)}
    found = []
    for at_once in (None, 2):
        counting = Counting()
        long = WindowedDenoiser(counting, length=13, stride=2, context=context, at_once=at_once)
        posterior = long.posterior(x_t, t)
        found.append((posterior.mean, posterior.covariance(x_t), posterior.covariance(x_t + 1)))
    torch.testing.assert_close(found[0], found[1])
    # Six windows, two at once: in the evaluation, and in each of the two products.
    assert counting.counts == [2] * 9
    with pytest.raises(ValueError, match="at least 1 window at once"):
        WindowedDenoiser(Counting(), length=13, stride=2, at_once=0)


def test_guidance_through_windows_at_once_may_be_nested() -> None:
    mask = torch.arange(13).unsqueeze(-1) % 3 == 0
    y = GaussianLikelihood(Mask(mask), torch.ones(5).double(), 0.1)
    x_t, t = torch.randn(2, 13, 1).double(), torch.tensor(0.4).double()
    context = {"place": torch.zeros(13, 1).double()}
    found = []
    for at_once in (None, 4):
        d = WindowedDenoiser(Counting(), length=13, stride=2, context=context, at_once=at_once)
        found.append(MMPS(MMPS(d, y), y)(x_t, t))
    torch.testing.assert_close(found[0], found[1])
