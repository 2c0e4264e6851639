"""Covariances with their dense twins."""

import torch

from appa_prob.operators import (
    Dense,
    Diagonal,
    Eigenbasis,
    Ensemble,
    Factored,
    InnovationCovariance,
    Isotropic,
    KernelCovariance,
    LowRankPlusDiagonal,
    SphereMatern,
    SphericalStationary,
    Stationary,
    TweedieCovariance,
)
from tests.operators.cases import Case, block_diag, case, covariance, eye, noise


@case
def low_rank(g: torch.Generator) -> Case:
    F, d = noise(g, 2, 2, 3), noise(g, 2, 3).square() + 0.1
    return LowRankPlusDiagonal(F, d), F.flatten(1).mT @ F.flatten(1) + torch.diag(d.reshape(-1))


@case
def eigenbasis(g: torch.Generator) -> Case:
    Q = torch.linalg.qr(noise(g, 6, 4)).Q
    values, rest = noise(g, 4).square() + 0.1, noise(g).square() + 0.1
    M = Q @ torch.diag(values) @ Q.mT + rest * (eye(g, 6) - Q @ Q.mT)
    return Eigenbasis(Dense(Q, (2, 2), (2, 3)), values.reshape(2, 2), rest), M


@case
def batched_eigenbasis(g: torch.Generator) -> Case:
    Q = torch.linalg.qr(noise(g, 4, 2)).Q
    values, rest = noise(g, 3, 2).square() + 0.1, noise(g, 3).square() + 0.1
    outside = rest[:, None, None] * (eye(g, 4) - Q @ Q.mT)
    return Eigenbasis(Dense(Q), values, rest), Q @ torch.diag_embed(values) @ Q.mT + outside


@case
def complete_eigenbasis(g: torch.Generator) -> Case:
    Q, values = torch.linalg.qr(noise(g, 4, 4)).Q, noise(g, 4).square() + 0.1
    return Eigenbasis(Dense(Q), values), Q @ torch.diag(values) @ Q.mT


@case
def batched_low_rank(g: torch.Generator) -> Case:
    F, d = noise(g, 3, 1, 2, 5), noise(g, 2, 5).square() + 0.1
    return LowRankPlusDiagonal(F, d, event_ndim=1), F.mT @ F + torch.diag_embed(d)


@case
def factored(g: torch.Generator) -> Case:
    M = covariance(g, 6, 2)
    return Factored(torch.linalg.cholesky(M), (2, 3)), M


def exponential(g: torch.Generator, shape: tuple[int, int], periodic: tuple[bool, bool]) -> Case:
    """A covariance of distances on a grid of 2 by 0.5, and its matrix."""
    apart = []
    for n, step, closed in zip(shape, (2.0, 0.5), periodic, strict=True):
        lag = torch.arange(n, dtype=torch.float64, device=g.device)
        lag = (lag[:, None] - lag).abs()
        apart.append(step * (torch.minimum(lag, n - lag) if closed else lag))
    r = (apart[0][:, None, :, None].square() + apart[1][None, :, None, :].square()).sqrt()
    A = Stationary.of(
        lambda r: torch.exp(-r),
        shape,
        spacing=(2.0, 0.5),
        periodic=periodic,
        dtype=torch.float64,
        device=g.device,
    )
    return A, torch.exp(-r).reshape(A.shape)


@case
def stationary(g: torch.Generator) -> Case:
    return exponential(g, (3, 4), (True, True))


@case
def padded_stationary(g: torch.Generator) -> Case:
    return exponential(g, (3, 4), (False, True))


@case
def batched_stationary(g: torch.Generator) -> Case:
    column = noise(g, 2, 5).square()
    spectrum = column + column.flip(-1).roll(1, -1)
    F = torch.fft.fft(eye(g, 5), norm="ortho")
    M = (F @ torch.diag_embed(spectrum).to(F.dtype) @ F.mH).real
    return Stationary(spectrum, event_ndim=1), M


@case
def kernel_covariance(g: torch.Generator) -> Case:
    places = noise(g, 6, 2) * 40
    kernel = SphereMatern(3000.0, nu=2.5, variance=2.0)
    return KernelCovariance(kernel, places, (2, 3)), kernel(places, places)


@case
def ensemble(g: torch.Generator) -> Case:
    F, d, rho = noise(g, 4, 2, 3), noise(g, 2, 3).square(), covariance(g, 3)
    flat = F.flatten(1)
    M = (flat.mT @ flat) * rho.repeat(2, 2) + torch.diag(d.reshape(-1))
    return Ensemble(F, d, Dense(rho, symmetric=True)), M


@case
def ensemble_of_places(g: torch.Generator) -> Case:
    F, d, rho = noise(g, 3, 2, 2), noise(g, 2, 2).square(), covariance(g, 4)
    flat = F.flatten(1)
    return Ensemble(F, d, Dense(rho, (2, 2), symmetric=True)), flat.mT @ flat * rho + torch.diag(
        d.reshape(-1)
    )


@case
def innovation(g: torch.Generator) -> Case:
    H, V, r = noise(g, 3, 5), covariance(g, 5), noise(g, 3).square()
    S = InnovationCovariance(Dense(H), Dense(V, symmetric=True), Diagonal(r))
    return S, H @ V @ H.mT + torch.diag(r)


@case
def asymmetric_innovation(g: torch.Generator) -> Case:
    H, V = noise(g, 3, 5), noise(g, 2, 5, 5)
    S = InnovationCovariance(Dense(H), Dense(V), Isotropic(2.0, 3))
    return S, H @ V @ H.mT + 2 * eye(g, 3)


@case
def tweedie(g: torch.Generator) -> Case:
    C, sigma, x_t = covariance(g, 4), noise(g, 3).square() + 0.1, noise(g, 3, 4)
    gain = 4 * C @ torch.linalg.inv(16 * C + sigma[:, None, None].square() * eye(g, 4))
    V = TweedieCovariance(
        lambda x, t: (gain @ x[..., None])[..., 0], x_t, sigma, 4.0, sigma, in_shape=4
    )
    return V, sigma[:, None, None].square() / 4 * gain


def angles(latitude: torch.Tensor, columns: int) -> torch.Tensor:
    """The cosines of the angles between all points of a grid."""
    rows = latitude.deg2rad()
    step = 2 * torch.pi / columns * torch.arange(columns, dtype=rows.dtype, device=rows.device)
    turn = (step[:, None] - step).cos()
    across = rows.sin()[:, None, None, None] * rows.sin()[:, None]
    along = rows.cos()[:, None, None, None] * rows.cos()[:, None] * turn[:, None]
    return (across + along).flatten(-2).flatten(0, 1)


@case
def spherical_stationary(g: torch.Generator) -> Case:
    latitude = torch.tensor([70.0, 20.0, -50.0], dtype=torch.float64, device=g.device)
    power = noise(g, 2, 3).square() + 0.1
    x = angles(latitude, 5)
    polynomials = torch.stack([torch.ones_like(x), x, 1.5 * x.square() - 0.5])
    blocks = torch.einsum("kl,lij->kij", power, polynomials)
    return SphericalStationary(power, latitude, 5), block_diag(*blocks)
