"""Denoisers that take turns: each at its noise levels, and nothing of the other there."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import GMRES, Dense, Isotropic, Mask
from appa_prob.samplers import (
    DDPM,
    JFPS,
    MMPS,
    GaussianDenoiser,
    GaussianLikelihood,
    Switched,
    VESchedule,
)
from appa_prob.samplers.testing import affine_law

F64 = torch.float64
SCHEDULE = VESchedule(1e-3, 100.0)


def covariance() -> Dense:
    F = torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    return Dense(F @ F.mT + 0.1 * torch.eye(4), symmetric=True)


def prior(scale: float = 1.0, n: int = 4) -> GaussianDenoiser:
    V = Isotropic(torch.tensor(scale, dtype=F64), n)
    return GaussianDenoiser(torch.zeros(n, dtype=F64), V, SCHEDULE)


def time(*sigma: float) -> Tensor:
    return SCHEDULE.time(torch.tensor(sigma, dtype=F64))


def test_each_member_is_denoised_by_the_one_in_charge() -> None:
    wide, narrow = prior(4.0), prior(0.5)
    d, x = Switched(wide, narrow, level=2.0), torch.randn(3, 4, dtype=F64)
    t = time(0.3, 1.9, 2.1)
    expected = torch.stack([narrow(x[0], t[0]), narrow(x[1], t[1]), wide(x[2], t[2])])
    torch.testing.assert_close(d(x, t), expected)
    for i, one in enumerate((narrow, narrow, wide)):
        assert torch.equal(d(x[i], t[i]), one(x[i], t[i]))
        assert torch.equal(d.posterior(x[i], t[i]).mean, one(x[i], t[i]))
    with pytest.raises(ValueError, match="on one side of the level 2, got both"):
        d.posterior(x, t)


def test_two_exact_methods_have_the_law_of_either() -> None:
    V, H = covariance(), Mask(torch.tensor([True, False, True, False]))
    d = GaussianDenoiser(torch.zeros(4, dtype=F64), V, SCHEDULE)
    y = GaussianLikelihood(H, torch.tensor([1.0, -2.0], dtype=F64), 0.1)
    mmps = MMPS(d, y, GMRES(rtol=1e-12))
    sampler = DDPM(40)
    whole = affine_law(sampler, mmps)
    parts = affine_law(sampler, Switched(JFPS(d, y, V, GMRES(rtol=1e-12)), mmps, level=3.0))
    torch.testing.assert_close(parts, whole)


def test_no_derivative_is_taken_above_the_level() -> None:
    class Plain(GaussianDenoiser):
        def posterior(self, x_t: Tensor, t: Tensor):  # type: ignore[no-untyped-def]
            raise AssertionError("not to be differentiated")

    V = covariance()
    d = Plain(torch.zeros(4, dtype=F64), V, SCHEDULE)
    y = GaussianLikelihood(Isotropic(torch.tensor(1.0, dtype=F64), 4), torch.ones(4).double(), 0.1)
    switched = Switched(JFPS(d, y, V), MMPS(d, y), level=3.0)
    switched(torch.ones(4, dtype=F64), time(5.0)[0])
    with pytest.raises(AssertionError, match="not to be differentiated"):
        switched(torch.ones(4, dtype=F64), time(2.0)[0])


def test_wrong_pairs_and_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the same states and schedule, got \(3,\) with"):
        Switched(prior(n=3), prior(), level=1.0)
    with pytest.raises(ValueError, match=r"a level sigma / alpha > 0, got 0"):
        Switched(prior(), prior(), level=0.0)
