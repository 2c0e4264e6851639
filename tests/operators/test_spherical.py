"""Isotropic covariances on the sphere beside closed forms, at sizes that no matrix has."""

import pytest
import torch

from appa_prob.operators import Identity, SphericalStationary
from appa_prob.operators.dense import LIMIT

F64 = torch.float64


def test_a_quarter_of_a_turn_away_is_what_legendre_says() -> None:
    power = torch.linspace(1.0, 0.1, 20, dtype=F64)
    latitude = torch.linspace(90.0, -90.0, 181, dtype=F64)
    V = SphericalStationary(power, latitude, 360)
    assert V.shape[-1] > LIMIT
    pole = torch.zeros(181, 360, dtype=F64)
    pole[0, 0] = 1.0
    x, polynomials = latitude.deg2rad().sin(), [torch.ones(181, dtype=F64)]
    polynomials.append(x)
    for l in range(2, 20):  # noqa: E741
        polynomials.append(((2 * l - 1) * x * polynomials[-1] - (l - 1) * polynomials[-2]) / l)
    row = torch.einsum("l,lh->h", power, torch.stack(polynomials))
    torch.testing.assert_close(V(pole), row[:, None].expand(181, 360))
    torch.testing.assert_close(V.diagonal(), power.sum().expand(181 * 360))


def test_samples_have_the_covariance() -> None:
    """Each entry is within 5 standard errors: fails for 1 seed in 1,000."""
    latitude = torch.tensor([60.0, 10.0, -40.0], dtype=F64)
    power = torch.tensor([[0.5, 1.0, 2.0], [1.0, 0.0, 0.2]], dtype=F64)
    V = SphericalStationary(power, latitude, 6)
    n, dense = 20_000, V.to_dense()
    x = V.sample((n,), torch.Generator().manual_seed(0)).flatten(1)
    d = dense.diagonal()
    deviation = ((dense.square() + d[:, None] * d) / n).sqrt()
    assert (((x.T @ x) / n - dense).abs() <= 5 * deviation + 1e-12).all()


def test_samples_of_sums_are_drawn_by_term_at_any_size() -> None:
    latitude = torch.linspace(87.0, -87.0, 30, dtype=F64)
    V = SphericalStationary(torch.ones(10, dtype=F64), latitude, 90)
    x = (V + 0.5 * Identity((30, 90), dtype=F64)).sample((50,), torch.Generator().manual_seed(0))
    # The mean square over the sphere of one draw has a relative error of about .2 at 100 modes.
    assert x.square().mean() == pytest.approx(10.5, rel=0.1)


@pytest.mark.parametrize(
    ("power", "latitude", "columns", "message"),
    [
        (torch.ones(4), torch.tensor([1.0, 0.0]), 6, "of 1 to 3 degrees"),
        (torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0]), 6, "finite power >= 0"),
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 0.0]), 6, "finite power >= 0"),
        (torch.ones(2), torch.tensor([0.0, 0.0]), 6, "always increase or always decrease"),
    ],
)
def test_what_is_no_covariance_of_a_grid_is_refused(
    power: torch.Tensor, latitude: torch.Tensor, columns: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SphericalStationary(power, latitude, columns)
