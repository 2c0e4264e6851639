"""Members and windows spread over ranks: several give what one gives, and go on when killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import Tensor

from appa_prob import run as run_module
from appa_prob.cli import read_config
from appa_prob.errors import UserError
from appa_prob.experiment import ReanalysisConfig, run_reanalysis
from appa_prob.files import load_tensors, save_tensors
from appa_prob.filtering import FilterConfig, run_filter
from appa_prob.forecast import ForecastConfig, run_forecast
from appa_prob.mesh import Mesh, ParallelConfig
from appa_prob.parallel import process_group, rank
from appa_prob.parallel import ranks as ranks_of_all
from appa_prob.reconstruction_error import ReconstructionError
from appa_prob.sample import SampleConfig, run_sample
from appa_prob.stream import StateStore

Config = dict[str, Any]
Start = Callable[[int, list[str]], list[subprocess.Popen[bytes]]]

TASKS: dict[str, tuple[Any, Any]] = {
    "sample": (SampleConfig, run_sample),
    "forecast": (ForecastConfig, run_forecast),
    "observed": (ForecastConfig, run_forecast),
    "together": (ForecastConfig, run_forecast),
    "filter": (FilterConfig, run_filter),
    "reanalyse": (ReanalysisConfig, run_reanalysis),
    "blocks": (ReanalysisConfig, run_reanalysis),
}


@pytest.fixture(scope="module")
def configs(world: Path, tiny_model: Path) -> dict[str, Config]:
    """Tasks in the tiny world, with windows of 4 states every 2, and 3 members."""
    stations = {
        "network": "stations",
        "variables": ["temperature", "surface_pressure"],
        "error": {"temperature": "0.5 K", "surface_pressure": "1 hPa"},
    }
    shared: Config = {
        "model": str(tiny_model),
        "start": "2003-07-03T00",
        "members": 3,
        "sampler": {"steps": 3, "iterations": 2},
    }
    observed = shared | {"data": str(world), "networks": [stations]}
    rollout = {"overlap": 2, "block": 8}
    forecast = shared | {"data": str(world), "known": 2, "states": 10, "rollout": rollout}
    start = {"initial": "observations", "networks": [stations], "known": 7}
    return {
        "sample": shared | {"states": 30, "rollout": rollout},
        "forecast": forecast,
        "observed": forecast | start,
        "together": forecast | start | {"together": True},
        "filter": observed
        | {"cycles": 3, "every": 3, "states": 6, "overlap": 3, "quality_control": 2.5},
        "reanalyse": observed
        | {
            "states": 9,
            "baselines": None,
            "sampler": shared["sampler"] | {"batch": 1, "windows_at_once": 1, "states_at_once": 2},
        },
        "blocks": observed
        | {
            "states": 20,
            "baselines": None,
            "blocks": {"states": 8, "overlap": 2, "lookahead": 2},
            "sampler": shared["sampler"] | {"batch": 1},
        },
    }


class Fatal(StateStore):
    """A store that kills the last rank after two parts."""

    def append(self, *arguments: Any) -> None:
        super().append(*arguments)
        if self.done > 10 and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def work(folder: Path, configs: dict[str, Config], fatal: bool) -> None:
    """What each rank does."""
    if fatal:
        setattr(run_module, "StateStore", Fatal)  # noqa: B010
    with process_group():
        for name, config in configs.items():
            kind, task = TASKS[name]
            task(kind.model_validate(config), folder / f"{name}.zarr", progress=False)
        if not fatal:
            config = {**configs["sample"], "states": 3}
            held = run_sample(SampleConfig.model_validate(config), progress=False)
            held.to_netcdf(folder / f"held-{rank()}.nc", engine="h5netcdf")
            save_tensors(folder / f"errors-{rank()}.safetensors", errors(), {})


def errors() -> dict[str, Tensor]:
    """A product with the covariance of errors with a memory, and errors drawn from the law, of the
    piece of this rank."""
    latitude = torch.tensor([60.0, 10.0, -20.0, -70.0]).double()
    power = torch.tensor([[0.5, 0.3], [0.2, 0.1]]).double()
    law = ReconstructionError(torch.ones(2, 1, 1).double(), power, 0.8, latitude, 6)
    mesh = Mesh.of(ParallelConfig(windows=ranks_of_all()))
    bounds = [0, 5, 6, 8, 9] if mesh.windows == 4 else [0, 5, 9]
    piece = slice(*(bounds[mesh.column : mesh.column + 2] if mesh.windows > 1 else (0, 9)))
    x = torch.randn(9, 2, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    generators = [torch.Generator().manual_seed(i) for i in range(9)][piece]
    before, length = x[0], len(generators)
    first = mesh.column == 0
    drawn, last = law.sample(length, generators, before, mesh=mesh, first=first)
    known = law.covariance(length, mesh, known=piece.start)(x[piece])
    return {
        "product": law.covariance(length, mesh)(x[piece]),
        "known": known,
        "drawn": drawn,
        "last": last,
    }


def command(folder: Path, configs: dict[str, Config], *options: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    return [sys.executable, __file__, str(folder), json.dumps(configs), *options]


def ends(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    return [process.wait(240) for process in processes]


@pytest.fixture(scope="module")
def results(
    configs: dict[str, Config], ranks: Start, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What one rank finds, two ranks, and four of which two share the windows."""
    folder = tmp_path_factory.mktemp("results")
    two = ranks(2, command(folder / "two", configs))
    shared = {k: config | {"parallel": {"windows": 2}} for k, config in configs.items()}
    four = ranks(4, command(folder / "four", shared))
    (folder / "one").mkdir()
    work(folder / "one", configs, fatal=False)
    assert ends(two) == [0] * 2 and ends(four) == [0] * 4
    return folder


def stored(path: Path) -> xr.Dataset:
    dataset: xr.Dataset = xr.open_zarr(path, chunks=None).load()
    return dataset


@pytest.mark.parametrize("several", ["two", "four"])
@pytest.mark.parametrize("task", TASKS)
def test_ranks_give_what_one_gives(results: Path, task: str, several: str) -> None:
    expected, found = (stored(results / which / f"{task}.zarr") for which in ("one", several))
    assert np.isfinite(expected.to_array()).all()
    assert abs(expected.temperature.diff("member")).mean() > 0.1
    assert expected.attrs == found.attrs
    # Single precision of 280 K, and of sums in another order.
    xr.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-3)
    if task == "reanalyse":
        one, other = (pd.read_csv(results / w / "reanalyse.csv") for w in ("one", several))
        pd.testing.assert_frame_equal(one, other, rtol=1e-4)
        assert one["crps"].notna().all()


@pytest.mark.parametrize("several", ["two", "four"])
def test_all_ranks_hold_what_is_not_written(results: Path, several: str) -> None:
    expected = xr.load_dataset(results / "one" / "held-0.nc")
    held = sorted((results / several).glob("held-*.nc"))
    assert len(held) == {"two": 2, "four": 4}[several]
    for path in held:
        xr.testing.assert_allclose(xr.load_dataset(path), expected, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("several", ["two", "four"])
def test_errors_with_a_memory_are_those_of_the_whole_trajectory(
    results: Path, several: str
) -> None:
    expected, _ = load_tensors(results / "one" / "errors-0.safetensors")
    files = sorted((results / several).glob("errors-*"))
    found = [load_tensors(path)[0] for path in files]
    for name in ("product", "known", "drawn"):
        whole = torch.cat([part[name] for part in found])
        torch.testing.assert_close(whole, expected[name], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[-1]["last"], expected["last"], rtol=1e-12, atol=1e-12)


def test_one_rank_that_dies_ends_all_and_any_number_goes_on(
    results: Path, tmp_path: Path, configs: dict[str, Config], ranks: Start
) -> None:
    config = {"sample": configs["sample"]}
    codes = ends(ranks(2, command(tmp_path / "same", config, "fatal")))
    assert codes[1] == -signal.SIGKILL and codes[0] != 0
    partial = tmp_path / "same" / ".sample.zarr.partial"
    assert load_tensors(partial / "progress.safetensors")[1]["done"] == 14
    shutil.copytree(tmp_path / "same", tmp_path / "other")
    same = ranks(2, command(tmp_path / "same", config))
    shared = {"sample": configs["sample"] | {"parallel": {"windows": 2}}}
    assert ends(ranks(2, command(tmp_path / "other", shared))) == ends(same) == [0, 0]
    expected = stored(results / "two" / "sample.zarr")
    xr.testing.assert_identical(stored(tmp_path / "same" / "sample.zarr"), expected)
    found = stored(tmp_path / "other" / "sample.zarr")
    xr.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-3)


def test_ranks_without_work_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a divisor of the number of ranks, 1, got 2"):
        Mesh.of(ParallelConfig(windows=2))
    with pytest.raises(UserError, match="a member for each of 3 ranks"):
        Mesh(rows=3, row=1).members(2)
    assert [list(Mesh(3, row).members(4)) for row in range(3)] == [[0], [1], [2, 3]]
    path = tmp_path / "sample.yaml"
    path.write_text("start: '2004-01-01'\nstates: 3\nparallel: {windows: 0}\n")
    with pytest.raises(UserError, match=r"parallel\.windows"):
        read_config(SampleConfig, path)


if __name__ == "__main__":
    work(Path(sys.argv[1]), json.loads(sys.argv[2]), fatal="fatal" in sys.argv)
