"""Covariances of kernels on coordinates, on the sphere too, of any number of points."""

from typing import Any

import pytest
import torch
from torch import Tensor

from appa_prob.operators import (
    Dense,
    Gather,
    Isotropic,
    KernelCovariance,
    Mask,
    SphereMatern,
    gaspari_cohn,
    unit_vectors,
)
from appa_prob.operators.dense import LIMIT

F64 = torch.float64
EARTH = 6371.0


def globe(n: int) -> Tensor:
    """Places spread evenly over the sphere: latitudes and longitudes, in degrees."""
    i = torch.arange(n, dtype=F64)
    latitude = torch.asin(1 - (2 * i + 1) / n).rad2deg()
    return torch.stack((latitude, (i * 180 * (3 - 5**0.5)) % 360), dim=-1)


def great_circle(places: Tensor) -> Tensor:
    """Distances along great circles in km, by the angles between vectors."""
    u = unit_vectors(*places.unbind(-1))
    sine = torch.linalg.cross(u[:, None], u[None], dim=-1).norm(dim=-1)
    return EARTH * torch.atan2(sine, u @ u.mT)


def gpytorch_matern(nu: float) -> Any:
    import gpytorch  # after linear_operator, quietly

    return gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=nu))


@pytest.mark.parametrize("length", [300.0, 3000.0, 30000.0])
@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_chordal_kernels_are_positive_definite_on_the_sphere(nu: float, length: float) -> None:
    M = KernelCovariance(SphereMatern(length, nu), globe(300)).to_dense()
    assert float(torch.linalg.eigvalsh(M).min()) > -1e-12 * 300
    torch.testing.assert_close(M.diagonal(), torch.ones(300, dtype=F64))


@pytest.mark.parametrize("length", [300.0, 3000.0, 30000.0])
def test_of_great_circle_kernels_only_the_roughest_is(length: float) -> None:
    places = globe(300)
    M = KernelCovariance(SphereMatern(length, 0.5, distance="great-circle"), places).to_dense()
    torch.testing.assert_close(M, torch.exp(-great_circle(places) / length), rtol=1e-9, atol=0)
    assert float(torch.linalg.eigvalsh(M).min()) > 0
    for nu in (1.5, 2.5):
        with pytest.raises(ValueError, match=r"nu <= 0.5 with great-circle.*use chordal"):
            SphereMatern(length, nu, distance="great-circle")
    u = 3**0.5 * great_circle(places) / 10000.0
    assert float(torch.linalg.eigvalsh((1 + u) * torch.exp(-u)).min()) < -1e-3


def test_both_distances_agree_near_by() -> None:
    places = torch.tensor([[50.0, 0.0], [50.0, 10.0]], dtype=F64)
    straight, along = (
        SphereMatern(1000.0, 0.5, distance=d)(places, places)[0, 1].log()
        for d in ("chordal", "great-circle")
    )
    torch.testing.assert_close(straight, along, rtol=1e-3, atol=0)
    assert straight > along


@pytest.mark.parametrize("length", [500.0, 3000.0, 10000.0])
def test_gaspari_cohn_is_a_covariance_on_the_sphere_and_ends(length: float) -> None:
    places = globe(300)
    r = great_circle(places)
    rho = gaspari_cohn(r, length)
    assert float(torch.linalg.eigvalsh(rho).min()) > -1e-12
    assert bool((rho[r >= 2 * length] == 0).all()) and bool((rho[r < 1.9 * length] > 0).all())


def test_gaspari_cohn_falls_from_1_to_0() -> None:
    r = torch.linspace(0, 3, 301, dtype=F64)
    rho = gaspari_cohn(r, 1.0)
    assert rho[0] == 1.0 and bool((rho[200:] == 0).all()) and bool((rho.diff() <= 0).all())
    torch.testing.assert_close(rho[100], torch.tensor(5 / 24, dtype=F64))


def test_products_with_many_points_are_made_block_by_block() -> None:
    n = LIMIT + 500
    places = globe(n)
    V = KernelCovariance(SphereMatern(500.0), places, (n // 2, 2))
    x = torch.randn(3, n // 2, 2, dtype=F64)
    M = SphereMatern(500.0)(places, places)
    torch.testing.assert_close(V(x).flatten(1), x.flatten(1) @ M)
    torch.testing.assert_close(V.diagonal(), torch.ones(n, dtype=F64))
    for call in (V.sample, V.logdet, lambda: V.solve(x)):
        with pytest.raises(ValueError, match=r"the limit.*Factored.of"):
            call()


@pytest.mark.parametrize("kind", ["gather", "mask"])
def test_rows_of_observed_points_are_made_alone(kind: str) -> None:
    V = KernelCovariance(SphereMatern(2000.0), globe(12), (3, 4))
    where = torch.arange(12) % 5 == 0
    H = Mask(where.reshape(3, 4)) if kind == "mask" else Gather(torch.tensor([[7, 2]]), (3, 4))
    torch.testing.assert_close(V.cross(H).flatten(1), H.to(F64).to_dense() @ V.to_dense())
    twin = Dense(V.to_dense(), (3, 4), symmetric=True)
    torch.testing.assert_close(V.cross(H), twin.cross(H))


def test_parameters_of_gpytorch_kernels_are_learned() -> None:
    kernel = gpytorch_matern(2.5)
    points, x = torch.randn(8, 2, dtype=F64), torch.randn(8, dtype=F64)
    V = KernelCovariance(kernel, points).to(F64)
    raw = [w for w in V.weights if w.requires_grad]
    assert len(raw) == 2 and all(w.dtype == F64 for w in raw)

    def evidence(*values: Tensor) -> Tensor:
        left = iter(values)
        tensors = (next(left) if a.requires_grad else a for a in V.representation())
        S = V.representation_tree()(*tensors) + Isotropic(torch.tensor(0.1, dtype=F64), 8)
        loss: Tensor = S.logdet() + (x * S.solve(x)).sum()
        return loss

    start = tuple(w.detach().clone().requires_grad_() for w in raw)
    assert torch.autograd.gradcheck(evidence, start)


def test_densities_of_gpytorch_have_gradients_in_its_parameters() -> None:
    from gpytorch.distributions import MultivariateNormal

    kernel = gpytorch_matern(0.5)
    points, x = torch.randn(8, 2), torch.randn(8)
    V = KernelCovariance(kernel, points)
    zero = torch.zeros(8)
    normal: Any = MultivariateNormal(zero, V + Isotropic(torch.tensor(0.1), 8))
    normal.log_prob(x).backward()
    found = [p.grad.clone() for p in kernel.parameters() if p.grad is not None]
    kernel.zero_grad()
    K = kernel(points).to_dense() + 0.1 * torch.eye(8)
    normal = torch.distributions.MultivariateNormal(zero, K)
    normal.log_prob(x).backward()
    expected = [p.grad for p in kernel.parameters()]
    assert len(found) == len(expected) == 2
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_matrices_are_kept_only_where_nothing_can_change() -> None:
    calls = []

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        calls.append(len(a))
        return torch.exp(-torch.cdist(a, b))

    V = KernelCovariance(kernel, torch.randn(5, 2, dtype=F64))
    x = torch.randn(5, dtype=F64)
    assert torch.equal(V(x), V(x)) and calls == [1, 5]
    moved = KernelCovariance(kernel, V.coordinates.clone().requires_grad_())
    for _ in range(2):
        torch.autograd.grad(moved(x).sum(), moved.coordinates)
    assert calls == [1, 5, 1, 5, 5]


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"coordinates of shape \(n, d\), got \(3,\)"):
        KernelCovariance(SphereMatern(1.0), torch.ones(3))
    with pytest.raises(ValueError, match="events of 3 elements"):
        KernelCovariance(SphereMatern(1.0), torch.ones(3, 2), (2, 2))
    with pytest.raises(ValueError, match=r"matrix of shape \(1, 3\), got \(3,\)"):
        KernelCovariance(lambda a, b: b.sum(-1), torch.ones(3, 2))
    with pytest.raises(ValueError, match="length and a radius > 0"):
        SphereMatern(0.0)
    with pytest.raises(ValueError, match=r"nu to be 0.5, 1.5 or 2.5, got 1.0"):
        SphereMatern(1.0, 1.0)
    with pytest.raises(ValueError, match="'chordal' or 'great-circle', got 'euclidean'"):
        SphereMatern(1.0, distance="euclidean")  # type: ignore[arg-type]
