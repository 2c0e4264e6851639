"""States that are read as they are asked for, from stores as WeatherBench 2 has them."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

import appa_prob.train_autoencoder as train_autoencoder_module
from appa_prob.catalogue import Catalogue
from appa_prob.cli import app, read_config
from appa_prob.dataset import open_dataset, read_states
from appa_prob.errors import UserError
from appa_prob.loading import Steps, epoch_order, read_ahead
from appa_prob.moments import SeasonalMoments
from appa_prob.parallel import process_group, rank
from appa_prob.seasons import seasonal_basis
from appa_prob.states import Period, StandardisedStates, States, streamed_statistics
from appa_prob.statistics import Statistics
from appa_prob.train_autoencoder import AutoencoderConfig, read_statistics, train_autoencoder
from appa_prob.training import TrainingConfig
from tests.appa_prob.era5_store import VARIABLES, era5_like

JANUARY = Period(start="2020-01-03", stop="2020-01-08")


def write(dataset: xr.Dataset, path: Path | str, time: int) -> None:
    """Writes a store with some times in a chunk."""
    encoding = {
        name: {"chunks": tuple(time if d == "time" else array.sizes[d] for d in array.dims)}
        for name, array in dataset.data_vars.items()
    }
    dataset.to_zarr(path, encoding=encoding, zarr_format=2)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same states with 1 and with 7 times in a chunk."""
    folder = tmp_path_factory.mktemp("stores")
    paths = {time: folder / f"{time}.zarr" for time in (1, 7)}
    for time, path in paths.items():
        write(era5_like(), path, time)
    return paths


def states(path: Path | str, **options: object) -> States:
    return States(path, JANUARY, VARIABLES, partial=["sea_surface_temperature"], **options)  # type: ignore[arg-type]


def in_memory(path: Path) -> Tensor:
    dataset = open_dataset(path)
    catalogue = Catalogue.from_dataset(dataset, VARIABLES)
    period = dataset.sel(time=slice(JANUARY.start, JANUARY.stop))
    return read_states(period, catalogue, allow_missing=True)[0]


@pytest.mark.parametrize("time", [1, 7])
def test_any_states_are_those_of_the_store(stores: dict[int, Path], time: int) -> None:
    found, expected = states(stores[time], keep=2), in_memory(stores[time])
    assert found.block == time and len(found) == len(expected) == 24
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for indices in (*torch.split(order, 5), torch.tensor([3, 3, 1]), torch.arange(24)):
        torch.testing.assert_close(found[indices], expected[indices], equal_nan=True)
    parts = list(found.parts(size=4))
    assert torch.equal(torch.cat(parts), torch.arange(24)) and max(map(len, parts)) <= 4
    assert torch.equal(torch.cat(list(found.parts(range(5, 19)))), torch.arange(5, 19))


def test_layouts_of_low_and_of_high_resolution_are_the_same_states(tmp_path: Path) -> None:
    first = era5_like(states=5)
    other = era5_like(states=5, dims=("time", "latitude", "longitude", "level"))
    write(first, tmp_path / "a.zarr", 1)
    write(other.isel(latitude=slice(None, None, -1)), tmp_path / "b.zarr", 2)
    a, b = (States(tmp_path / name, Period(), VARIABLES) for name in ("a.zarr", "b.zarr"))
    a.partial = b.partial = ("sea_surface_temperature",)
    every = torch.arange(5)
    assert a.grid.latitude[0] < 0 < b.grid.latitude[0]
    torch.testing.assert_close(a[every], b[every].flip(-2), equal_nan=True, rtol=0, atol=0)
    assert [c.units for c in a.catalogue.channels[:3]] == ["K", "K", "m**2 s**-2"]


def test_names_of_the_climate_data_store_are_understood(tmp_path: Path) -> None:
    names = {
        "time": "valid_time",
        "level": "pressure_level",
        "latitude": "lat",
        "longitude": "lon",
    }
    era5_like(states=2).rename(names).to_netcdf(tmp_path / "a.nc")
    found = States(tmp_path / "a.nc", Period(), ["temperature"], [850, 500])
    assert found.catalogue.levels("temperature") == (850.0, 500.0)
    expected = era5_like(states=2).temperature.sel(level=[850, 500]).transpose(..., "longitude")
    assert np.array_equal(found[torch.arange(2)], expected)


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_urls_are_read_as_paths_are(stores: dict[int, Path], protocol: str) -> None:
    url = f"file://{stores[1]}"
    if protocol == "memory":
        url = "memory://test_states.zarr"
        write(era5_like(), url, 1)
    found, every = states(url), torch.arange(24)
    torch.testing.assert_close(found[every], in_memory(stores[1]), equal_nan=True)
    fsspec.filesystem("memory").store.clear()


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of a folder, and the paths that it is asked for."""
    pytest.importorskip("aiohttp")
    pytest.importorskip("requests")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *values: Any) -> None:
            asked.append(self.path)

    handler = partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


def test_a_server_is_asked_for_no_more_than_what_is_read(stores: dict[int, Path]) -> None:
    with served(stores[1].parent) as (address, asked):
        far = states(f"{address}/{stores[1].name}")
        near = in_memory(stores[1])
        first, asked[:] = len(asked), []
        assert first > 0
        torch.testing.assert_close(far[torch.tensor([4, 2])], near[[4, 2]], equal_nan=True)
    chunks = {path for path in asked if re.search(r"/temperature/[0-9]", path)}
    assert {int(re.split(r"[/.]", path)[-4]) for path in chunks} == {far.first + 2, far.first + 4}


def test_what_a_cache_has_read_once_is_not_asked_for_again(
    stores: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "simplecache", {"cache_storage": str(tmp_path)})
    with served(stores[1].parent) as (address, asked):
        far = states(f"simplecache::{address}/{stores[1].name}")
        near = in_memory(stores[1])
        for places in ([4, 2], [2, 4]):
            torch.testing.assert_close(far[torch.tensor(places)], near[places], equal_nan=True)
        # As a worker reads it.
        copy = pickle.loads(pickle.dumps(far))
        torch.testing.assert_close(copy[torch.tensor([5, 4])], near[[5, 4]], equal_nan=True)
    gets = Counter(path for path in asked if re.search(r"/temperature/[0-9]", path))
    assert len(gets) == 3 and len(set(gets.values())) == 1, gets


def test_only_what_is_asked_for_is_read(
    stores: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    inner = States._read

    def counted(self: States, places: slice | np.ndarray[Any, Any]) -> Tensor:
        found = inner(self, places)
        read.append(len(found))
        return found

    monkeypatch.setattr(States, "_read", counted)
    found = states(stores[1])
    assert not read
    assert len(found[torch.tensor([4, 2, 4])]) == 3 and read == [2]
    # The period begins with the second state of the second chunk of 7.
    found, read[:] = states(stores[7], keep=3), []
    generator = torch.Generator().manual_seed(0)
    order = epoch_order(len(found), generator, found.block, pool=2)
    for indices in torch.split(order, 2):
        found[indices]
    assert sum(read) <= 3 * 24 // 2 and max(read) == 7


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://a.zarr", "can't be read as zarr or netCDF: Protocol not known: nowhere"),
        ("memory://nothing.zarr", "can't be read as zarr or netCDF: No group found"),
    ],
)
def test_urls_that_lead_nowhere_are_refused(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset(url)


def test_packages_of_object_stores_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"needs a package that is not installed: .*gcsfs"):
        open_dataset("gs://weatherbench2/datasets/era5/a.zarr")


def test_constants_are_no_states_and_unknown_levels_are_refused(stores: dict[int, Path]) -> None:
    every = States(stores[1], JANUARY)
    assert "land_sea_mask" not in every.catalogue.variables
    assert len(every.catalogue.channels) == 4 + 3 * 3
    with pytest.raises(UserError, match='level of geopotential "501"; did you mean'):
        States(stores[1], JANUARY, VARIABLES, [501])
    with pytest.raises(UserError, match="states hold values that are not finite"):
        States(stores[1], JANUARY, VARIABLES)[torch.arange(1)]


def test_readers_go_to_other_processes_without_what_they_keep(stores: dict[int, Path]) -> None:
    found = states(stores[7])
    found[torch.arange(24)]
    copy = pickle.dumps(found)
    assert len(copy) < 10_000
    torch.testing.assert_close(
        pickle.loads(copy)[torch.arange(3)], found[torch.arange(3)], equal_nan=True
    )


def test_workers_give_what_the_process_reads_itself(stores: dict[int, Path]) -> None:
    source = states(stores[7])
    items = StandardisedStates(source, streamed_statistics(source, 0), cache=False)
    steps = Steps(len(items), 6, 2, 9, seed=3, block=items.block, pool=2)
    alone, helped = (
        list(read_ahead(items, steps, slice(2, 6), workers=workers, ahead=2)) for workers in (0, 2)
    )
    assert len(alone) == len(helped) == 7
    for (a, x), (b, y) in zip(alone, helped, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y) and len(x) == 4


@pytest.mark.parametrize("block", [1, 5])
def test_order_depends_on_seed_epoch_and_step_only(block: int) -> None:
    def steps(first: int, seed: int = 0) -> list[Tensor]:
        return list(Steps(23, 4, first, 17, seed, block, pool=2))

    whole = steps(0)
    for first in (1, 5, 12, 16):
        rest = steps(first)
        assert all(torch.equal(a, b) for a, b in zip(whole[first:], rest, strict=True))
    for epoch in range(3):
        seen = torch.cat(whole[5 * epoch : 5 * epoch + 5])
        assert len(set(seen.tolist())) == 20
    assert not torch.equal(torch.cat(whole[:5]), torch.cat(whole[5:10]))
    assert not torch.equal(torch.cat(whole), torch.cat(steps(0, seed=1)))


def exact(x: Tensor, times: NDArray[np.datetime64], harmonics: int) -> tuple[Tensor, Tensor]:
    """The coefficients and the mean squares of residuals by QR, in double precision."""
    basis = seasonal_basis(times, harmonics).double()
    y = x.double().flatten(1)
    fitted = torch.linalg.lstsq(basis, y).solution
    square = (y - basis @ fitted).square().mean(0)
    return fitted.reshape(-1, *x.shape[1:]), square.reshape(x.shape[1:])


@pytest.mark.parametrize("harmonics", [0, 2])
def test_moments_in_parts_are_those_of_all_states_at_once(harmonics: int) -> None:
    times = np.datetime64("2001-03-01T00") + np.arange(1500) * np.timedelta64(6, "h")
    generator = torch.Generator().manual_seed(0)
    # Geopotential: what varies is small beside the mean.
    x = 4e5 + 50 * torch.randn(1500, 2, 3, 4, generator=generator)
    moments = SeasonalMoments((2, 3, 4), harmonics)
    for part in torch.split(torch.arange(1500), 37):
        moments.add(x[part], times[part.numpy()])
    for found, expected in zip(moments.fit(), exact(x, times, harmonics), strict=True):
        scale = 1.0 if found.ndim == 3 else 4e5  # of coefficients, beside the mean
        torch.testing.assert_close(found / scale, expected / scale, rtol=1e-10, atol=1e-10)


def test_statistics_are_taken_once_by_a_command(
    stores: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "autoencoder.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "data": str(stores[7]),
                "train": {"stop": "2020-01-08"},
                "validation": {"start": "2020-01-09"},
                "variables": ["temperature"],
                "harmonics": 0,
                "latent_channels": 1,
                "widths": [4],
                "blocks": [1],
                "training": {"steps": 1, "batch_size": 4, "learning_rate": 1e-3},
            }
        )
    )
    command = ["train", "statistics", str(config), "-o", str(tmp_path / "run")]
    assert CliRunner().invoke(app, command).exit_code == 0
    first = (tmp_path / "run" / "statistics.safetensors").read_bytes()
    monkeypatch.setattr(train_autoencoder_module, "streamed_statistics", None)
    read_statistics(read_config(AutoencoderConfig, config), tmp_path / "run")
    assert (tmp_path / "run" / "statistics.safetensors").read_bytes() == first
    config.write_text(config.read_text().replace("2020-01-08", "2020-01-07"))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "holds the statistics of other data" in result.output


def test_too_short_a_period_for_harmonics_is_refused() -> None:
    moments = SeasonalMoments((1, 1, 1), 2)
    moments.add(torch.ones(3, 1, 1, 1), np.datetime64("2001-03-01") + np.arange(3))
    with pytest.raises(UserError, match="3 states don't tell 2 harmonics"):
        moments.fit()


def test_statistics_of_a_stream_are_those_in_memory(stores: dict[int, Path]) -> None:
    source, x = states(stores[7]), in_memory(stores[7])
    found = streamed_statistics(source, 0)
    weights = torch.as_tensor(source.grid.weights)
    whole = Statistics.fit(x, source.times, weights, 0)
    torch.testing.assert_close(found.coefficients, whole.coefficients, equal_nan=True)
    torch.testing.assert_close(found.scale, whole.scale)
    sea = source.catalogue.index("sea_surface_temperature")
    assert found.partial is not None and found.partial.nonzero().item() == sea
    here = ~x[:, sea].isnan().any(0)
    anomalies = (x[:, sea] - x[:, sea].mean(0)).double().square().mean(0)
    rows = weights.unsqueeze(-1).expand_as(anomalies)[here]
    expected = ((anomalies[here] * rows).sum() / rows.sum()).sqrt()
    assert float(found.scale[sea]) == pytest.approx(float(expected), rel=1e-6)
    y = StandardisedStates(source, found, cache=False)[torch.arange(24)]
    assert y.isfinite().all() and not y[:, sea, ~here].any()


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "is absent at some time"), (273.15, "does not vary")]
)
def test_channels_that_say_nothing_are_refused(tmp_path: Path, value: float, message: str) -> None:
    dataset = era5_like(states=5)
    field = dataset["sea_surface_temperature"]
    # As accumulated variables are at the first time.
    dataset["sea_surface_temperature"] = field.where(dataset.time > dataset.time[0], value)
    if np.isfinite(value):
        dataset["sea_surface_temperature"][:] = value
    write(dataset, tmp_path / "a.zarr", 1)
    source = States(tmp_path / "a.zarr", Period(), VARIABLES, partial=["sea_surface_temperature"])
    with pytest.raises(UserError, match=f"sea_surface_temperature {message}"):
        streamed_statistics(source, 0)


class Endless:
    """States that are made as they are read, for a measurement of memory."""

    partial: tuple[str, ...] = ()

    def __init__(self, count: int) -> None:
        self.times = np.datetime64("2000-01-01") + np.arange(count)
        self.count, self.shape = count, (8, 181, 360)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.ones(len(indices), *self.shape) * indices.reshape(-1, 1, 1, 1)

    def moments(self) -> SeasonalMoments:
        moments = SeasonalMoments(self.shape, 1)
        for start in range(0, self.count, 4):
            part = torch.arange(start, min(start + 4, self.count))
            moments.add(self[part], self.times[part.numpy()])
        return moments


def test_memory_does_not_grow_with_the_length() -> None:
    code = (
        "import resource, sys; from tests.appa_prob.test_states import Endless;"
        "Endless(int(sys.argv[1])).moments();"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (16, 160):  # states of 2 MB each
        command = [sys.executable, "-c", code, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 32, peaks  # of 300 MB of states more


def test_ranks_share_the_pass_through_the_data(
    stores: dict[int, Path],
    tmp_path: Path,
    ranks: Callable[[int, list[str]], list[subprocess.Popen[bytes]]],
) -> None:
    command = [sys.executable, "-m", "tests.appa_prob.test_states", str(stores[7]), str(tmp_path)]
    assert [process.wait(120) for process in ranks(2, command)] == [0, 0]
    found = json.loads((tmp_path / "found.json").read_text())
    coefficients, square = whole_moments(states(stores[7])).fit()
    torch.testing.assert_close(
        torch.tensor(found["coefficients"], dtype=torch.float64),
        coefficients,
        rtol=1e-12,
        atol=1e-12,
        equal_nan=True,
    )
    squares = torch.tensor(found["square"], dtype=torch.float64)
    torch.testing.assert_close(squares, square, rtol=1e-10, atol=0, equal_nan=True)


def whole_moments(source: States, indices: range | None = None) -> SeasonalMoments:
    moments = SeasonalMoments(source.shape, 0)
    for part in source.parts(indices):
        moments.add(source[part], source.times[part.numpy()])
    return moments


def test_an_autoencoder_trains_lazily_on_a_store_of_era5(
    stores: dict[int, Path], tmp_path: Path
) -> None:
    def train(name: str, cache: bool, workers: int) -> tuple[dict[str, Tensor], list[float]]:
        config = AutoencoderConfig(
            data=f"file://{stores[1]}",
            train=JANUARY,
            validation=Period(start="2020-01-09"),
            variables=VARIABLES,
            levels=(850, 500),
            partial=("sea_surface_temperature",),
            cache=cache,
            harmonics=0,
            latent_channels=2,
            widths=(4,),
            blocks=(1,),
            training=TrainingConfig(
                steps=6, batch_size=4, learning_rate=1e-3, validate_every=3, workers=workers
            ),
        )
        module = train_autoencoder(config, tmp_path / name, progress=False)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return dict(module.state_dict()), [json.loads(line)["loss"] for line in lines]

    memory, losses = train("memory", True, 0)
    lazy, found = train("lazy", False, 1)
    assert found == losses and losses[1] != losses[0]
    assert all(torch.equal(lazy[name], value) for name, value in memory.items())


if __name__ == "__main__":
    with process_group():
        source = states(sys.argv[1])
        half = range(10) if rank() == 0 else range(10, 24)
        coefficients, square = whole_moments(source, half).over_ranks().fit()
        if rank() == 0:
            text = json.dumps({"coefficients": coefficients.tolist(), "square": square.tolist()})
            (Path(sys.argv[2]) / "found.json").write_text(text)
