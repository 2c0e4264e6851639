"""From networks to operators: the right places, channels, units and noise."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import xarray as xr

from appa_prob.appa import Appa
from appa_prob.catalogue import Catalogue
from appa_prob.dataset import open_dataset, read_states
from appa_prob.declaration import parse_networks
from appa_prob.errors import NothingObserved, UserError
from appa_prob.experiment import ReanalysisConfig, load_truth
from appa_prob.generators import time_generators
from appa_prob.grid import Grid
from appa_prob.network import Network
from appa_prob.observe import Observations, observe, observe_truth
from appa_prob.observer import Observer
from appa_prob.statistics import Statistics
from tests.appa_prob.networks import NETWORKS


def draw(
    world: Path, states: int = 4, seed: int = 0, missing: bool = False
) -> tuple[Observations, torch.Tensor, np.ndarray, Catalogue, Grid]:
    dataset = open_dataset(world).isel(time=slice(states))
    catalogue = Catalogue.from_dataset(dataset)
    grid = Grid(dataset.latitude.values, dataset.longitude.values)
    truth, times = read_states(dataset, catalogue)
    if missing:
        truth[1, 0, 2] = float("nan")
    observations = observe(
        parse_networks(NETWORKS, Path()),
        truth,
        times,
        catalogue,
        grid,
        generator=torch.Generator().manual_seed(seed),
        missing="mask" if missing else "refuse",
    )
    return observations, truth, times, catalogue, grid


def test_each_observation_is_the_interpolated_truth_and_its_noise(world: Path) -> None:
    observations, truth, _, catalogue, grid = draw(world)
    field = xr.DataArray(
        np.concatenate((truth.numpy(), truth[..., :1].numpy()), -1),
        dims=("time", "channel", "latitude", "longitude"),
        coords={"latitude": grid.latitude, "longitude": [*grid.longitude, 360.0]},
    )
    inside = np.abs(observations.latitude) < 78.0
    points = {
        "time": observations.time,
        "channel": observations.channel,
    }
    picked = field.isel({k: xr.DataArray(v, dims="n") for k, v in points.items()})
    expected = np.array(
        [
            picked.isel(n=i).interp(latitude=lat, longitude=lon % 360.0).item()
            for i, (lat, lon) in enumerate(
                zip(observations.latitude[:300], observations.longitude[:300], strict=True)
            )
        ]
    )
    exact = observations.operator(truth).numpy()[:300]
    assert np.allclose(exact[inside[:300]], expected[inside[:300]], rtol=1e-5)
    normal = (observations.values - observations.operator(truth)) / observations.errors
    # Six standard errors of the mean and the variance.
    assert abs(float(normal.mean())) < 6 / len(normal) ** 0.5
    assert abs(float(normal.var()) - 1) < 6 * (2 / len(normal)) ** 0.5
    assert {catalogue.channels[i].variable for i in observations.channel} == {
        "temperature",
        "surface_pressure",
    }


def test_errors_are_in_the_units_of_the_data(world: Path) -> None:
    observations, _, _, catalogue, _ = draw(world)
    pressure = observations.channel == catalogue.index("surface_pressure")
    assert set(observations.errors[torch.tensor(pressure)].tolist()) == {100.0}
    low = torch.tensor(observations.channel == catalogue.index("temperature", 0.95))
    high = torch.tensor(observations.channel == catalogue.index("temperature", 0.5))
    assert set(observations.errors[low].tolist()) == {0.5, 2.0}
    assert set(observations.errors[high].tolist()) == {3.0}


def test_the_observations_of_one_state_are_those_of_the_trajectory(world: Path) -> None:
    observations, truth, times, _, _ = draw(world)
    here = observations.at(2)
    chosen = torch.tensor(observations.time == 2)
    assert torch.equal(here.operator(truth[2]), observations.operator(truth)[chosen])
    statistics = Statistics.fit(truth, times, torch.ones(8), harmonics=0)
    whole = observations.standardised(statistics, times)
    part = here.standardised(statistics, times[2:3])
    torch.testing.assert_close(part[0], whole[0][chosen])
    torch.testing.assert_close(part[1], whole[1][chosen])


def test_standardised_observations_are_those_of_standardised_states(world: Path) -> None:
    observations, truth, times, _, _ = draw(world)
    statistics = Statistics.fit(truth, times, torch.ones(8), harmonics=0)
    y, variance = observations.standardised(statistics, times)
    exact = observations.operator(statistics.standardise(truth, times))
    normal = (y - exact) / variance.sqrt()
    physical = (observations.values - observations.operator(truth)) / observations.errors
    torch.testing.assert_close(normal, physical, rtol=1e-3, atol=1e-2)
    error = torch.full((5, 8, 16), 0.5)
    _, wider = observations.standardised(statistics, times, error)
    torch.testing.assert_close(wider, variance + 0.25)


def test_observed_points_are_those_that_observations_depend_on(world: Path) -> None:
    observations, truth, _, _, _ = draw(world)
    seen = torch.from_numpy(observations.observed())
    assert 0 < int(seen.sum()) < seen.numel()
    noise = torch.randn(truth.shape) * ~seen
    torch.testing.assert_close(observations.operator(truth + noise), observations.operator(truth))


def test_observations_that_are_not_finite_are_left_out_and_counted(world: Path) -> None:
    whole, *_ = draw(world)
    kept, *_ = draw(world, missing=True)
    assert kept.masked > 0 and len(kept) + kept.masked == len(whole)
    assert bool(torch.isfinite(kept.values).all())


def test_a_truth_of_nothing_but_nan_is_refused(world: Path) -> None:
    dataset = open_dataset(world).isel(time=slice(2))
    catalogue = Catalogue.from_dataset(dataset)
    grid = Grid(dataset.latitude.values, dataset.longitude.values)
    truth, times = read_states(dataset, catalogue)
    with pytest.raises(UserError, match="no observation is finite"):
        observe(
            parse_networks(NETWORKS, Path()),
            truth * float("nan"),
            times,
            catalogue,
            grid,
            generator=torch.Generator(),
            missing="mask",
        )


def test_a_part_of_a_trajectory_is_observed_as_it_is_in_the_whole(
    world: Path, tmp_path: Path
) -> None:
    _, truth, times, catalogue, grid = draw(world, states=9)
    # Times at which no network observes, reports that are nearer to a state outside, and a file
    # that lacks a time.
    rows = [f"2003-06-01T{h:02d}:40,10.0,{h},temperature,{270 + h}" for h in (0, 2, 9, 11, 14, 23)]
    (tmp_path / "reports.csv").write_text(
        "time,latitude,longitude,variable,value\n" + "".join(f"{row}\n" for row in rows)
    )
    open_dataset(world).isel(time=[1, 5]).to_netcdf(tmp_path / "some.nc", engine="h5netcdf")
    shared = {"variables": ["temperature"], "error": {"temperature": "1 K"}}
    declared = {
        "networks": [
            {"network": "stations", "times": {"every": 4}, **shared},
            {"network": "satellite", "satellites": ["NOAA-20"], "times": [0, 12], **shared},
            {
                "network": "reports",
                "file": str(tmp_path / "reports.csv"),
                "half_window": "4 h",
                "times": [0, 6],
                **shared,
            },
            {"network": "gridded", "file": str(tmp_path / "some.nc"), **shared},
        ]
    }
    networks = parse_networks(declared, Path())

    def seen(within: range | None) -> Observations:
        chosen = times if within is None else times[within.start : within.stop]
        sources = time_generators(0, chosen)
        return observe(networks, truth, times, catalogue, grid, generator=sources, within=within)

    whole = seen(None)
    for within in (range(0, 3), range(2, 6), range(5, 6), range(4, 9)):
        expected, found = whole.within(within.start, within.stop), seen(within)
        assert len(found) == len(expected) > 0
        # Where networks observe nothing there is less to pad their sums with.
        states = truth[within.start : within.stop]
        torch.testing.assert_close(found.operator(states), expected.operator(states))
        for name in ("values", "errors", "biases"):
            torch.testing.assert_close(
                getattr(found, name), getattr(expected, name), rtol=0, atol=0
            )
        for name in ("time", "channel", "latitude", "longitude"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    with pytest.raises(NothingObserved, match="none of the times"):
        seen(range(3, 4))
    assert len(whole) > len(seen(range(0, 3)))


def test_an_observer_gives_what_all_at_once_would(experiment: dict[str, Any]) -> None:
    """Some states at a time, in any order, and one after the other."""
    config = ReanalysisConfig.model_validate(experiment | {"states": 9})
    appa = Appa.from_pretrained(config.model)
    truth, times = load_truth(config, appa)
    whole = observe_truth(appa, config.networks, truth, times, 3)
    observer = Observer(appa, config.networks, truth, times, 3, at_once=4)

    def same(a: Observations, b: Observations) -> bool:
        order = [np.lexsort((o.operator.indices[:, 0], o.channel, o.time)) for o in (a, b)]
        return all(
            np.array_equal(np.asarray(x)[order[0]], np.asarray(y)[order[1]])
            for x, y in (
                (a.values, b.values),
                (a.errors, b.errors),
                (a.time, b.time),
                (a.operator.indices, b.operator.indices),
                (a.operator.weights, b.operator.weights),
            )
        )

    for start, stop in ((0, 9), (5, 9), (2, 3), (0, 4)):
        assert same(observer.within(start, stop), whole.within(start, stop))
    for state in (8, 0, 1, 5):
        assert same(observer.at(state), whole.at(state))
    assert observer.counts == whole.counts
    assert observer.digest == Observer(appa, config.networks, truth, times, 3, at_once=4).digest
    assert observer.digest != Observer(appa, config.networks, truth, times, 4, at_once=4).digest


def test_an_observer_tells_of_networks_that_see_nothing(
    experiment: dict[str, Any], tmp_path: Path
) -> None:
    """A window without reports is nothing to worry about; a network without any is."""
    path, appa = tmp_path / "reports.csv", Appa.from_pretrained(experiment["model"])
    config = ReanalysisConfig.model_validate(experiment | {"states": 9})
    times = load_truth(config, appa)[1]
    place = "12.0,40.0,temperature,0.95,281.0,1.0"
    rows = [f"{np.datetime_as_string(times[1], unit='m')},{place}"]
    header = "time,latitude,longitude,variable,level,value,error"
    path.write_text("\n".join([header, *rows]) + "\n")
    networks = parse_networks({"networks": [{"network": "reports", "file": str(path)}]}, Path())
    observer = Observer(appa, networks, None, times, 0, at_once=3)
    assert observer.counts["observations"] == len(observer.within(0, 3)) == 1
    assert len(observer.within(3, 6)) == 0
    with pytest.raises(NothingObserved):
        observer.within(6, 9, required=True)
    with pytest.raises(NothingObserved, match="observes nothing of these states"):
        _ = Observer(appa, networks, None, times[2:], 0, at_once=3).counts

    parts = Observer(appa, networks, None, times, 0, at_once=3)
    assert len(parts.at(1)) == 1 and len(parts.at(8)) == 0
    low = header + "\n" + rows[0].replace(",0.95,", ",0.5,")
    late = f"{np.datetime_as_string(times[4], unit='m')},{place}"
    path.write_text(f"{low}\n{late}\n")
    declared = {"network": "reports", "file": str(path), "levels": [0.95]}
    networks = parse_networks({"networks": [declared]}, Path())
    assert Observer(appa, networks, None, times, 0, at_once=3).counts["observations"] == 1

    class Blind:
        label = "blind"

        def locate(self, *arguments: Any) -> None:
            raise NothingObserved("nothing here")

    both = (*networks, cast(Network, Blind()))
    with pytest.raises(NothingObserved, match='network "blind" observes nothing'):
        _ = Observer(appa, both, None, times, 0, at_once=3).counts
