"""The channels of a state, and their way to datasets and back."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import ArrayLike

from appa_prob.catalogue import Catalogue, Channel
from appa_prob.dataset import read_states
from appa_prob.errors import UserError

CATALOGUE = Catalogue(
    (
        Channel("temperature", 0.95, "K"),
        Channel("temperature", 0.2, "K"),
        Channel("surface_pressure", None, "Pa"),
        Channel("wind", 0.95, "m s-1"),
        Channel("wind", 0.2, "m s-1"),
    )
)
COORDS: Mapping[str, ArrayLike] = {
    "time": np.datetime64("2003-01-01", "ns") + np.arange(3) * np.timedelta64(6, "h"),
    "latitude": np.linspace(-60, 60, 4),
    "longitude": np.arange(6) * 60.0,
}


@pytest.fixture
def fields() -> torch.Tensor:
    return torch.randn(3, 5, 4, 6)


@pytest.fixture
def dataset(fields: torch.Tensor) -> xr.Dataset:
    return CATALOGUE.to_dataset(fields, COORDS)


def test_lookup() -> None:
    assert CATALOGUE.variables == ("temperature", "surface_pressure", "wind")
    assert CATALOGUE.levels("wind") == (0.95, 0.2)
    assert CATALOGUE.levels("surface_pressure") == ()
    assert CATALOGUE.units("surface_pressure") == "Pa"
    for index, channel in enumerate(CATALOGUE.channels):
        assert CATALOGUE.index(channel.variable, channel.level) == index
    assert CATALOGUE.index("temperature", float(np.float32(0.2))) == 1


@pytest.mark.parametrize(
    ("variable", "level", "message"),
    [
        ("temprature", 0.95, 'unknown variable "temprature"; did you mean "temperature"'),
        ("temperature", 0.9, r"no level 0\.9; did you mean 0\.95\? There are: 0\.95, 0\.2"),
        ("temperature", None, "needs a level"),
        ("surface_pressure", 0.95, "has no levels, got level 0.95: leave it out"),
    ],
)
def test_unknown_channels(variable: str, level: float | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CATALOGUE.index(variable, level)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ((), "at least one channel"),
        ((Channel("a", 1.0, "K"),) * 2, "appears twice"),
        ((Channel("a", 1.0, "K"), Channel("b", 1.0, "K"), Channel("a", 2.0, "K")), "side by side"),
        ((Channel("a", 1.0, "K"), Channel("a", 2.0, "Pa")), "differ in units"),
        ((Channel("a", 1.0, "K"), Channel("a", None, "K")), "some lack a level"),
    ],
)
def test_bad_catalogues(channels: tuple[Channel, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Catalogue(channels)


def test_dataset_has_one_variable_for_all_levels(
    dataset: xr.Dataset, fields: torch.Tensor
) -> None:
    assert dataset["wind"].dims == ("time", "level", "latitude", "longitude")
    assert dataset["surface_pressure"].dims == ("time", "latitude", "longitude")
    assert dataset["wind"].attrs["units"] == "m s-1"
    wind = dataset["wind"].sel(level=0.2).to_numpy()
    np.testing.assert_array_equal(wind, fields[:, 4].numpy())
    for name, values in COORDS.items():
        np.testing.assert_array_equal(dataset[name].to_numpy(), values)


def test_round_trip(dataset: xr.Dataset, fields: torch.Tensor) -> None:
    assert Catalogue.from_dataset(dataset) == CATALOGUE
    states, times = read_states(dataset, CATALOGUE)
    assert torch.equal(states, fields)
    np.testing.assert_array_equal(times, np.asarray(COORDS["time"]))
    mixed = dataset.transpose("longitude", "level", "latitude", "time")
    assert torch.equal(read_states(mixed, CATALOGUE)[0], fields)


def test_leading_dimensions_and_arrays(fields: torch.Tensor, device: torch.device) -> None:
    coords = {"member": np.arange(2)} | dict(COORDS)
    doubled = torch.stack((fields, -fields)).to(device)
    dataset = CATALOGUE.to_dataset(doubled.requires_grad_(), coords)
    assert dataset["wind"].dims == ("member", "time", "level", "latitude", "longitude")
    xr.testing.assert_identical(
        dataset, CATALOGUE.to_dataset(doubled.detach().cpu().numpy(), coords)
    )
    single = {name: COORDS[name] for name in ("latitude", "longitude")}
    alone = CATALOGUE.to_dataset(fields[0], single)
    assert alone["temperature"].dims == ("level", "latitude", "longitude")
    assert alone["surface_pressure"].dims == ("latitude", "longitude")


def test_variables_with_different_levels_are_refused(fields: torch.Tensor) -> None:
    channels = (*CATALOGUE.channels[:4], Channel("wind", 0.5, "m s-1"))
    with pytest.raises(ValueError, match="same levels for all variables"):
        Catalogue(channels).to_dataset(fields, COORDS)


def test_wrong_shapes_are_refused(fields: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 5, 4, 6\), got \(3, 4, 4, 6\)"):
        CATALOGUE.to_dataset(fields[:, 1:], COORDS)


def test_from_dataset(dataset: xr.Dataset) -> None:
    dataset["orography"] = dataset["surface_pressure"].isel(time=0, drop=True)
    assert Catalogue.from_dataset(dataset) == CATALOGUE
    two = Catalogue.from_dataset(dataset, ["wind", "surface_pressure"])
    assert two.variables == ("wind", "surface_pressure")
    with pytest.raises(UserError, match='unknown variable "winds"; did you mean "wind"'):
        Catalogue.from_dataset(dataset, ["winds"])
    with pytest.raises(UserError, match="expected time, latitude, longitude"):
        Catalogue.from_dataset(dataset.rename(latitude="lat"))
    with pytest.raises(UserError, match="no variable that varies in time"):
        Catalogue.from_dataset(dataset[["orography"]])
    del dataset["wind"].attrs["units"]
    with pytest.raises(UserError, match="wind has no units"):
        Catalogue.from_dataset(dataset)


def test_check_accepts_what_holds_the_channels(dataset: xr.Dataset) -> None:
    CATALOGUE.check(dataset)
    more = dataset.isel(level=[1, 0]).copy()
    more["other"] = xr.DataArray(np.zeros(3), dims="time")
    CATALOGUE.check(more)


def test_check_says_what_is_wrong(dataset: xr.Dataset) -> None:
    with pytest.raises(UserError, match='unknown variable "wind"; did you mean "winds"'):
        CATALOGUE.check(dataset.rename(wind="winds"))
    with pytest.raises(UserError, match=r"no level 0\.2; did you mean 0\.95"):
        CATALOGUE.check(dataset.isel(level=[0]))
    moved = dataset.assign_coords(level=[0.95, 0.25])
    with pytest.raises(UserError, match=r"no level 0\.2; did you mean 0\.25"):
        CATALOGUE.check(moved)
    dataset["surface_pressure"].attrs["units"] = "hPa"
    with pytest.raises(UserError, match="surface_pressure is in hPa; expected Pa: convert it"):
        CATALOGUE.check(dataset)
