"""Quality control in tasks: gross errors that are planted in reports are refused, others kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from typer.testing import CliRunner

from appa_prob import run as run_module
from appa_prob.cli import app
from appa_prob.experiment import ReanalysisConfig, run_reanalysis
from appa_prob.filtering import FilterConfig, run_filter
from appa_prob.stream import StateStore

Config = dict[str, Any]


@pytest.fixture
def reports(tmp_path: Path, experiment: Config) -> pd.DataFrame:
    """What stations report in 8 states."""
    config = experiment | {"states": 8, "networks": experiment["networks"][:1]}
    path = tmp_path / "drawn.yaml"
    path.write_text(yaml.safe_dump(config))
    command = ["network", str(path), "--reports", str(tmp_path / "reports.csv")]
    assert CliRunner().invoke(app, command).exit_code == 0
    return pd.read_csv(tmp_path / "reports.csv")


def planted(reports: pd.DataFrame, path: Path, **places: float) -> Path:
    """The reports with an error, in K, in one of temperature at each of some states."""
    table = reports.copy()
    times = sorted(table["time"].unique())
    for place, error in places.items():
        here = (table["time"] == times[int(place[1:])]) & (table["variable"] == "temperature")
        table.loc[table.index[here][3], "value"] += error
    table.to_csv(path, index=False)
    return path


def cycled(experiment: Config, path: Path, **keys: Any) -> FilterConfig:
    shared = {name: experiment[name] for name in ("model", "start")}
    cycles = {"cycles": 3, "every": 2, "states": 4, "members": 3, "overlap": 2}
    own = {"networks": [{"network": "reports", "file": str(path)}], "sampler": {"steps": 4}}
    config = shared | cycles | own | {"data": None, "quality_control": 8.0} | keys
    return FilterConfig.model_validate(config)


def test_a_filter_refuses_what_the_cycle_before_did_not_forecast(
    tmp_path: Path,
    experiment: Config,
    reports: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = planted(reports, tmp_path / "good.csv")
    clean = run_filter(cycled(experiment, good), progress=False)
    assert clean.attrs["rejected_observations"] == [0, 0, 0] and not caplog.records
    # In the first window, once in the second cycle, which sees it, and twice in the third.
    gross = planted(reports, tmp_path / "gross.csv", s1=90.0, s4=60.0, s6=-60.0, s7=60.0)
    with caplog.at_level(logging.WARNING):
        found = run_filter(cycled(experiment, gross), progress=False)
    assert found.attrs["rejected_observations"] == [1, 1, 2]
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0].startswith("cycle 1: 1 of ") and texts[2].startswith("cycle 3: 2 of ")
    # Without them all is as if they had not been reported.
    left = pd.read_csv(gross)
    left = left[(pd.read_csv(gross)["value"] - pd.read_csv(good)["value"]).abs() < 1.0]
    left.to_csv(tmp_path / "left.csv", index=False)
    without = run_filter(cycled(experiment, tmp_path / "left.csv"), progress=False)
    xr.testing.assert_allclose(found, without, rtol=0.0, atol=0.5)
    taken = run_filter(cycled(experiment, gross, quality_control=None), progress=False)
    assert float(abs(taken.temperature - without.temperature).max()) > 3.0

    class Failing(StateStore):
        def append(self, *arguments: Any) -> None:
            super().append(*arguments)
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "StateStore", Failing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_filter(cycled(experiment, gross), tmp_path / "out.zarr", progress=False)
    monkeypatch.undo()
    again = run_filter(cycled(experiment, gross), tmp_path / "out.zarr", progress=False)
    xr.testing.assert_identical(again.load(), found)


def test_a_reanalysis_refuses_what_is_far_off_a_dataset(
    tmp_path: Path, experiment: Config, world: Path, reports: pd.DataFrame
) -> None:
    truth = xr.open_zarr(world, chunks=None).sel(time=slice("2003-07-03", "2003-07-05")).load()
    rng = np.random.default_rng(0)
    spread = {"temperature": 0.5, "u_component_of_wind": 1.0, "surface_pressure": 50.0}
    members = [
        truth.map(
            lambda x: x + spread[str(x.name)] * rng.standard_normal(x.shape), keep_attrs=True
        )
        for _ in range(4)
    ]
    xr.concat(members, "member").to_zarr(tmp_path / "background.zarr", zarr_format=2)
    # Within the climatology, whose deviation is some K, but not what was forecast.
    gross = planted(reports, tmp_path / "gross.csv", s1=9.0, s4=-9.0)
    base = experiment | {
        "data": None,
        "networks": [{"network": "reports", "file": str(gross)}],
        "sampler": {"steps": 2, "iterations": 1},
        "figure": None,
    }
    for name, quality, count in (
        ("climatology", 8.0, 0),
        ("dataset", {"limit": 6.0, "background": str(tmp_path / "background.zarr")}, 2),
    ):
        config = ReanalysisConfig.model_validate(base | {"quality_control": quality})
        result = run_reanalysis(config, tmp_path / f"{name}.zarr", progress=False)
        assert result is not None
        assert result.dataset.attrs["rejected_observations"] == count, name
    for bad, message in (
        (truth, "has no members"),
        (xr.concat(members, "member").isel(time=slice(4)), "lacks 2 of 6 times"),
    ):
        bad.drop_encoding().to_zarr(tmp_path / "bad.zarr", zarr_format=2, mode="w")
        own = {"limit": 6.0, "background": str(tmp_path / "bad.zarr")}
        config = ReanalysisConfig.model_validate(base | {"quality_control": own})
        with pytest.raises(ValueError, match=message):
            run_reanalysis(config, tmp_path / "x.zarr", progress=False)
