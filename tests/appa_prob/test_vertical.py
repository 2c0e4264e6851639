"""Observations between the levels of states, against xarray's interpolation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from appa_prob.catalogue import Catalogue, Channel
from appa_prob.declaration import parse_networks
from appa_prob.errors import UserError
from appa_prob.grid import Grid
from appa_prob.observe import Observations, observe
from appa_prob.vertical import see_level

LEVELS = (300.0, 500.0, 700.0, 925.0)
CATALOGUE = Catalogue(
    (
        *(Channel("temperature", level, "K") for level in LEVELS),
        *(Channel("geopotential", level, "m2/s2") for level in LEVELS),
        Channel("surface_pressure", None, "Pa"),
    )
)
GRID = Grid(np.linspace(-75.0, 75.0, 6), np.arange(0.0, 360.0, 30.0))
TIMES = np.datetime64("2003-07-03T00", "ns") + np.arange(2) * np.timedelta64(6, "h")


@pytest.fixture(scope="module")
def truth() -> xr.DataArray:
    """States of channels on levels, on an axis of the logarithm of levels."""
    values = np.random.default_rng(0).normal(size=(2, 2, len(LEVELS), *GRID.shape))
    return xr.DataArray(
        values,
        dims=("time", "variable", "log", "latitude", "longitude"),
        coords={
            "variable": ["temperature", "geopotential"],
            "log": np.log(LEVELS),
            "latitude": GRID.latitude,
            "longitude": GRID.longitude,
        },
    )


def stacked(truth: xr.DataArray) -> torch.Tensor:
    states = torch.as_tensor(truth.values).reshape(2, -1, *GRID.shape)
    return torch.cat((states, torch.ones(2, 1, *GRID.shape)), dim=1).float()


def make(network: dict[str, Any], truth: torch.Tensor | None = None) -> Observations:
    return observe(
        parse_networks({"networks": [network]}, Path()),
        truth,
        TIMES,
        CATALOGUE,
        GRID,
        generator=torch.Generator().manual_seed(0),
    )


def reports(folder: Path, table: pd.DataFrame, **keys: Any) -> dict[str, Any]:
    path = folder / "reports.csv"
    table.to_csv(path, index=False)
    errors = {"temperature": "1 K", "geopotential": "1 m2/s2"}
    return {
        "network": "reports",
        "file": str(path),
        "vertical": "log-pressure",
        "error": errors,
        **keys,
    }


def test_reports_between_levels_are_those_of_xarray(truth: xr.DataArray, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    size = 60
    levels = np.concatenate((rng.uniform(300, 925, size - 8), np.repeat(LEVELS, 2)))
    # Ascents of 10 reports each: points of several reports, some of them near one level.
    latitude, longitude = (
        np.repeat(x, 10) for x in (rng.uniform(-70, 70, 6), rng.uniform(0, 330, 6))
    )
    time, name = rng.integers(0, 2, 6).repeat(10), rng.choice(truth["variable"], size)
    table = pd.DataFrame(
        {
            "time": TIMES[time],
            "latitude": latitude,
            "longitude": longitude,
            "variable": name,
            "level": levels,
            "value": np.arange(size, dtype=float),
        }
    )
    found = make(reports(tmp_path, table))
    assert len(found) == size
    order = found.values.int().numpy()
    assert sorted(order) == list(range(size))
    expected = truth.interp(
        time=xr.DataArray(time, dims="n"),
        log=xr.DataArray(np.log(levels), dims="n"),
        latitude=xr.DataArray(latitude, dims="n"),
        longitude=xr.DataArray(longitude, dims="n"),
    ).sel(variable=xr.DataArray(name, dims="n"))
    y = found.operator(stacked(truth))
    torch.testing.assert_close(
        y.double(), torch.as_tensor(expected.values[order]), rtol=0.0, atol=1e-5
    )
    nearest = np.abs(np.log(levels)[:, None] - np.log(LEVELS)).argmin(1)
    assert np.array_equal(found.channel % 4, nearest[order])


def test_drawn_networks_see_between_levels(truth: xr.DataArray) -> None:
    network = {
        "network": "analysis",
        "variables": ["temperature", "surface_pressure"],
        "levels": [600, 500, 400],
        "vertical": "log-pressure",
        "error": {"temperature": ["1 K", "2 K", "3 K"], "surface_pressure": "1 Pa"},
    }
    found = make(network, stacked(truth))
    y = found.operator(stacked(truth)).reshape(2, *GRID.shape, 4).double()
    t = truth.sel(variable="temperature").interp(log=np.log([600.0, 500.0, 400.0]))
    expected = t.transpose("time", "latitude", "longitude", "log").values
    torch.testing.assert_close(y[..., :3], torch.as_tensor(expected), rtol=0.0, atol=1e-5)
    assert found.errors.reshape(-1, 4)[0].tolist() == [1, 2, 3, 1]


def test_gridded_values_at_levels_of_their_own(truth: xr.DataArray, tmp_path: Path) -> None:
    dims = ("time", "level", "latitude", "longitude")
    values = np.stack([np.full(GRID.shape, level) for level in (850.0, 600.0)])
    dataset = xr.Dataset(
        {"temperature": (dims, np.stack([values] * 2), {"units": "K"})},
        {
            "time": TIMES,
            "level": [850.0, 600.0],
            "latitude": GRID.latitude,
            "longitude": GRID.longitude,
        },
    )
    dataset.to_netcdf(tmp_path / "analysis.nc")
    network = {
        "network": "gridded",
        "file": str(tmp_path / "analysis.nc"),
        "variables": ["temperature"],
        "levels": [600, 850],
        "vertical": "log-pressure",
        "error": {"temperature": "1 K"},
    }
    found = make(network)
    assert found.values.reshape(-1, 2)[0].tolist() == [600.0, 850.0]
    y = found.operator(stacked(truth)).reshape(2, *GRID.shape, 2).double()
    t = truth.sel(variable="temperature").interp(log=np.log([600.0, 850.0]))
    expected = t.transpose("time", "latitude", "longitude", "log").values
    torch.testing.assert_close(y, torch.as_tensor(expected), rtol=0.0, atol=1e-5)


def one(level: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "time": TIMES[:1],
            "latitude": 10.0,
            "longitude": 20.0,
            "variable": "temperature",
            "level": level,
            "value": 280.0,
        }
    )


def test_errors_of_a_list_are_interpolated_as_values(tmp_path: Path) -> None:
    listed = {"temperature": ["1 K", "2 K", "3 K", "4 K"]}
    level = float(np.sqrt(500.0 * 700.0))
    found = make(reports(tmp_path, one(level), error=listed))
    assert found.errors.tolist() == pytest.approx([2.5])


@pytest.mark.parametrize("level", [200.0, 1000.0])
def test_levels_beyond_those_of_states_are_refused_unless_left_out(
    tmp_path: Path, level: float
) -> None:
    with pytest.raises(UserError, match=f"no level {level:g}.*not extrapolated"):
        make(reports(tmp_path, one(level)))
    both = pd.concat([one(level), one(600.0)])
    assert len(make(reports(tmp_path, both, levels=[600]))) == 1


def test_interpolation_has_to_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no level 600.*`vertical: log-pressure` interpolates"):
        make(reports(tmp_path, one(600.0), vertical="exact"))
    with pytest.raises(UserError, match="expected `exact` or `log-pressure`"):
        make(reports(tmp_path, one(600.0), vertical="linear"))


@settings(max_examples=50)
@given(st.floats(300, 925), st.floats(-3, 3), st.floats(-3, 3))
def test_what_is_linear_in_the_logarithm_is_exact(level: float, a: float, b: float) -> None:
    channels, weights = see_level(CATALOGUE, "geopotential", level, "log-pressure")
    values = [a + b * np.log(LEVELS[i - 4]) for i in channels]
    assert np.dot(weights, values) == pytest.approx(a + b * np.log(level), abs=1e-4)
    assert sum(weights) == pytest.approx(1) and min(weights) >= 0
