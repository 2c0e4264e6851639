"""A tiny world, and a tiny model trained on it."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from appa_prob.bundle import bundle_model
from appa_prob.cli import read_config
from appa_prob.train_autoencoder import AutoencoderConfig, train_autoencoder
from appa_prob.train_denoiser import DenoiserConfig, train_denoiser

LATITUDE = np.linspace(-78.75, 78.75, 8)
LONGITUDE = np.arange(16) * 22.5


def tiny_world(states: int = 160) -> xr.Dataset:
    """Waves that travel eastwards on an 8 x 16 grid, and some noise."""
    rng = np.random.default_rng(0)
    times = np.datetime64("2003-06-01T00", "ns") + np.arange(states) * np.timedelta64(6, "h")
    phase = 2 * np.pi * (LONGITUDE / 360.0 - 0.03 * np.arange(states)[:, None])
    amplitude = 1 + 0.3 * rng.standard_normal((states, 1)).cumsum(0) / np.sqrt(states)
    wave = (amplitude * np.sin(2 * phase))[:, None] * np.cos(np.deg2rad(LATITUDE))[:, None]
    noise = 0.1 * rng.standard_normal((5, states, 8, 16))
    temperature = 280 + 5 * np.stack((wave, -wave), 1) + noise[:2].swapaxes(0, 1)
    wind = 10 * np.stack((np.roll(wave, 2, -1), np.roll(wave, 3, -1)), 1) + noise[2:4].swapaxes(
        0, 1
    )
    pressure = 1e5 + 500 * wave + 10 * noise[4]
    dims = ("time", "level", "latitude", "longitude")
    return xr.Dataset(
        {
            "temperature": (dims, temperature, {"units": "K"}),
            "u_component_of_wind": (dims, wind, {"units": "m s-1"}),
            "surface_pressure": (("time", *dims[2:]), pressure, {"units": "Pa"}),
        },
        {"time": times, "level": [0.95, 0.5], "latitude": LATITUDE, "longitude": LONGITUDE},
    )


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the tiny world."""
    path = tmp_path_factory.mktemp("world") / "world.zarr"
    tiny_world().to_zarr(path, zarr_format=2)
    return path


def training(steps: int) -> dict[str, object]:
    return {
        "steps": steps,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "warmup": 10,
        "ema_decay": 0.95,
        "validate_every": steps,
    }


@pytest.fixture(scope="session")
def tiny_model(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of the tiny world, trained for some seconds."""
    folder = tmp_path_factory.mktemp("model")
    periods = {"train": {"stop": "2003-06-30"}, "validation": {"start": "2003-07-01"}}
    (folder / "autoencoder.yaml").write_text(
        yaml.safe_dump(
            {
                "data": str(world),
                **periods,
                "harmonics": 0,
                "latent_channels": 4,
                "widths": [8, 8],
                "blocks": [1, 1],
                "training": training(300),
            }
        )
    )
    (folder / "denoiser.yaml").write_text(
        yaml.safe_dump(
            {
                "data": str(world),
                **periods,
                "autoencoder": str(folder / "autoencoder"),
                "window": 4,
                "width": 16,
                "depth": 1,
                "heads": 2,
                "training": training(60),
            }
        )
    )
    autoencoder = read_config(AutoencoderConfig, folder / "autoencoder.yaml")
    train_autoencoder(autoencoder, folder / "autoencoder", progress=False)
    denoiser = read_config(DenoiserConfig, folder / "denoiser.yaml")
    train_denoiser(denoiser, folder / "denoiser", progress=False)
    bundle_model(folder / "denoiser", folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def experiment(world: Path, tiny_model: Path) -> dict[str, object]:
    """The configuration of a reanalysis of the tiny world."""
    return {
        "model": str(tiny_model),
        "data": str(world),
        "start": "2003-07-03T00",
        "states": 6,
        "members": 3,
        "networks": [
            {
                "network": "stations",
                "variables": ["temperature", "surface_pressure"],
                "error": {"temperature": "0.5 K", "surface_pressure": "1 hPa"},
            },
            {
                "network": "satellite",
                "satellites": ["NOAA-20"],
                "variables": ["u_component_of_wind"],
                "error": {"u_component_of_wind": "1 m/s"},
            },
        ],
        "sampler": {"steps": 6, "iterations": 1},
        "baselines": None,
        "figure": {"variable": "temperature", "level": 0.95},
    }
