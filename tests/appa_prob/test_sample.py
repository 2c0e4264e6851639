"""Trajectories of any length: streamed, killed and gone on with, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from typer.testing import CliRunner

from appa_prob import stream
from appa_prob.cli import app
from appa_prob.files import load_tensors, save_tensors
from appa_prob.sample import SampleConfig, run_sample

Config = dict[str, Any]


@pytest.fixture
def config(tiny_model: Path) -> Config:
    """Trajectories of the tiny world: windows of 4 states, blocks of 3 new ones."""
    return {
        "model": str(tiny_model),
        "start": "2003-07-03T00",
        "states": 12,
        "members": 2,
        "rollout": {"overlap": 1},
        "sampler": {"steps": 3},
    }


def sampled(config: Config, output: Path | None = None, seed: int = 0) -> xr.Dataset:
    return run_sample(SampleConfig.model_validate(config), output, seed=seed, progress=False)


def run(folder: Path, config: Config, *options: str) -> tuple[int, str]:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    arguments = ["sample", str(path), "-o", str(folder / "out.zarr"), "--quiet", *options]
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_store_holds_what_memory_would(tmp_path: Path, config: Config) -> None:
    assert run(tmp_path, config)[0] == 0
    stored = xr.open_zarr(tmp_path / "out.zarr", chunks=None).load()
    assert stored.temperature.dims == ("member", "time", "level", "latitude", "longitude")
    assert stored.temperature.attrs["units"] == "K" and stored.time.attrs["axis"] == "T"
    assert np.isfinite(stored.to_array()).all()
    assert (
        stored.time.diff("time").values.astype("timedelta64[h]").astype(int).tolist() == [6] * 11
    )
    xr.testing.assert_identical(stored, sampled(config))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "out.zarr"]


def test_a_trajectory_depends_on_the_seed_and_a_longer_one_begins_alike(config: Config) -> None:
    short = sampled(config)
    longer = sampled(config | {"states": 17}).isel(time=slice(12))
    xr.testing.assert_equal(short, longer)
    assert not short.equals(sampled(config, seed=1))
    assert abs(short.temperature[0] - short.temperature[1]).mean() > 0.1
    alone = sampled(config | {"members": 1})
    xr.testing.assert_allclose(alone, short.isel(member=[0]), rtol=1e-3, atol=0.02)


def test_states_follow_each_other_across_blocks(config: Config) -> None:
    config |= {"states": 40, "members": 4, "rollout": {"overlap": 2, "residual": False}}
    step = abs(sampled(config).temperature.diff("time")).mean(["member", "level"])
    change = step.mean(["latitude", "longitude"]).values
    seams = (np.arange(len(change)) % 2) == 1
    assert 0.7 < change[3:][seams[3:]].mean() / change[3:][~seams[3:]].mean() < 1.4


def test_a_run_that_fails_between_two_writes_goes_on(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = save_tensors, []

    def failing(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 4:  # states of the third part are on disk, but it is not known yet
            raise KeyboardInterrupt
        save(*arguments)

    monkeypatch.setattr(stream, "save_tensors", failing)
    with pytest.raises(KeyboardInterrupt):
        sampled(config, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    monkeypatch.undo()
    xr.testing.assert_identical(sampled(config, tmp_path / "out.zarr").load(), sampled(config))
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, config: Config) -> None:
    config |= {"states": 121, "members": 1}
    path, output = tmp_path / "config.yaml", tmp_path / "out.zarr"
    path.write_text(yaml.safe_dump(config))
    main = "from appa_prob.cli import main; main()"
    command = [sys.executable, "-c", main, "sample", str(path), "-o", str(output), "--quiet"]
    process = subprocess.Popen(command, env={**os.environ})
    progress = tmp_path / ".out.zarr.partial" / "progress.safetensors"
    while not progress.exists() or load_tensors(progress)[1]["done"] in (0, 4):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not output.exists()
    assert load_tensors(progress)[1]["done"] in range(7, 121)
    code, text = run(tmp_path, config, "--seed", "1")
    assert code == 2 and "holds another run" in text
    assert run(tmp_path, config)[0] == 0
    xr.testing.assert_identical(xr.open_zarr(output, chunks=None).load(), sampled(config))


def test_an_output_is_replaced_only_if_it_may_be(tmp_path: Path, config: Config) -> None:
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "precious").write_text("mine")
    code, text = run(tmp_path, config)
    assert code == 2 and "--overwrite" in text
    assert (tmp_path / "out.zarr" / "precious").exists()
    assert run(tmp_path, config, "--overwrite")[0] == 0
    assert not (tmp_path / "out.zarr" / "precious").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "out.zarr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "yesterday"}, "expected a time such as 2004-07-01T00, got 'yesterday'"),
        ({"states": 0}, "states"),
        ({"members": 0}, "members"),
        ({"model": "appa-large"}, "there is no model 'appa-large'"),
        ({"rollout": {"overlap": 4}}, "fewer known states than the 4"),
        ({"rollout": {"block": 3}}, "blocks of at least 4 states"),
        ({"rollout": {"seam": 3}}, 'rollout: unknown key "seam"'),
        ({"sampler": {"sigma_max": 1e-9}}, "expected sigma_max above sigma_min, got"),
    ],
)
def test_bad_configurations_are_refused(
    change: Config, message: str, tmp_path: Path, config: Config
) -> None:
    code, text = run(tmp_path, config | change)
    assert code == 2, text
    assert text.startswith("error: ") and text.count("\n") == 1 and message in text, text
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
