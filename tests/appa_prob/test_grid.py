"""Grids: cells, areas, distances, thinning, and the comparison with other grids."""

import numpy as np
import pytest
from numpy.typing import NDArray

from appa_prob.errors import UserError
from appa_prob.grid import EARTH_RADIUS, Grid, great_circle

Array = NDArray[np.float64]

LATITUDE = np.array([-80.0, -50.0, -15.0, 10.0, 40.0, 75.0])
LONGITUDE = np.linspace(5.0, 320.0, 8)


@pytest.fixture(params=[False, True], ids=["up", "down"])
def grid(request: pytest.FixtureRequest) -> Grid:
    return Grid(LATITUDE[::-1] if request.param else LATITUDE, LONGITUDE)


def points(count: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return np.rad2deg(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-360, 720, count)


def unit(latitude: Array, longitude: Array) -> Array:
    phi, lam = np.deg2rad(latitude), np.deg2rad(longitude)
    return np.stack((np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)))


def test_great_circle_is_the_angle_between_vectors() -> None:
    a, b = points(200), tuple(x[::-1] for x in points(200))
    angle = np.arccos((unit(*a) * unit(b[0], b[1])).sum(0))
    np.testing.assert_allclose(great_circle(*a, *b), EARTH_RADIUS * angle, rtol=1e-6, atol=1e-3)
    assert float(great_circle(10, 20, -10, 200)) == pytest.approx(np.pi * EARTH_RADIUS)


def test_centres_and_poles_lie_in_their_cells(grid: Grid) -> None:
    rows, columns = (x.ravel() for x in np.indices(grid.shape))
    for turn in (-360.0, 0.0, 360.0):
        cells = grid.cells(grid.latitude[rows], grid.longitude[columns] + turn)
        np.testing.assert_array_equal(cells, rows * 8 + columns)
    top = int(grid.latitude.argmax())
    np.testing.assert_array_equal(grid.cells([90.0, -90.0], [5.0, 5.0]) // 8, [top, 5 - top])


def test_cells_hold_the_nearest_row_and_column(grid: Grid) -> None:
    latitude, longitude = points(500)
    rows = np.abs(latitude[:, None] - grid.latitude).argmin(1)
    distance = np.abs((longitude[:, None] - grid.longitude + 180.0) % 360.0 - 180.0)
    np.testing.assert_array_equal(grid.cells(latitude, longitude), rows * 8 + distance.argmin(1))


def test_weights_are_the_share_of_points_in_a_row(grid: Grid) -> None:
    counts = np.bincount(grid.cells(*points(200_000)) // 8, minlength=6)
    assert grid.weights.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(counts / counts.mean(), grid.weights, atol=0.02)


def test_thinning_keeps_the_nearest_point_of_each_cell_and_time(grid: Grid) -> None:
    latitude, longitude = points(300)
    time = np.arange(300) % 2
    kept = grid.thin(latitude, longitude, time)
    cells = grid.cells(latitude, longitude)
    centres = grid.latitude[cells // 8], grid.longitude[cells % 8]
    distance = great_circle(latitude, longitude, *centres)
    expected = [
        min(np.flatnonzero((cells == cell) & (time == t)), key=lambda i: distance[i])
        for t in (0, 1)
        for cell in range(48)
        if ((cells == cell) & (time == t)).any()
    ]
    np.testing.assert_array_equal(kept, expected)


def test_thinning_of_ties_and_of_nothing(grid: Grid) -> None:
    assert len(grid.thin([10.0] * 3, [5.0] * 3)) == 1
    assert len(grid.thin([], [])) == 0


@pytest.mark.parametrize("place", [(91.0, 0.0), (np.nan, 0.0), (0.0, np.inf)])
def test_places_off_the_globe_are_refused(grid: Grid, place: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="1 points are not on the globe"):
        grid.cells([0.0, place[0]], [0.0, place[1]])


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([0.0], LONGITUDE, "two or more finite latitudes"),
        ([0.0, np.nan], LONGITUDE, "two or more finite latitudes"),
        (LATITUDE, LONGITUDE[None], "two or more finite longitudes"),
        ([0.0, 20.0, 10.0], LONGITUDE, "sort the dataset"),
        ([0.0, 95.0], LONGITUDE, "from -90 to 90, got 95"),
        (LATITUDE, LONGITUDE / 2, "regional grids"),
        (LATITUDE, LONGITUDE[::-1], "eastwards"),
    ],
)
def test_bad_grids_are_refused(latitude: Array, longitude: Array, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Grid(latitude, longitude)


def test_check_accepts_the_same_grid(grid: Grid) -> None:
    grid.check(grid.latitude, grid.longitude)
    grid.check(grid.latitude.astype(np.float32) + 5e-4, list(grid.longitude - 5e-4))


def test_check_refuses_other_grids(grid: Grid) -> None:
    with pytest.raises(UserError, match=r"expected 6 latitudes.* shape \(5,\).*interpolate"):
        grid.check(grid.latitude[1:], grid.longitude)
    with pytest.raises(UserError, match=r"expected 8 longitudes.* shape \(1, 8\)"):
        grid.check(grid.latitude, grid.longitude[None])
    with pytest.raises(UserError, match=r"latitude 0 at .*, got .*: sort or interpolate"):
        grid.check(grid.latitude[::-1], grid.longitude)
    moved = grid.longitude.copy()
    moved[3] += 2e-3
    with pytest.raises(UserError, match=r"longitude 3 at 140 degrees") as caught:
        grid.check(grid.latitude, moved)
    assert "\n" not in str(caught.value)
    moved[3] = np.nan
    with pytest.raises(UserError, match=r"longitude 3 at 140 degrees.* got nan"):
        grid.check(grid.latitude, moved)
