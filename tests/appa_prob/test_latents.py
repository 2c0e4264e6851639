"""Stores of latents: what they hold, how they are gone on with, and trainings on them.

Run as a script, this file encodes slowly, to be killed: `python test_latents.py CONFIG OUTPUT`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from typer.testing import CliRunner

import appa_prob.latents as latents_module
from appa_prob.autoencoder import Autoencoder
from appa_prob.cli import app, read_config
from appa_prob.errors import UserError
from appa_prob.files import load_tensors, save_tensors
from appa_prob.latents import EncodeConfig, Latents, encode_dataset, open_encoder, open_latents
from appa_prob.parallel import process_group
from appa_prob.states import Period
from appa_prob.train_denoiser import DenoiserConfig, train_denoiser
from appa_prob.trajectory_prior import TrajectoryCovariance
from appa_prob.windows import encoded_windows

Start = Callable[[int, list[str]], list[subprocess.Popen[bytes]]]
CHUNKS = 23  # of 7 latents, of 160


@pytest.fixture
def job(world: Path, tiny_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "encode.yaml"
    folder = tiny_model.parent / "autoencoder"
    path.write_text(yaml.safe_dump({"data": str(world), "autoencoder": str(folder), "chunk": 7}))
    return path


def encode(job: Path, output: Path) -> None:
    encode_dataset(read_config(EncodeConfig, job), output, progress=False)


def expected(job: Path) -> torch.Tensor:
    config = read_config(EncodeConfig, job)
    autoencoder, states = open_encoder(config.autoencoder, config.data, Period())
    return torch.cat([autoencoder.encode(part) for part in states.parts(size=16)])


def read(path: Path) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = xr.open_zarr(path, chunks=None).latents.values
    return values


def command(job: Path, output: Path) -> list[str]:
    return [sys.executable, __file__, str(job), str(output)]


def test_a_command_writes_the_latents_of_all_states(job: Path, tmp_path: Path) -> None:
    output = tmp_path / "latents.zarr"
    arguments = ["encode", str(job), "-o", str(output), "--quiet"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encode.yaml", "latents.zarr"]
    store = xr.open_zarr(output, chunks=None)
    assert store.latents.dims == ("time", "channel", "row", "column")
    np.testing.assert_allclose(store.latents, expected(job), atol=1e-5)
    assert store.sizes["time"] == 160 and store.latents.encoding["chunks"][0] == 7
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "exists" in again.output
    found = Latents(output, Period(start="2003-06-05", stop="2003-06-06"))
    assert len(found) == 8 and torch.equal(
        found[2:4], torch.as_tensor(store.latents[18:20].values)
    )


def test_two_ranks_write_what_one_does(job: Path, tmp_path: Path, ranks: Start) -> None:
    encode(job, tmp_path / "one.zarr")
    processes = ranks(2, [*command(job, tmp_path / "two.zarr"), "0"])
    assert [process.wait(120) for process in processes] == [0, 0]
    assert np.array_equal(read(tmp_path / "one.zarr"), read(tmp_path / "two.zarr"))


def test_a_killed_run_goes_on_with_what_is_left(
    job: Path, tmp_path: Path, ranks: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(job, tmp_path / "whole.zarr")
    output, partial = tmp_path / "killed.zarr", tmp_path / ".killed.zarr.partial"
    processes = ranks(2, command(job, output))
    deadline = time.monotonic() + 120
    while len(list(partial.glob("done-*"))) < 4 and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    assert {process.wait() for process in processes} == {-signal.SIGKILL}
    assert not output.exists()
    done = len(list(partial.glob("done-*")))
    assert 4 <= done < CHUNKS
    calls: list[int] = []
    inner = Autoencoder.encode

    def counted(self: Autoencoder, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return inner(self, x)

    monkeypatch.setattr(Autoencoder, "encode", counted)
    encode(job, output)
    assert len(calls) == CHUNKS - done and not partial.exists()
    assert np.array_equal(read(output), read(tmp_path / "whole.zarr"))


def test_another_run_is_not_mixed_in(job: Path, tmp_path: Path) -> None:
    output = tmp_path / "latents.zarr"
    config = read_config(EncodeConfig, job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents_module, "tqdm", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encode_dataset(config, output, progress=False)
    other = config.model_copy(update={"chunk": 8})
    with pytest.raises(UserError, match="holds another run, that was stopped"):
        encode_dataset(other, output, progress=False)
    encode_dataset(config, output, progress=False)


def denoiser(job: Path, dump: Path | None, **training: object) -> DenoiserConfig:
    config = read_config(EncodeConfig, job)
    return DenoiserConfig.model_validate(
        {
            "data": config.data,
            "autoencoder": config.autoencoder,
            "latents": dump,
            "train": {"stop": "2003-06-30"},
            "validation": {"start": "2003-07-01"},
            "window": 4,
            "width": 8,
            "depth": 1,
            "heads": 2,
            "training": {"steps": 4, "batch_size": 8, "learning_rate": 1e-3, **training},
        }
    )


def test_trainings_on_latents_are_those_on_states(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = tmp_path / "latents.zarr"
    encode(job, dump)
    train_denoiser(denoiser(job, None), tmp_path / "states", progress=False)
    train_denoiser(denoiser(job, dump), tmp_path / "memory", progress=False)
    monkeypatch.setattr(latents_module, "SMALL", 0)
    train_denoiser(denoiser(job, dump, workers=1), tmp_path / "lazy", progress=False)
    weights = {
        name: load_tensors(tmp_path / name / "denoiser.safetensors")[0]
        for name in ("states", "memory", "lazy")
    }
    for name, value in weights["states"].items():
        if name == "space":  # whose columns have any phase
            continue
        torch.testing.assert_close(weights["memory"][name], value, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(weights["lazy"][name], value, rtol=1e-3, atol=1e-4)


def test_latents_of_another_autoencoder_are_refused(job: Path, tmp_path: Path) -> None:
    dump = tmp_path / "latents.zarr"
    encode(job, dump)
    folder = tmp_path / "other"
    folder.mkdir()
    config = read_config(EncodeConfig, job)
    for name in ("autoencoder", "statistics"):
        tensors, metadata = load_tensors(config.autoencoder / f"{name}.safetensors")
        if name == "autoencoder":
            tensors["latent_std"] = 1.001 * tensors["latent_std"]
        save_tensors(folder / f"{name}.safetensors", tensors, metadata)
    period = Period(stop="2003-06-05")
    assert len(open_latents(dump, config.autoencoder, period)) == 20
    with pytest.raises(UserError, match=r"another autoencoder .* encode the data with this one"):
        open_latents(dump, folder, period)
    with pytest.raises(UserError, match="is no store of latents"):
        Latents(tmp_path / "nothing.zarr", period)


def test_gaps_are_refused(world: Path, tiny_model: Path, tmp_path: Path) -> None:
    with_gap = xr.open_zarr(world, chunks=None).isel(time=[0, 1, 2, 4, 5, 6, 7])
    with_gap.load().to_zarr(tmp_path / "gap.zarr", zarr_format=2)
    with pytest.raises(UserError, match="got another one before 2003-06-02T00:00"):
        encoded_windows(tiny_model.parent / "autoencoder", tmp_path / "gap.zarr", Period(), 3)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_the_covariance_of_parts_is_that_of_the_whole(size: int) -> None:
    z = torch.randn(101, 2, 3, 8, generator=torch.Generator().manual_seed(0)).double()
    z[1:] += 0.8 * z[:-1]
    whole = TrajectoryCovariance.fit(z, 5)
    found = TrajectoryCovariance.fit_parts(lambda: iter(torch.split(z, size)), 5)
    x = torch.randn(5, 2, 3, 8, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(found(x), whole(x), rtol=1e-10, atol=1e-10)


if __name__ == "__main__":
    rest, inner = float([*sys.argv, "0.05"][3]), Autoencoder.encode

    def slowly(self: Autoencoder, x: torch.Tensor) -> torch.Tensor:
        time.sleep(rest)
        return inner(self, x)

    Autoencoder.encode = slowly  # type: ignore[assignment, method-assign]
    with process_group():
        encode(Path(sys.argv[1]), Path(sys.argv[2]))
