"""Simple orbits and what they see agree with the published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from appa_prob import circular, orbits
from appa_prob.era5 import era5_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.conformance.conftest import Fixtures


ORIGIN = np.datetime64("2020-01-01T00", "us")


def track(sizes: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitudes and longitudes as the published code has them: turned by half a circle."""
    orbit = circular.CircularOrbit(
        "published",
        altitude=sizes["orbital_altitude"],
        inclination=sizes["inclination"],
        phase=sizes["initial_phase"] + 180.0,
        origin=ORIGIN,
    )
    count = sizes["obs_freq"] * sizes["observation_time"]
    hours = sizes["delay"] + np.arange(count) / sizes["obs_freq"]
    latitude, longitude = orbit.track(ORIGIN + np.rint(hours * 3600e6).astype("timedelta64[us]"))
    return latitude, (longitude + 180.0) % 360.0 - 180.0


@pytest.mark.parametrize("index", range(3))
def test_tracks(published: Fixtures, index: int) -> None:
    fixture = published("orbits")
    sizes = fixture.info["orbits"][index]
    latitude, longitude = track(sizes)
    found = torch.as_tensor(np.stack((latitude, longitude), axis=-1))
    expected = fixture[f"orbit{index}_f64"].reshape(-1, 2)
    error = found - expected
    error[:, 1] = (error[:, 1] + 180.0) % 360.0 - 180.0
    assert error.abs().max() <= 1e-10 * 360.0
    single = found - fixture[f"orbit{index}_f32"].reshape(-1, 2)
    single[:, 1] = (single[:, 1] + 180.0) % 360.0 - 180.0
    assert single.abs().max() <= 6e-3  # the error of the published code in single precision


@pytest.mark.parametrize("name", ["satellite_full", "satellite_coarse"])
def test_cells_that_are_seen(published: Fixtures, name: str) -> None:
    fixture = published(name)
    sizes = fixture.info["params"]
    grid = era5_grid(sizes.get("shape", (721, 1440)))
    latitude, longitude = (x.reshape(-1, sizes["obs_freq"]) for x in track(sizes))
    if "grid" in fixture.tensors:
        rows, columns = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
        places = fixture["grid"].numpy()
        np.testing.assert_allclose(rows.ravel(), places[:, 0], atol=1e-4)
        turned = (columns.ravel() - places[:, 1] + 180.0) % 360.0 - 180.0
        np.testing.assert_allclose(turned, 0.0, atol=1e-4)
    for hour, (phi, lam) in enumerate(zip(latitude, longitude, strict=True)):
        found = set(orbits.visible_cells(phi, lam, grid, sizes["fov"]).tolist())
        expected = set(fixture[f"idx_{hour}"].tolist())
        # Cells at the edge are left to rounding.
        assert found ^ expected <= set(fixture[f"ambiguous_{hour}"].tolist())
        assert len(found) > 100
