"""Every method of guidance, through one list of properties."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    CG,
    GMRES,
    BlockDiagonal,
    Cholesky,
    Dense,
    Diagonal,
    Isotropic,
    Mask,
    Nonlinear,
    Operator,
    Stack,
)
from appa_prob.samplers import (
    DDIM,
    DDNM,
    DPS,
    JFPS,
    MMPS,
    SDA,
    TMPD,
    Denoiser,
    DiffPIR,
    GaussianDenoiser,
    GaussianLikelihood,
    Guidance,
    Likelihood,
    MixtureDenoiser,
    PiGDM,
    VESchedule,
    VPSchedule,
)
from appa_prob.samplers.gaussian import Gaussian, damping

N = 4
EXACT = GMRES(rtol=1e-10)
PRIOR = torch.randn(N, N, generator=torch.Generator().manual_seed(0)).double()
PRIOR = PRIOR @ PRIOR.mT + 0.1 * torch.eye(N).double()
Make = Callable[[Denoiser, Likelihood], Guidance]
METHODS: dict[str, Make] = {
    "DPS": lambda d, y: DPS(d, y, zeta=0.5),
    "SDA": lambda d, y: SDA(d, y, gamma=0.3),
    "PiGDM": lambda d, y: PiGDM(d, y, variance=2.0, solver=CG(rtol=1e-12)),
    "TMPD": TMPD,
    "MMPS": lambda d, y: MMPS(d, y, EXACT),
    "JFPS": lambda d, y: JFPS(d, y, Dense(PRIOR, symmetric=True), CG(rtol=1e-12)),
    "DiffPIR": lambda d, y: DiffPIR(d, y, 3.0, CG(rtol=1e-12)),
}
LINEAR: dict[str, Make] = METHODS | {"DDNM": DDNM}  # those that need a linear map as well
parametrized = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
linear = pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR)


def gaussian(dtype: torch.dtype = torch.float64) -> GaussianDenoiser:
    return GaussianDenoiser(
        torch.linspace(-1.0, 1.0, N, dtype=dtype),
        Dense(PRIOR.to(dtype), symmetric=True),
        VPSchedule(),
    )


def mixture() -> MixtureDenoiser:
    means = torch.randn(3, N, generator=torch.Generator().manual_seed(1)).double()
    return MixtureDenoiser(torch.ones(3).double(), means, Isotropic(0.3, N), VPSchedule())


def observed(m: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    A, y, F = (torch.randn(*s, generator=g).double() for s in ((m, N), (m,), (m, m)))
    return A, y, F @ F.mT + 0.2 * torch.eye(m).double()


@pytest.mark.parametrize("noise", ["isotropic", "diagonal", "correlated"])
@pytest.mark.parametrize("method", ["SDA", "PiGDM", "TMPD", "MMPS", "JFPS", "DiffPIR"])
def test_each_method_is_a_row_of_the_table(method: str, noise: str) -> None:
    """The formula of the method by dense algebra, at different times in one batch."""
    A, y, R = observed()
    covariance: dict[str, tuple[Tensor, float | Tensor | Operator]] = {
        "isotropic": (0.5 * torch.eye(2).double(), 0.5),
        "diagonal": (torch.diag(R.diagonal()), R.diagonal()),
        "correlated": (R, Dense(R, symmetric=True)),
    }
    R, given = covariance[noise]
    d, t = mixture(), torch.tensor([0.2, 0.4, 0.6, 0.9]).double()
    x_t = torch.randn(4, N).double()
    guided = METHODS[method](d, GaussianLikelihood(Dense(A), y, given))(x_t, t)
    for i in range(4):
        posterior = d.posterior(x_t[i], t[i])
        mean, V = posterior.mean, posterior.covariance.to_dense()
        alpha, sigma = (c.square() for c in d.schedule(t[i]))
        one = torch.eye(N).double()
        if method == "JFPS":
            V = sigma * PRIOR @ torch.linalg.inv(alpha * PRIOR + sigma * one)
        elif method == "DiffPIR":
            V = sigma / alpha / 3.0 * one
        inner = {
            "SDA": 0.3 * sigma / alpha * torch.eye(2).double(),
            "PiGDM": 2.0 * sigma / (2.0 * alpha + sigma) * A @ A.mT,
            "TMPD": torch.diag((A @ V @ A.mT).sum(1).clamp_min(0.0)),
        }.get(method, A @ V @ A.mT)
        expected = mean + V @ A.mT @ torch.linalg.solve(inner + R, y - A @ mean)
        torch.testing.assert_close(guided[i], expected)


@parametrized
def test_members_do_not_depend_on_each_other(make: Make) -> None:
    A, y, _ = observed()
    for map in (Dense(A), Dense(A) @ Nonlinear(torch.sinh, N, N)):
        d = make(mixture(), GaussianLikelihood(map, y, 0.1))
        x_t, t = torch.randn(N, N).double(), torch.tensor([0.1, 0.4, 0.5, 0.9]).double()
        together = d(x_t, t)
        alone = torch.stack([d(x, s) for x, s in zip(x_t, t, strict=True)])
        torch.testing.assert_close(together, alone)


@linear
def test_a_batch_of_observations_guides_member_by_member(make: Make) -> None:
    A, _, _ = observed()
    y, x_t, t = torch.randn(3, 2).double(), torch.randn(3, N).double(), torch.tensor(0.5).double()
    together = make(mixture(), GaussianLikelihood(Dense(A), y, 0.1))(x_t, t)
    for i in range(3):
        alone = make(mixture(), GaussianLikelihood(Dense(A), y[i], 0.1))(x_t[i], t)
        torch.testing.assert_close(together[i], alone)


@parametrized
def test_an_offset_of_the_map_changes_nothing(make: Make) -> None:
    A, y, _ = observed()
    affine = Dense(A) @ Nonlinear(lambda x: x + 5.0, N, N)
    x_t, t = torch.randn(3, N).double(), torch.tensor(0.5).double()
    linear = make(mixture(), GaussianLikelihood(Dense(A), y, 0.1))(x_t, t)
    offset = make(mixture(), GaussianLikelihood(affine, y + A.sum(1) * 5.0, 0.1))(x_t, t)
    torch.testing.assert_close(offset, linear)


@linear
def test_observations_of_any_shape(make: Make) -> None:
    A, y, R = observed(4)
    flat = GaussianLikelihood(Dense(A), y, R.diagonal())
    square = GaussianLikelihood(
        Dense(A, out_shape=(2, 2)), y.reshape(2, 2), R.diagonal().reshape(2, 2)
    )
    x_t, t = torch.randn(3, N).double(), torch.linspace(0.2, 0.8, 3).double()
    torch.testing.assert_close(make(mixture(), square)(x_t, t), make(mixture(), flat)(x_t, t))


@linear
@pytest.mark.parametrize("inner", LINEAR.values(), ids=LINEAR)
def test_what_is_guided_can_be_guided_again(make: Make, inner: Make) -> None:
    A, y, _ = observed()
    first = inner(mixture(), GaussianLikelihood(Dense(A[:1]), y[:1], 0.1))
    again = make(first, GaussianLikelihood(Dense(A[1:]), y[1:], 0.1))
    x_t, t = torch.randn(3, N).double(), torch.tensor([0.1, 0.5, 0.9]).double()
    x = again(x_t, t)
    assert bool(torch.isfinite(x).all()) and not torch.allclose(x, first(x_t, t))
    if make is METHODS["MMPS"]:
        V = first.posterior(x_t, t).covariance.to_dense()
        residual = y[1:] - first(x_t, t) @ A[1:].mT
        # An approximate prior may leave something that is no covariance: it is shortened.
        u = residual / ((A[1:] @ V @ A[1:].mT)[..., 0] + 0.1)
        c = damping(u, residual, Isotropic(0.1, 1))[:, None]
        expected = first(x_t, t) + c * u * (V @ A[1:].mT)[..., 0]
        torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("method", ["MMPS", "JFPS"])
def test_two_observations_are_one_after_the_other_or_both_at_once(method: str) -> None:
    A, y, R = observed(3)
    R = R.diagonal()
    blocks = [Dense(A[:1]), Dense(A[1:])]
    noise = BlockDiagonal([Diagonal(R[:1]), Diagonal(R[1:])])
    d = gaussian()
    both = METHODS[method](d, GaussianLikelihood(Stack(blocks), y, noise))
    first = METHODS["MMPS"](d, GaussianLikelihood(blocks[0], y[:1], R[:1]))
    second = METHODS["MMPS"](first, GaussianLikelihood(blocks[1], y[1:], R[1:]))
    x_t, t = torch.randn(3, N).double(), torch.tensor([0.1, 0.5, 0.9]).double()
    torch.testing.assert_close(second(x_t, t), both(x_t, t))


@linear
def test_everything_moves_with_the_guidance(make: Make) -> None:
    A, y, R = observed()
    d = make(gaussian(), GaussianLikelihood(Dense(A), y, R.diagonal()))
    x_t, t = torch.randn(3, N).double(), torch.tensor(0.5).double()
    double = d(x_t, t)
    single = d.to(torch.float32)(x_t.float(), t.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


@linear
@pytest.mark.parametrize("seed", range(5))
def test_a_bad_jacobian_does_not_blow_up(make: Make, seed: int) -> None:
    """A denoiser whose Jacobian is asymmetric and indefinite, of norm 1, and small errors."""
    g = torch.Generator().manual_seed(seed)
    J = torch.randn(N, N, generator=g).double()
    J = J / torch.linalg.matrix_norm(J, 2)

    class Bad(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
            return x_t @ J.mT

    d = Bad((N,), VESchedule(0.01, 10.0))
    A, y, _ = observed(3)
    sampler = DDIM(32)
    guided = make(d, GaussianLikelihood(Dense(A), y, 1e-4))
    x = sampler(guided, sampler.noise(guided, (8,), generator=g, dtype=torch.float64))
    assert x.abs().max() < 1e3


def test_observations_move_by_twice_their_residual_at_most() -> None:
    """The bound of `Gaussian.condition`, for Jacobians of any kind and solved systems."""
    A, y, _ = observed(3)
    broken = 0
    for seed in range(100):
        J = 0.2 * torch.randn(N, N, generator=torch.Generator().manual_seed(seed)).double()
        x_t, t = torch.randn(N).double(), torch.tensor(1.0).double()

        class Bad(Denoiser):
            J: Tensor

            def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
                return x_t @ self.J.mT

        d = Bad((N,), VESchedule(0.01, 1.0))
        d.J = J
        likelihood = GaussianLikelihood(Dense(A), y, 0.1)
        residual = (y - A @ d(x_t, t)).norm()
        moved = (A @ (MMPS(d, likelihood, EXACT)(x_t, t) - d(x_t, t))).norm()
        free = MMPS(d, likelihood, EXACT, bounded=False)(x_t, t)
        assert moved <= 2 * residual * (1 + 1e-6)
        broken += bool((A @ (free - d(x_t, t))).norm() > 2 * residual)
    assert broken > 5  # without the bound it is broken, so that the test says something


def test_covariances_that_are_left() -> None:
    A, y, R = observed()
    x_t, t = torch.randn(3, N).double(), torch.tensor(0.5).double()
    likelihood = GaussianLikelihood(Dense(A), y, R.diagonal())
    for name in ("PiGDM", "TMPD", "SDA", "MMPS", "JFPS"):
        guided = METHODS[name](gaussian(), likelihood)
        left = guided.posterior(x_t, t).covariance
        # For a Gaussian prior it is what Tweedie's formula gives for the guided denoiser.
        tweedie = Denoiser.posterior(guided, x_t, t).covariance
        dense = left.to_dense().expand(3, N, N)
        torch.testing.assert_close(dense, tweedie.to_dense().mT, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(
            left.diagonal(), left.to_dense().diagonal(dim1=-2, dim2=-1), rtol=1e-6, atol=1e-8
        )
    exact = METHODS["MMPS"](gaussian(), likelihood).posterior(x_t[0], t).covariance
    x = exact.sample((20000,), torch.Generator().manual_seed(0))
    dense = exact.to_dense()
    spread = torch.outer(dense.diagonal(), dense.diagonal()) + dense.square()
    assert ((x.mT.cov() - dense).abs() < 6 * (spread / len(x)).sqrt()).all()


def test_what_is_left_is_a_prior_for_more() -> None:
    """By the root that the first factorisation left, in place of a solve for each row."""
    g = torch.Generator().manual_seed(0)
    F, A, B = (torch.randn(n, 12, generator=g).double() for n in (20, 4, 3))
    V = Dense(F.T @ F, symmetric=True)
    y, z = torch.randn(4, generator=g).double(), torch.randn(3, generator=g).double()
    prior = Gaussian(torch.zeros(12).double(), V)
    one = prior.condition(GaussianLikelihood(Dense(A), y, 0.3), Cholesky())
    two = one.condition(GaussianLikelihood(Dense(B), z, 0.1), Cholesky())
    H, R = torch.cat((A, B)), torch.tensor([0.3] * 4 + [0.1] * 3).double()
    both = prior.condition(GaussianLikelihood(Dense(H), torch.cat((y, z)), R), Cholesky())
    torch.testing.assert_close(two.mean, both.mean, rtol=1e-9, atol=1e-9)
    left, expected = two.covariance.diagonal(), both.covariance.diagonal()
    torch.testing.assert_close(left, expected, rtol=1e-9, atol=1e-9)
    rows = one.covariance.cross(Dense(B))
    torch.testing.assert_close(rows, B @ one.covariance.to_dense(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, y: PiGDM(d, y, variance=0.0), "variance > 0"),
        (lambda d, y: SDA(d, y, gamma=-1.0), "gamma > 0"),
        (lambda d, y: DiffPIR(d, y, strength=float("nan")), "strength > 0"),
        (lambda d, y: JFPS(d, y, Isotropic(1.0, 3)), "one covariance of states"),
        (lambda d, y: JFPS(d, y, Isotropic(torch.ones(2), N)), "one covariance of states"),
    ],
)
def test_bad_options_are_refused(make: Make, message: str) -> None:
    likelihood = GaussianLikelihood(Mask(torch.tensor([True] * N)), torch.zeros(N), 0.1)
    with pytest.raises(ValueError, match=message):
        make(gaussian(torch.float32), likelihood)
