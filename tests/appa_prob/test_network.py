"""Observing networks: channels and errors, places and times."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from appa_prob.catalogue import Catalogue, Channel
from appa_prob.errors import UserError
from appa_prob.grid import Grid, great_circle
from appa_prob.network import Network
from appa_prob.satellite_network import SatelliteNetwork
from appa_prob.satellites import read_satellites
from appa_prob.station_network import StationNetwork
from appa_prob.stations import read_stations

CATALOGUE = Catalogue(
    (
        Channel("temperature", 0.2, "K"),
        Channel("temperature", 0.95, "K"),
        Channel("humidity", 0.2, "kg kg-1"),
        Channel("humidity", 0.95, "kg kg-1"),
        Channel("surface_pressure", None, "Pa"),
    )
)
GRID = Grid(np.linspace(-84.375, 84.375, 16), np.linspace(0.0, 348.75, 32))
TIMES = np.datetime64("2003-06-01T00", "ns") + np.arange(20) * np.timedelta64(6, "h")
ERRORS = {"temperature": "1.5 degC", "humidity": "0.5 g/kg", "surface_pressure": "1 hPa"}


def stations(**changes: Any) -> StationNetwork:
    keys: dict[str, Any] = {"variables": tuple(ERRORS), "error": ERRORS}
    return StationNetwork(**(keys | changes))


def satellites(**changes: Any) -> SatelliteNetwork:
    keys: dict[str, Any] = {"satellites": ("NOAA-20",), "variables": tuple(ERRORS)}
    return SatelliteNetwork(**(keys | {"error": ERRORS} | changes))


def test_stations_observe_the_lowest_level() -> None:
    indices, errors = stations().channels(CATALOGUE)
    np.testing.assert_array_equal(indices, [1, 3, 4])
    np.testing.assert_allclose(errors, [1.5, 5e-4, 100.0])


def test_satellites_observe_all_levels() -> None:
    indices, errors = satellites().channels(CATALOGUE)
    np.testing.assert_array_equal(indices, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(errors, [1.5, 1.5, 5e-4, 5e-4, 100.0])


def test_levels_and_their_errors() -> None:
    network = stations(
        variables=("temperature",), levels=(0.95, 0.2), error={"temperature": ["1 K", "2 K"]}
    )
    indices, errors = network.channels(CATALOGUE)
    np.testing.assert_array_equal(indices, [1, 0])
    np.testing.assert_array_equal(errors, [1.0, 2.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variables": ("temprature",)}, 'unknown variable "temprature"; did you mean "temper'),
        ({"levels": (0.9,)}, r"temperature has no level 0\.9; did you mean 0\.95"),
        ({"error": ERRORS | {"temperature": "1 hPa"}}, "is a pressure; expected a temperature"),
        ({"error": ERRORS | {"temperature": "-1 K"}}, '"-1 K" is not positive'),
        ({"error": ERRORS | {"temperature": 1.0}}, "has no unit"),
        ({"error": {"temperature": "1 K"}}, "humidity has no error; add one in kg kg-1"),
        ({"error": ERRORS | {"wind": "1 m/s"}}, 'unknown variable of `error` "wind"'),
        ({"error": ERRORS | {"temperature": ["1 K"] * 3}}, "one for each of 1 levels, got 3"),
        ({"variables": ("humidity", "humidity"), "error": {"humidity": "1 g/kg"}}, "twice"),
    ],
)
def test_bad_channels(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        stations(name="ships", **changes).channels(CATALOGUE)
    assert str(caught.value).startswith('network "ships": ')
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", [stations(), satellites(half_window="3 h")])
def test_cells_are_observed_once_a_time(network: Network) -> None:
    points = network.locate(TIMES, GRID, CATALOGUE)
    assert len(points.time) == len(points.latitude) == len(points.longitude) > 1000
    assert (np.diff(points.time) >= 0).all()
    assert set(points.time) == set(range(len(TIMES)))
    cells = points.time * 512 + GRID.cells(points.latitude, points.longitude)
    assert len(np.unique(cells)) == len(cells)
    assert points.channels == tuple(CATALOGUE.channels[i] for i in points.indices)


def test_stations_stay_where_they_are() -> None:
    points = stations().locate(TIMES, GRID, CATALOGUE)
    known = set(zip(read_stations()["latitude"], read_stations()["longitude"], strict=True))
    first = points.time == 0
    for t in range(len(TIMES)):
        np.testing.assert_array_equal(points.latitude[points.time == t], points.latitude[first])
    assert set(zip(points.latitude, points.longitude, strict=True)) <= known


def test_satellites_look_below_their_track_at_the_time() -> None:
    network = satellites(half_window="20 min", swath="2000 km")
    points = network.locate(TIMES, GRID, CATALOGUE)
    satellite = read_satellites()["NOAA-20"]
    for t in (0, 7, 8, 19):  # within a block of times, and across
        offsets = np.arange(-1200, 1201, 5) * np.timedelta64(1, "s")
        track = satellite.track(satellite.shift(TIMES[t : t + 1])[0] + offsets)
        chosen = points.time == t
        places = points.latitude[chosen, None], points.longitude[chosen, None]
        distance = great_circle(*places, *track).min(1)
        assert len(distance) > 30
        assert 900.0 < distance.max() < 1010.0


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ("all", range(20)),
        ({"every": 4}, range(0, 20, 4)),
        ([0, 12], range(0, 20, 2)),
        ([6], range(1, 20, 4)),
    ],
)
def test_times(times: object, chosen: range) -> None:
    points = stations(times=times).locate(TIMES, GRID, CATALOGUE)
    assert sorted(set(points.time)) == list(chosen)


def test_networks_that_observe_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"none of the 20 times.* 0, 6, 12, 18: change `times`"):
        stations(times=[3]).locate(TIMES, GRID, CATALOGUE)


def test_windows_may_touch_but_not_overlap() -> None:
    satellites(half_window="3 h").places(TIMES, GRID)
    satellites(half_window="181 min").places(TIMES[:1], GRID)
    with pytest.raises(UserError, match="half of the 360 min between times"):
        satellites(half_window="181 min").locate(TIMES, GRID, CATALOGUE)


def test_wide_swaths_are_refused() -> None:
    with pytest.raises(UserError, match='network "satellite": a swath of 9000 km'):
        satellites(swath="9000 km").locate(TIMES, GRID, CATALOGUE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"satellites": ("NOAA-2",)}, "unknown satellite"),
        ({"swath": "1 hPa"}, "expected a length in km"),
        ({"half_window": "-1 min"}, "not positive"),
        ({"variables": ()}, "variables"),
        ({"times": [24]}, "times"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_attributes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        satellites(**changes)


def test_own_files(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("id,latitude,longitude\nA,10,20\nB,10.5,20.5\nC,-40,359\n")
    points = stations(file=path).locate(TIMES[:2], GRID, CATALOGUE)
    assert sorted(points.longitude[points.time == 1]) == [20.0, 359.0] or sorted(
        points.longitude[points.time == 1]
    ) == [20.5, 359.0]
