"""Losses and scores of ensembles agree with the published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import xarray as xr

from appa_prob.era5 import ALL_LEVELS, LEVELS, era5_catalogue, era5_grid
from appa_prob.grid import row_weights
from appa_prob.published_parts import to_fields
from appa_prob.reconstruction import channel_weights, latitude_weights, reconstruction_loss
from appa_prob.regions import GLOBE, Region
from appa_prob.verification import score, summarise

if TYPE_CHECKING:
    from tests.conformance.conftest import Fixtures

KINDS = {"mse": 2, "mae": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_row", [0, 1])
@pytest.mark.parametrize("by_level", [0, 1])
def test_losses(
    published: Fixtures, kind: str, by_row: int, by_level: int, dtype: torch.dtype
) -> None:
    fixture = published("ae_loss")
    grid, catalogue = era5_grid((21, 40)), era5_catalogue((500, 850))
    x, y = (to_fields(fixture[k].to(dtype), grid.shape) for k in ("input", "target"))
    loss = reconstruction_loss(
        x,
        y,
        power=KINDS[kind],  # type: ignore[arg-type]
        rows=latitude_weights(grid, published=True) if by_row else None,
        channels=channel_weights(catalogue) if by_level else None,
    )
    key = f"{kind}_lat{by_row}_lev{by_level}"
    if dtype == torch.float32:
        fixture.check(loss.reshape(1), key)
    else:  # the published weights are in single precision also where all else is not
        assert float(loss) == pytest.approx(fixture.info["values_f64"][key], rel=1e-7)


def test_weights_of_losses(published: Fixtures) -> None:
    fixture = published("ae_loss")
    for key, rows in (("lat_weights", 21), ("lat_weights_721", 721)):
        grid = era5_grid((rows, 2 * rows - 2))
        found = latitude_weights(grid, published=True).float()
        # At the poles the cosine is rounding only.
        torch.testing.assert_close(found, fixture[key], rtol=1e-5, atol=1e-7)
        assert latitude_weights(grid).mean() == pytest.approx(1.0)
    fixture.check(channel_weights(era5_catalogue((500, 850))).float(), "level_weights")
    for reduction in ("sum", "mean"):
        found = channel_weights(era5_catalogue(LEVELS), reduction)
        fixture.check(found.float(), f"level_weights_13_{reduction}")
    assert len(channel_weights(era5_catalogue(ALL_LEVELS))) == 191


@pytest.mark.parametrize("name", ["surf", "atm", "sst"])
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_scores_of_ensembles(published: Fixtures, name: str, precision: str) -> None:
    fixture = published("metrics")
    dtype = torch.float64 if precision == "f64" else torch.float32
    latitude = fixture["latitude"].double().numpy()
    np.testing.assert_allclose(row_weights(latitude), fixture["lat_weights_north_first"])
    space = {"latitude": latitude, "longitude": np.arange(16) * 22.5}
    dims = ("time", "member", "lead_time", *(("level",) if name == "atm" else ()), *space)
    forecast, truth = (fixture[f"{name}_{k}"].to(dtype).numpy() for k in ("forecast", "truth"))
    members = xr.DataArray(forecast, dims=dims, coords=space)
    actual = xr.DataArray(truth, dims=[d for d in dims if d != "member"], coords=space)
    mask = xr.DataArray(fixture["ocean_mask"].bool().numpy(), space, list(space))
    ocean = Region("ocean", mask=mask)

    found = score(members, actual, regions=[ocean, GLOBE])
    parts = found.sel(score=["crps", "mse", "variance"])
    order = ("time", "score", "region", "lead_time", *(("level",) if name == "atm" else ()))
    tolerance = 1e-10 if precision == "f64" else 1e-5
    np.testing.assert_allclose(
        parts.transpose(*order).values, fixture[f"{name}_all_{precision}"], rtol=tolerance
    )
    names = ["crps", "rmse", "spread", "spread_skill"]
    mean = summarise(found, members=5).sel(score=names).transpose(*order[1:])
    expected = fixture[f"{name}_avg_ensembles_{precision}"]
    np.testing.assert_allclose(mean.values, expected, rtol=tolerance)
    # The published averages over lead times are those of the roots, and of their ratios.
    np.testing.assert_allclose(
        mean.mean("lead_time", skipna=False).values,
        fixture[f"{name}_avg_time_{precision}"],
        rtol=tolerance,
    )
