"""A store with the names, units and layouts of WeatherBench 2, of made-up weather."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

LEVELS = [500, 700, 850]  # hPa
DIMS = ("time", "level", "longitude", "latitude")
VARIABLES = ("2m_temperature", "sea_surface_temperature", "geopotential", "temperature")


def era5_like(states: int = 40, rows: int = 8, dims: Sequence[str] = DIMS) -> xr.Dataset:
    """States every 6 hours, on 8 x 16 points unless told otherwise, from the south.

    The stores of low resolution have longitude before latitude, that of 0.25 degrees latitude
    first, from the north.
    """
    rng = np.random.default_rng(0)
    latitude = (np.arange(rows) + 0.5) * 180 / rows - 90
    longitude = np.arange(2 * rows) * 180 / rows
    times = np.datetime64("2020-01-01T00", "ns") + np.arange(states) * np.timedelta64(6, "h")
    wave = np.sin(np.deg2rad(longitude)[:, None] - 0.3 * np.arange(states)[:, None, None])
    wave = wave * np.cos(np.deg2rad(latitude))
    flat, full = wave.shape, (states, len(LEVELS), *wave.shape[1:])
    sea = np.where(rng.random(flat[1:]) < 0.3, np.nan, 0.0)

    def noise(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.standard_normal(shape).astype("float32")

    base = np.array([5.5e4, 3.0e4, 1.4e4])[:, None, None]
    lifted = wave[:, None]
    upper = {
        "geopotential": (base + 300 * lifted + 30 * noise(*full), "m**2 s**-2"),
        "temperature": (270 + 5 * lifted + noise(*full), "K"),
        "u_component_of_wind": (10 * lifted + noise(*full), "m s**-1"),
    }
    surface = {
        "10m_u_component_of_wind": (5 * wave + noise(*flat), "m s**-1"),
        "2m_temperature": (280 + 4 * wave + noise(*flat), "K"),
        "sea_surface_temperature": (285 + 2 * wave + noise(*flat) + sea, "K"),
        "total_precipitation_6hr": (np.maximum(noise(*flat), 0) / 1e3, "m"),
    }
    place = ("longitude", "latitude")
    constants = {
        "geopotential_at_surface": (place, noise(*flat[1:]), {"units": "m**2 s**-2"}),
        "land_sea_mask": (place, np.isnan(sea).astype("float32"), {"units": "(0 - 1)"}),
    }
    arrays: dict[str, Any] = {
        k: (("time", *place), v.astype("float32"), {"units": u}) for k, (v, u) in surface.items()
    }
    arrays |= {
        k: (("time", "level", *place), v.astype("float32"), {"units": u})
        for k, (v, u) in upper.items()
    }
    coords = {"time": times, "level": LEVELS, "longitude": longitude, "latitude": latitude}
    return xr.Dataset(arrays | constants, coords).transpose(*dims)
