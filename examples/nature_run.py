r"""Makes the nature run again: six-hourly global weather of an independent circulation model.

    pip install "appa-prob[jcm]" && pip install --no-deps jcm==3.0.0
    python examples/nature_run.py nature_run.zarr

JCM is the SPEEDY physics on the Dinosaur core, at T21 (64 x 32) with 8 layers, 4 of which are
kept. After 60 days of spin-up it runs for some years, in pieces of 10 days, each written when it
is done: an interrupted run starts at the first day again, but nothing half-written is left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from tqdm import trange

from appa_prob.files import refuse_existing, replacing

LAYERS = [0, 1, 3, 5]  # sigma 0.95, 0.835, 0.51, 0.2
# The name in the model, the name here, a factor, the unit, and the step of rounding.
VARIABLES = [
    ("geopotential", "geopotential", 1.0, "m2 s-2", 20.0),
    ("specific_humidity", "specific_humidity", 1.0, "kg kg-1", 1e-5),
    ("normalized_surface_pressure", "surface_pressure", 1e5, "Pa", 20.0),
    ("temperature", "temperature", 1.0, "K", 0.1),
    ("u_wind", "u_component_of_wind", 1.0, "m s-1", 0.1),
    ("v_wind", "v_component_of_wind", 1.0, "m s-1", 0.1),
]


def make_model() -> tuple[Any, Any]:
    """The model after its spin-up, and its boundary conditions."""
    import jcm
    from jcm.forcing import ForcingData
    from jcm.model import Model
    from jcm.physics.speedy.speedy_coords import get_speedy_coords
    from jcm.terrain import TerrainData

    folder = Path(jcm.__file__).parent / "data/bc/t30/clim"
    coords = get_speedy_coords(layers=8, spectral_truncation=21)
    terrain = TerrainData.from_coords(
        coords, terrain_file=str(folder / "terrain.nc"), interpolate=True, lfluxland=True
    )
    forcing = ForcingData.from_file(
        str(folder / "forcing.nc"), coords=coords, align_mode="wrap_year"
    )
    model = Model(coords=coords, terrain=terrain, start_time="2000-01-01")
    model.run(forcing=forcing, save_interval=60, total_time=60)
    return model, forcing


def convert(part: xr.Dataset) -> xr.Dataset:
    """States of the model under the names and in the units of the dataset."""
    arrays = {}
    for source, name, factor, units, _ in VARIABLES:
        array = part[source] * factor
        if "level" in array.dims:
            array = array.isel(level=LAYERS)
        if not bool(np.isfinite(array).all()):
            raise SystemExit(f"{name} is not finite: the model has become unstable")
        array = array.rename(lat="latitude", lon="longitude")
        arrays[name] = array.transpose("time", ..., "latitude", "longitude").astype("float32")
        arrays[name].attrs = {"units": units, "long_name": name.replace("_", " ")}
    return xr.Dataset(arrays)


def packing(dataset: xr.Dataset) -> dict[str, dict[str, object]]:
    """The encoding of each variable as 16-bit integers."""
    encoding: dict[str, dict[str, object]] = {}
    for _, name, _, _, step in VARIABLES:
        middle = round(float(dataset[name].mean()) / step) * step
        half = float(np.abs(dataset[name] - middle).max()) / 32000
        scale = max(step, half)
        encoding[name] = {
            "dtype": "int16",
            "scale_factor": scale,
            "add_offset": middle,
            "_FillValue": -32768,
        }
    return encoding


def main(
    output: Annotated[Path, typer.Argument(help="The zarr store to write.")],
    years: Annotated[float, typer.Option(help="How long to run.")] = 5.0,
    overwrite: Annotated[bool, typer.Option(help="Replace the output if it exists.")] = False,
) -> None:
    """Runs the model and writes its states."""
    refuse_existing(output, overwrite=overwrite)
    model, forcing = make_model()
    parts = []
    for _ in trange(round(years * 36.525), unit="piece", desc="10 days"):
        run = model.resume(forcing=forcing, save_interval=0.25, total_time=10.0)
        parts.append(convert(run.to_xarray()))
    dataset = xr.concat(parts, "time").assign_attrs(
        title="Nature run: JCM 3.0.0 (SPEEDY physics on Dinosaur), T21, 4 levels, six-hourly",
        source="jcm 3.0.0 (Apache-2.0)",
        Conventions="CF-1.11",
    )
    with replacing(output, overwrite=overwrite) as temporary:
        dataset.to_zarr(temporary, mode="w", encoding=packing(dataset), zarr_format=2)


if __name__ == "__main__":
    typer.run(main)
