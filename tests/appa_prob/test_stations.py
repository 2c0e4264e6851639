"""Lists of stations: the one that comes with the package, and those of users."""

from pathlib import Path

import numpy as np
import pytest

from appa_prob.errors import UserError
from appa_prob.grid import Grid, great_circle
from appa_prob.stations import read_stations, thin_stations


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "stations.csv"
    path.write_text(text)
    return path


def test_shipped_list() -> None:
    stations = read_stations()
    assert len(stations) == 644
    assert stations["id"].is_unique
    assert stations["latitude"].abs().max() <= 90
    assert stations["longitude"].abs().max() <= 360
    assert stations.notna().all(axis=None)
    south = float((stations["latitude"] < 0).mean())
    assert 0.15 < south < 0.5
    assert stations["country"].nunique() > 100


def test_shipped_list_knows_some_airports() -> None:
    stations = read_stations()
    known = {"longitude": (-180, 180), "latitude": (-90, 90), "elevation_m": (-430, 5000)}
    for column, (least, most) in known.items():
        assert stations[column].between(least, most).all()
    iceland = stations[stations["country"] == "IS"]
    assert len(iceland) > 0
    assert great_circle(iceland["latitude"], iceland["longitude"], 65.0, -18.5).max() < 300


def test_shipped_list_has_one_station_a_cell() -> None:
    latitude = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))
    grid = Grid(latitude, np.linspace(0.0, 354.375, 64))
    assert len(thin_stations(read_stations(), grid)) == 644


def test_thinning_keeps_whole_rows() -> None:
    grid = Grid(np.array([-60.0, 0.0, 60.0]), np.linspace(0.0, 270.0, 4))
    stations = read_stations()
    kept = thin_stations(stations, grid)
    assert 0 < len(kept) <= 12
    assert list(kept.index) == list(range(len(kept)))
    whole = stations.set_index("id").loc[kept["id"]].reset_index()
    assert whole.equals(kept)


def test_own_list(tmp_path: Path) -> None:
    path = write(tmp_path, "longitude, id, latitude, country\n17.1, 007, -22.5, NA\n350,B,1,\n")
    stations = read_stations(path)
    assert stations["id"].tolist() == ["007", "B"]
    assert stations["country"].tolist() == ["NA", ""]
    assert stations["longitude"].tolist() == [17.1, 350.0]
    assert stations["name"].tolist() == ["", ""]
    assert stations["elevation_m"].isna().all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be read as CSV"),
        ("id,latitude,longitude\n", "has no stations"),
        ("id,lattitude,longitude\nA,1,2\n", 'unknown column "latitude"; did you mean "latt'),
        ("id,latitude,longitude\nA,1,2\nB,91,2\n", 'latitude in degrees.* row 2, "B"'),
        ("id,latitude,longitude\nA,1,east\n", 'longitude in degrees.* row 1, "A"'),
        ("id,latitude,longitude\nA,,2\n", "1 have none"),
        ('id,latitude,longitude\n"A,1,2\n', "can't be read as CSV"),
        ("id,latitude,longitude\nA,1,2,3,4\n", "more values than the header"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_stations(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_absent_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_stations(tmp_path / "none.csv")
    path = tmp_path / "a.csv"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="can't be read as CSV"):
        read_stations(path)
