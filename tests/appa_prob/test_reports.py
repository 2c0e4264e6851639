"""Observations with values from files: reports and gridded analyses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from typer.testing import CliRunner

from appa_prob import reports as reports_module
from appa_prob.catalogue import Catalogue, Channel
from appa_prob.cli import app
from appa_prob.dataset import open_dataset
from appa_prob.declaration import parse_networks
from appa_prob.errors import UserError
from appa_prob.filtering import FilterConfig, run_filter
from appa_prob.forecast import ForecastConfig, run_forecast
from appa_prob.grid import Grid
from appa_prob.network_figure import count_observations
from appa_prob.observe import Observations, observe
from appa_prob.quality import doubtful_by_climatology
from appa_prob.reports import read_reports, write_reports
from appa_prob.statistics import Statistics
from appa_prob.tables import read_parts

CATALOGUE = Catalogue(
    (
        Channel("temperature", 0.95, "K"),
        Channel("temperature", 0.5, "K"),
        Channel("surface_pressure", None, "Pa"),
    )
)
GRID = Grid(np.linspace(-78.75, 78.75, 8), np.linspace(0.0, 337.5, 16))
TIMES = np.datetime64("2003-07-03T00", "ns") + np.arange(4) * np.timedelta64(6, "h")
HEADER = "time,latitude,longitude,variable,level,value,units,error\n"


def network(path: Path, kind: str = "reports", **keys: Any) -> dict[str, Any]:
    return {"networks": [{"network": kind, "file": str(path), **keys}]}


def read(path: Path, kind: str = "reports", **keys: Any) -> Observations:
    return observe(
        parse_networks(network(path, kind, **keys), Path()),
        None,
        TIMES,
        CATALOGUE,
        GRID,
        generator=torch.Generator(),
    )


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "reports.csv"
    path.write_text(header + "".join(row + "\n" for row in rows))
    return path


def drawn(world: Path, networks: list[dict[str, Any]]) -> tuple[Observations, torch.Tensor]:
    dataset = open_dataset(world).sel(time=TIMES)
    truth = torch.stack(
        [
            torch.as_tensor(dataset.temperature.values[:, 0]),
            torch.as_tensor(dataset.temperature.values[:, 1]),
            torch.as_tensor(dataset.surface_pressure.values),
        ],
        dim=1,
    ).float()
    found = observe(
        parse_networks({"networks": networks}, Path()),
        truth,
        TIMES,
        CATALOGUE,
        GRID,
        generator=torch.Generator().manual_seed(0),
    )
    return found, truth


def assert_same(a: Observations, b: Observations, bias: bool = True) -> None:
    assert torch.equal(a.errors, b.errors)
    assert torch.equal(a.values - a.biases, b.values - b.biases)
    for name in ("time", "channel", "latitude", "longitude"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    x = torch.randn(a.operator.in_shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(a.operator(x), b.operator(x))


STATIONS = {
    "network": "stations",
    "variables": ["temperature", "surface_pressure"],
    "error": {"temperature": "0.5 K", "surface_pressure": "1 hPa"},
    "bias": {"temperature": "0.3 K"},
}
SOUNDER = {
    "network": "satellite",
    "satellites": ["NOAA-20"],
    "variables": ["surface_pressure", "temperature"],
    "error": {"temperature": ["1 K", "2 K"], "surface_pressure": "3 hPa"},
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_reports_of_drawn_networks_come_back_to_the_last_bit(
    world: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    observations, _ = drawn(world, [STATIONS, SOUNDER])
    path = tmp_path / f"reports.{suffix}"
    write_reports(observations, CATALOGUE, GRID, TIMES, path)
    back = read(path)
    assert len(back) == len(observations) > 300
    assert_same(observations, back)


def test_columns_for_variables_and_parquet_without_levels(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table = pd.DataFrame(
        {
            "time": pd.to_datetime(["2003-07-03T00", "2003-07-03T06"]),
            "id": ["A", "B"],
            "temperature": [280.5, np.nan],
            "surface_pressure": [1000.25, 1001.5],
        }
    )
    table.to_parquet(tmp_path / "wide.parquet")
    (tmp_path / "stations.csv").write_text("id,latitude,longitude\nA,10,20\nB,-30,350\n")
    found = read(
        tmp_path / "wide.parquet",
        stations=str(tmp_path / "stations.csv"),
        units={"surface_pressure": "hPa"},
        error={"temperature": "1 K", "surface_pressure": "1 hPa"},
    )
    assert found.values.tolist() == [280.5, 100025.0, 100150.0]
    assert found.errors.tolist() == [1.0, 100.0, 100.0]
    assert found.channel.tolist() == [0, 2, 2] and found.time.tolist() == [0, 0, 1]
    assert found.latitude.tolist() == [10, 10, -30]


def test_units_errors_names_and_windows_of_time(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "2003-07-03T05:50:00+00:00,10,20,TT,0.5,7,degC,1",
        "2003-07-03T08:20:00+02:00,10,20,TT,0.5,8,degC,",
        "2003-07-03T09:00,10,20,TT,0.5,9,degC,1",
        "2003-07-03T06:00,10,20,surface_pressure,,1000,hPa,0.5",
        "2003-07-09T06:00,10,20,surface_pressure,,1000,hPa,0.5",
        "2003-07-03T06:00,10,20,dew_point,,1000,hPa,0.5",
    )
    found = read(
        path,
        names={"TT": "temperature"},
        variables=["temperature", "surface_pressure"],
        error={"temperature": ["3 K", "2 K"]},
        bias={"temperature": "0.5 K"},
        half_window="30 min",
    )
    # The first two of one place and time, though of one channel, are two observations.
    torch.testing.assert_close(found.values, torch.tensor([280.15, 281.15, 100000.0]))
    assert found.errors.tolist() == [1.0, 2.0, 50.0]
    assert found.biases.tolist() == [0.5, 0.5, 0.0]
    assert found.time.tolist() == [1, 1, 1] and found.channel.tolist() == [1, 1, 2]
    x = torch.arange(float(found.operator.in_shape.numel())).reshape(found.operator.in_shape)
    assert float(found.operator(x)[0] - found.operator(x)[2]) == pytest.approx(-128, abs=1e-2)


def test_a_network_of_the_hours_of_the_day_and_thinned(tmp_path: Path) -> None:
    rows = [
        f"2003-07-03T{h:02}:00,10,{x},temperature,0.95,280,,1"
        for h in (0, 6, 12)
        for x in (0, 1, 9)
    ]
    found = read(write(tmp_path, *rows), times=[0, 12], half_window="1 h", spacing="300 km")
    assert found.time.tolist() == [0, 0, 2, 2] and found.longitude.tolist() == [0, 9, 0, 9]


GOOD = "2003-07-03T06:00,10,20,temperature,0.95,280,K,1"


def good(old: str = "", new: str = "") -> list[str]:
    return [GOOD.replace(old, new)]


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        (good("temp", "tmp"), {}, r"did you mean \"temperature\"\? .*list the `variables`"),
        (good(",K,", ",hPa,"), {}, '"hPa" is the unit of a pressure; expected units of a temper'),
        (good(",K,", ",Kelv,"), {}, 'the unit "Kelv" is not understood'),
        (good("0.95", "0.9"), {}, r"has no level 0\.9; did you mean 0\.95"),
        (good() + good("06:00", "06:10"), {}, r"1 of 2 reports are not at.*`half_window: 30 min`"),
        (good("-03", "-23"), {}, "has no reports of anything for the 4 times"),
        (good("T06:00", " noon"), {}, r'1 have none, the first in row 1, "2003-07-03 noon"'),
        (good(",10,", ",100,"), {}, "expected a latitude in degrees"),
        (good("K,1", "K,"), {}, r"has no error: add a column `error` to .*, or `error` for it"),
        (good("K,1", "K,0"), {}, "expected errors above 0, got 0 for temperature"),
        (good(), {"error": {"wind": "1 m/s"}}, 'unknown variable "wind"'),
        (good(), {"error": {"temperature": "1 m/s"}}, "is a speed; expected a temperature in K"),
        (good("280", "warm"), {}, "1 of 1 observations are not finite"),
        ([], {}, "has no reports"),
    ],
)
def test_bad_reports_are_refused_with_a_remedy(
    tmp_path: Path, rows: list[str], keys: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, *rows)
    with pytest.raises(UserError, match=message) as caught:
        read(path, **keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files_are_read_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """As they would be at once, with a column for each variable; and no part larger than asked."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    hours = np.arange(24)
    table = pd.DataFrame(
        {
            "time": [f"2003-07-03T{hour:02d}:00" for hour in hours],
            "lat": hours * 1.0,
            "lon": 20.0,
            "temperature": 280.0 + hours,
            "pressure": np.where(hours % 2, np.nan, 1e5 + hours),
        }
    )

    def written(table: pd.DataFrame) -> Path:
        path = tmp_path / f"reports{suffix}"
        if suffix == ".parquet":
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False)
        return path

    path, names = written(table), {"pressure": "surface_pressure"}
    whole = read_reports(path, names=names)
    assert len(whole) == 36 and set(whole["variable"]) == {"temperature", "surface_pressure"}
    sizes = list[int]()

    def small(path: Path, what: str, texts: Sequence[str]) -> Iterator[pd.DataFrame]:
        for part in read_parts(path, what, texts, rows=5):
            sizes.append(len(part))
            yield part

    monkeypatch.setattr(reports_module, "read_parts", small)
    pd.testing.assert_frame_equal(read_reports(path, names=names), whole)
    assert sizes == [5, 5, 5, 5, 4]
    first, last = np.datetime64("2003-07-03T04:00", "ns"), np.datetime64("2003-07-03T06:00", "ns")
    some = read_reports(path, names=names, between=(first, last))
    inside = whole["time"].between(first, last)
    pd.testing.assert_frame_equal(some, whole[inside].reset_index(drop=True))
    if suffix == ".parquet":
        table.set_index("time").to_parquet(path)
        pd.testing.assert_frame_equal(read_reports(path, names=names), whole)
    table.loc[12, "lat"] = 95.0
    with pytest.raises(UserError, match=r'latitude in degrees.* the first in row 13, "13"'):
        read_reports(written(table), names=names)


def test_stations_that_are_not_in_the_list_are_refused(tmp_path: Path) -> None:
    (tmp_path / "stations.csv").write_text("id,latitude,longitude\nA,10,20\n")
    header = "time,station,variable,value\n"
    path = write(tmp_path, "2003-07-03T06:00,X,temperature,280", header=header)
    with pytest.raises(UserError, match='the station "X" is not in'):
        read_reports(path, tmp_path / "stations.csv")
    with pytest.raises(UserError, match='unknown column "latitude"'):
        read_reports(path)


def test_counts_tell_the_errors_of_reports(tmp_path: Path) -> None:
    path = write(tmp_path, *good("K,1", "K,0.5"), *good("temperature,0.95", "surface_pressure,"))
    path.write_text(
        path.read_text().replace("surface_pressure,,280,K,1", "surface_pressure,,1e5,Pa,70")
    )
    (part,) = parse_networks(network(path), Path())
    table = count_observations([part.locate(TIMES, GRID, CATALOGUE)], len(TIMES))
    assert table["error"].tolist() == ["0.5 K", "70 Pa"] and table["a time"].tolist() == [0.25] * 2


def test_networks_without_values_need_a_truth() -> None:
    networks = parse_networks({"networks": [STATIONS]}, Path())
    with pytest.raises(UserError, match='network "stations" has no values: name a `file` of them'):
        observe(networks, None, TIMES, CATALOGUE, GRID, generator=torch.Generator())


def test_drawn_and_read_networks_go_together(world: Path, tmp_path: Path) -> None:
    observations, _ = drawn(world, [STATIONS])
    write_reports(observations, CATALOGUE, GRID, TIMES, tmp_path / "r.csv")
    alone, _ = drawn(world, [SOUNDER])
    files = network(tmp_path / "r.csv")["networks"]
    both, _ = drawn(world, [*files, SOUNDER])
    count = len(observations)
    first, second = np.arange(len(both)) < count, np.arange(len(both)) >= count
    assert_same(observations, both.select(first))
    assert_same(alone, both.select(second))


def test_observations_of_more_than_points_are_not_written(world: Path, tmp_path: Path) -> None:
    wide, _ = drawn(world, [SOUNDER | {"footprint": "900 km"}])
    with pytest.raises(UserError, match="reports are of points"):
        write_reports(wide, CATALOGUE, GRID, TIMES, tmp_path / "r.csv")


def test_gross_errors_of_reports_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, GOOD.replace("280", "310"))
    statistics = Statistics(torch.full((1, 3, 1, 1), 280.0), torch.tensor([5.0, 5.0, 5.0]))
    seen = read(path)
    found = doubtful_by_climatology(seen, statistics, torch.ones(3, 8, 16), TIMES, 4.0)
    assert seen.values[~torch.as_tensor(found)].tolist() == [280.0] and found.sum() == 1


ANALYSIS = {"variables": ["temperature"], "error": {"temperature": "1 K"}}


@pytest.mark.parametrize("factor", [1, 2])
def test_analyses_of_files_are_those_that_were_drawn(
    world: Path, tmp_path: Path, factor: int
) -> None:
    observations, _ = drawn(world, [{"network": "analysis", "factor": factor, **ANALYSIS}])
    shape = (4, 8 // factor, 16 // factor, 2)
    latitude, longitude = (
        x[: np.prod(shape[1:])].reshape(shape[1:])
        for x in (observations.latitude, observations.longitude)
    )
    celsius = observations.values.double().reshape(shape).permute(0, 3, 1, 2) - 273.15
    dataset = xr.Dataset(
        {"temperature": (("time", "level", "lat", "lon"), celsius.numpy(), {"units": "degC"})},
        {
            "time": TIMES,
            "level": [0.95, 0.5],
            "lat": latitude[:, 0, 0],
            "lon": longitude[0, :, 0],
        },
    )
    # From the south or the north, hourly or not: all the same.
    dataset.isel(lat=slice(None, None, -1)).to_netcdf(tmp_path / "analysis.nc")
    found = read(tmp_path / "analysis.nc", "gridded", factor=factor, **ANALYSIS)
    order = np.lexsort((found.channel, found.longitude, found.latitude, found.time))
    again = np.lexsort(
        (observations.channel, observations.longitude, observations.latitude, observations.time)
    )
    assert len(found) == len(observations) == np.prod(shape)
    torch.testing.assert_close(found.values[order], observations.values[again], rtol=1e-7, atol=0)
    x = torch.randn(found.operator.in_shape)
    torch.testing.assert_close(found.operator(x)[order], observations.operator(x)[again])


def test_regional_analyses_with_holes(world: Path, tmp_path: Path) -> None:
    values = np.full((2, 3, 4), 280.0)
    values[0, 1, 2] = np.nan
    coords = {
        "time": [TIMES[1], TIMES[1] + np.timedelta64(1, "h")],
        "latitude": [10.0, 12.0, 14.0],
        "longitude": [-3.0, -1.0, 1.0, 3.0],
    }
    field = (("time", "latitude", "longitude"), values, {"units": "hPa"})
    xr.Dataset({"surface_pressure": field}, coords).to_netcdf(tmp_path / "a.nc")
    keys: dict[str, Any] = {
        "variables": ["surface_pressure"],
        "error": {"surface_pressure": "1 hPa"},
    }
    found = read(tmp_path / "a.nc", "gridded", **keys)
    assert len(found) == 11 and set(found.time.tolist()) == {1}
    assert found.values.unique().tolist() == [28000.0]  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match="several points in one block of 2 x 2"):
        read(tmp_path / "a.nc", "gridded", factor=2, **keys)
    with pytest.raises(UserError, match="has none of the times of the 1 states"):
        read(tmp_path / "a.nc", "gridded", times=[0], **keys)
    with pytest.raises(UserError, match="unknown variable"):
        read(tmp_path / "a.nc", "gridded", **ANALYSIS)


def test_reanalysis_of_reports_is_that_of_the_networks_they_come_from(
    tmp_path: Path, experiment: dict[str, Any]
) -> None:
    """The whole job: write what was drawn, read it without any truth, and get the same."""

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == 0, result.output
        return result.output

    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    reports = tmp_path / "reports.csv"
    first.write_text(yaml.safe_dump(experiment))
    own = experiment | {"data": None, "networks": network(reports)["networks"]}
    second.write_text(yaml.safe_dump(own | {"quality_control": 6.0}))
    options = ("--quiet", "--seed", "5")
    run("network", str(first), "--reports", str(reports), "--seed", "5")
    run("reanalyse", str(first), "-o", str(tmp_path / "a.zarr"), *options)
    text = run("reanalyse", str(second), "-o", str(tmp_path / "b.zarr"), *options)
    assert "no truth to score against" in text and not (tmp_path / "b.csv").exists()
    assert (tmp_path / "b.png").exists() and (tmp_path / "a.csv").exists()
    a, b = (xr.open_zarr(tmp_path / name, chunks=None) for name in ("a.zarr", "b.zarr"))
    assert b.attrs["observations"] == a.attrs["observations"]
    for name in a.data_vars:
        assert np.array_equal(a[name], b[name]), name
    assert np.array_equal(a.time, b.time)


@pytest.mark.parametrize("task", ["filter", "forecast"])
def test_other_tasks_on_reports_are_those_on_the_networks(
    world: Path, tmp_path: Path, experiment: dict[str, Any], task: str
) -> None:
    reports = tmp_path / "reports.csv"
    keys = {"model": experiment["model"], "start": experiment["start"], "members": 2}
    keys |= {"sampler": experiment["sampler"]}
    drawn = {**keys, "data": str(world), "networks": experiment["networks"]}
    read = {**keys, "data": None, "networks": network(reports)["networks"]}
    config = tmp_path / "network.yaml"
    config.write_text(yaml.safe_dump(experiment | {"states": 5}))
    arguments = ["network", str(config), "--reports", str(reports), "--seed", "3"]
    assert CliRunner().invoke(app, arguments).exit_code == 0

    def run(settings: dict[str, Any]) -> xr.Dataset:
        if task == "filter":
            own = FilterConfig.model_validate(settings | {"cycles": 2, "states": 4})
            return run_filter(own, seed=3, progress=False)
        observed = {"initial": "observations", "known": 5, "states": 2}
        return run_forecast(
            ForecastConfig.model_validate(settings | observed), seed=3, progress=False
        )

    a, b = run(drawn), run(read)
    assert all(np.array_equal(a[name], b[name]) for name in a.data_vars)


def test_known_states_need_data() -> None:
    config = ForecastConfig(data=None, start="2004-07-01", states=2)
    with pytest.raises(UserError, match="expected `data`, to take the known states from"):
        run_forecast(config, progress=False)


def test_declarations_come_back_from_what_runs_say_of_themselves(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "half_window": "0.5 h",
        "names": {"TT": "temperature"},
        "spacing": "50 km",
    }
    networks = [
        *network(tmp_path / "r.csv", stations=str(tmp_path / "s.csv"), **keys)["networks"],
        *network(tmp_path / "a.nc", "gridded", factor=2, **ANALYSIS)["networks"],
    ]
    found = parse_networks({"networks": networks}, Path())
    text = json.dumps([json.loads(x.model_dump_json()) for x in found])
    assert parse_networks({"networks": json.loads(text)}, Path()) == found
