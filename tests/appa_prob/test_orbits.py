"""Circular orbits and what is seen from them, against the published ones and geometry."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from appa_prob.circular import ORIGIN, CircularOrbit
from appa_prob.errors import UserError
from appa_prob.grid import Grid, great_circle
from appa_prob.orbits import visible_cells

FIXTURE = load_file(Path(__file__).parent / "data" / "orbits.safetensors")
# Altitude in km, inclination and phase in degrees, points an hour, first hour.
PUBLISHED = {0: (800, 75, 0, 60, 0), 1: (800, 75, 0, 60, 12), 2: (650, 98, 35, 30, 3)}


def minutes(first: float, count: int, step: float = 1.0) -> np.ndarray:
    return ORIGIN + ((first + step * np.arange(count)) * 60e6).astype("timedelta64[us]")


@pytest.mark.parametrize("index", PUBLISHED)
def test_tracks_are_the_published_ones_half_a_turn_away(index: int) -> None:
    altitude, inclination, phase, frequency, delay = PUBLISHED[index]
    expected = FIXTURE[f"orbit{index}_f64"].reshape(-1, 2)
    orbit = CircularOrbit("published", altitude, inclination, phase + 180.0)
    times = minutes(60.0 * delay, len(expected), 60.0 / frequency)
    latitude, longitude = orbit.track(times)
    # Times are rounded to microseconds, which is 4e-9 degrees.
    np.testing.assert_allclose(latitude, expected[:, 0], atol=2e-8)
    turn = (longitude - expected[:, 1] + 180.0) % 360.0 - 180.0
    np.testing.assert_allclose(turn * np.cos(np.deg2rad(latitude)), 0.0, atol=2e-8)


@pytest.mark.parametrize("hour", [0, 1, 2, 19])
def test_cells_in_view_are_the_published_ones(hour: int) -> None:
    grid = Grid(FIXTURE["grid_latitude"], FIXTURE["grid_longitude"] % 360.0)
    orbit = CircularOrbit("published", 800.0, 75.0, 180.0)
    cells = visible_cells(*orbit.track(minutes(60.0 * hour, 60)), grid, radius=5.0)
    # Points at the very edge may fall on either side of it in single precision.
    odd = set(cells) ^ set(FIXTURE[f"idx_{hour}"].tolist())
    assert odd <= set(FIXTURE[f"ambiguous_{hour}"].tolist())


def test_an_orbit_obeys_kepler_and_reaches_its_inclination() -> None:
    orbit = CircularOrbit("one", 800.0, 98.0, 20.0)
    assert orbit.period == pytest.approx(100.72, abs=0.01)
    latitude, longitude = orbit.track(minutes(0.0, 1010, 0.1))
    assert latitude.max() == pytest.approx(82.0, abs=3e-3)
    assert latitude[0] == pytest.approx(0.0, abs=1e-9) and latitude[1] < 0.0
    after = orbit.track(ORIGIN + (np.array([0.0, orbit.period]) * 60e6).astype("timedelta64[us]"))
    westward = (after[1][0] - after[1][1]) % 360.0
    assert westward == pytest.approx(orbit.period / 4.0, abs=1e-6)
    assert longitude[0] == pytest.approx(20.0)


def test_velocities_are_the_derivatives_of_positions() -> None:
    orbit = CircularOrbit("one", 800.0, 75.0, 20.0)
    times = minutes(100.0, 3, 1 / 60)
    position, velocity = orbit.fly(times)
    np.testing.assert_allclose(velocity[1], (position[2] - position[0]) / 2.0, rtol=1e-5)


def test_a_swath_lies_within_half_its_width_of_the_track() -> None:
    orbit = CircularOrbit("one", 800.0, 98.0)
    analysis = np.array([ORIGIN + np.timedelta64(6, "h")])
    _, latitude, longitude = orbit.swath(analysis, 2000.0, 5.0)
    track = orbit.track(analysis + (np.linspace(-5, 5, 601) * 60e6).astype("timedelta64[us]"))
    distance = great_circle(latitude[:, None], longitude[:, None], *track).min(1)
    assert 990.0 < distance.max() < 1000.5


def test_orbits_below_the_ground_are_refused() -> None:
    with pytest.raises(UserError, match="mole: expected a positive altitude, got -1 km"):
        CircularOrbit("mole", -1.0, 98.0)
