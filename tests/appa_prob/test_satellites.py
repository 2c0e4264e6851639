"""Satellites: their tracks against SGP4, their orbits, their swaths."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sgp4.api import Satrec, jday

from appa_prob.errors import UserError
from appa_prob.grid import EARTH_RADIUS, great_circle
from appa_prob.satellites import Satellite, read_satellites

NAMES = ["NOAA-18", "NOAA-19", "NOAA-20", "NOAA-21", "MetOp-A"]


@pytest.fixture(params=NAMES)
def satellite(request: pytest.FixtureRequest) -> Satellite:
    return read_satellites()[request.param]


def inclination(satellite: Satellite) -> float:
    return float(satellite.line_2[8:16])


def minutes(satellite: Satellite, count: int, step: float) -> NDArray[np.datetime64]:
    offsets = (np.arange(count) * step * 60e6).astype(np.int64)
    return satellite.epoch + offsets.astype("timedelta64[us]")


def sidereal(julian: float) -> float:
    """Greenwich mean sidereal time (IAU 1982) in degrees, all terms."""
    t = (julian - 2451545.0) / 36525.0
    seconds = 67310.54841 + (876600 * 3600 + 8640184.812866) * t + 0.093104 * t**2 - 6.2e-6 * t**3
    return (seconds / 240.0) % 360.0


def test_track_agrees_with_sgp4(satellite: Satellite) -> None:
    times = minutes(satellite, 40, 17.3)
    latitude, longitude = satellite.track(times)
    record = Satrec.twoline2rv(satellite.line_1, satellite.line_2)
    for i, time in enumerate(times):
        t = time.astype("datetime64[us]").item()
        whole, part = jday(
            t.year, t.month, t.day, t.hour, t.minute, t.second + t.microsecond / 1e6
        )
        error, (x, y, z), _ = record.sgp4(whole, part)
        assert error == 0
        assert latitude[i] == pytest.approx(
            math.degrees(math.atan2(z, math.hypot(x, y))), abs=1e-4
        )
        east = math.degrees(math.atan2(y, x)) - sidereal(whole + part)
        assert (longitude[i] - east + 180.0) % 360.0 - 180.0 == pytest.approx(0.0, abs=2e-3)


def test_inclination_bounds_the_latitude(satellite: Satellite) -> None:
    latitude, _ = satellite.track(minutes(satellite, 3000, 0.1))
    bound = 180.0 - inclination(satellite)
    assert latitude.max() == pytest.approx(bound, abs=0.1)
    assert latitude.min() == pytest.approx(-bound, abs=0.1)


def test_orbits_follow_each_other(satellite: Satellite) -> None:
    assert 100.0 < satellite.period < 103.0
    times = minutes(satellite, 60_000, 0.01)
    latitude, longitude = satellite.track(times)
    north = np.flatnonzero((latitude[:-1] < 0) & (latitude[1:] >= 0))
    lap = np.diff(times[north]) / np.timedelta64(1, "m")
    np.testing.assert_allclose(lap, satellite.period, atol=0.2)
    westward = -((np.diff(longitude[north]) + 180.0) % 360.0 - 180.0)
    np.testing.assert_allclose(westward, 360.0 * satellite.period / 1440.0, atol=0.2)


def test_orbits_are_sun_synchronous(satellite: Satellite) -> None:
    times = minutes(satellite, 20_000, 1.0)
    latitude, longitude = satellite.track(times)
    north = np.flatnonzero((latitude[:-1] < 0) & (latitude[1:] >= 0))
    day = (times[north] - times[north].astype("datetime64[D]")) / np.timedelta64(1, "h")
    local = (day + longitude[north] / 15.0) % 24.0
    centred = (local - local[0] + 12.0) % 24.0 - 12.0
    assert np.abs(centred).max() < 0.5


def test_shift_keeps_the_hour_and_nears_the_epoch(satellite: Satellite) -> None:
    times = np.datetime64("1985-01-01T00", "m") + np.arange(0, 30_000_000, 54_321)
    shifted = satellite.shift(times)
    assert (np.abs(shifted - satellite.epoch) <= np.timedelta64(8, "D")).all()
    assert ((shifted - times) % np.timedelta64(16, "D") == np.timedelta64(0)).all()
    near = minutes(satellite, 5, 1440.0)
    np.testing.assert_array_equal(satellite.shift(near), near)


def test_swath_lies_along_the_track(satellite: Satellite) -> None:
    width, half_window = 2200.0, 10.0
    analyses = minutes(satellite, 2, 360.0).astype("datetime64[s]")
    index, latitude, longitude = satellite.swath(analyses, width, half_window)
    columns = 45
    assert np.bincount(index).min() == np.bincount(index).max() > 0
    for i, analysis in enumerate(analyses):
        places = latitude[index == i], longitude[index == i]
        offsets = np.arange(-1200, 1201) * np.timedelta64(500, "ms")
        track = satellite.track(analysis.astype("datetime64[us]") + offsets)
        distance = great_circle(places[0][:, None], places[1][:, None], *track)
        gap = distance.min(1).reshape(-1, columns)
        expected = np.abs(np.linspace(-width / 2, width / 2, columns))
        assert (gap <= width / 2 + 2.0).all()
        inner = gap[3:-3]  # near the ends of the track nothing is perpendicular to it
        np.testing.assert_allclose(inner, np.broadcast_to(expected, inner.shape), atol=15.0)


def test_rows_are_in_order_of_time_and_from_left_to_right(satellite: Satellite) -> None:
    analysis = np.array([satellite.epoch])
    _, latitude, longitude = satellite.swath(analysis, 2200.0, 10.0)
    rows = latitude.reshape(-1, 45), longitude.reshape(-1, 45)
    ahead = great_circle(rows[0][:-1, 22], rows[1][:-1, 22], rows[0][1:, 22], rows[1][1:, 22])
    assert ((ahead > 40.0) & (ahead < 56.0)).all()
    across = great_circle(rows[0][:, :-1], rows[1][:, :-1], rows[0][:, 1:], rows[1][:, 1:])
    np.testing.assert_allclose(across, 50.0, atol=0.1)
    phi, lam = (np.deg2rad(x) for x in rows)
    points = np.stack((np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)), -1)
    forward, rightward = points[1:, 22] - points[:-1, 22], points[:-1, -1] - points[:-1, 0]
    up = np.cross(rightward, forward)
    assert ((up * points[:-1, 22]).sum(-1) > 0).all()


def test_windows_shorter_than_a_row_hold_one_row(satellite: Satellite) -> None:
    _, latitude, longitude = satellite.swath(np.array([satellite.epoch]), 2000.0, 0.01)
    assert len(latitude) == 41
    below = satellite.track(np.array([satellite.epoch]))
    assert float(great_circle(latitude[20], longitude[20], *(x[0] for x in below))) < 1e-3


def test_swaths_end_at_the_horizon(satellite: Satellite) -> None:
    with pytest.raises(UserError, match=f"beyond the horizon of {satellite.name}"):
        satellite.swath(np.array([satellite.epoch]), math.pi * EARTH_RADIUS, 1.0)


def test_shipped_satellites() -> None:
    assert list(read_satellites()) == NAMES


@pytest.mark.parametrize("line", ["line_1", "line_2"])
def test_broken_elements_are_refused(satellite: Satellite, line: str) -> None:
    lines = {"line_1": satellite.line_1, "line_2": satellite.line_2}
    wrong = lines[line][:-1] + str((int(lines[line][-1]) + 1) % 10)
    for text in (wrong, lines[line][:-10], ""):
        with pytest.raises(UserError, match="elements of x are broken"):
            Satellite("x", **(lines | {line: text}))
    with pytest.raises(UserError, match="elements of x are broken"):
        Satellite("x", satellite.line_2, satellite.line_1)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tle"
    with pytest.raises(UserError, match="can't be read as two-line elements"):
        read_satellites(path)
    for text in ("", "NOAA-20\n1 43013U\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="expected three lines for each satellite"):
            read_satellites(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match="can't be read"):
        read_satellites(path)
