r"""The picture of a reanalysis: truth, observations, ensemble mean, spread and two members, on a
map.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from numpy.typing import NDArray

__all__ = ["coastline", "draw_reanalysis"]

TITLES = {"m s-1": "m/s", "kg kg-1": "kg/kg", "m2 s-2": "m²/s²"}


def coastline() -> NDArray[np.float64]:
    r"""The world's coasts as one line, with shape :math:`(N, 2)`: longitude and latitude, pieces
    parted by NaN rows.
    """
    text = resources.files("appa_prob").joinpath("data/coastline.json").read_text()
    pieces = [
        np.concatenate((np.asarray(piece), [[np.nan, np.nan]])) for piece in json.loads(text)
    ]
    return np.concatenate(pieces)


def draw_reanalysis(
    members: xr.DataArray,
    truth: xr.DataArray,
    observations: tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]],
    path: Path,
) -> None:
    r"""Draws one variable, at one time and level, and saves the figure.

    Arguments:
        members: The ensemble, with dimensions `member, latitude, longitude`, at least two members.
        truth: The truth, with dimensions `latitude, longitude`.
        observations: The latitudes, longitudes and values of the observations of that variable.
        path: The image file to write.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    units = TITLES.get(truth.attrs.get("units", ""), truth.attrs.get("units", ""))
    mean, spread = members.mean("member"), members.std("member", ddof=1)
    lower, upper = (float(q) for q in np.nanquantile(truth.values, [0.005, 0.995]))
    shared = {"vmin": lower, "vmax": upper, "cmap": colormaps["Spectral_r"]}

    figure = Figure(figsize=(13, 5.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    latitude, longitude, values = observations
    main = _field(axes[0, 0], truth, "truth", shared)
    _coasts(axes[0, 1], f"{len(values)} observations")
    axes[0, 1].scatter(
        _wrap(longitude), latitude, c=values, s=14, edgecolors="0.25", linewidths=0.3, **shared
    )
    _field(axes[0, 2], mean, f"mean of {members.sizes['member']} members", shared)
    _field(axes[1, 0], members.isel(member=0), "member 1", shared)
    _field(axes[1, 1], members.isel(member=1), "member 2", shared)
    side = _field(axes[1, 2], spread, "spread", {"vmin": 0.0, "cmap": colormaps["magma_r"]})
    name = str(truth.attrs.get("long_name", truth.name))
    figure.colorbar(
        main, ax=axes[:, :2], label=f"{name} ({units})", location="bottom", shrink=0.6, aspect=40
    )
    figure.colorbar(side, ax=axes[:, 2], label=f"spread ({units})", location="bottom", shrink=0.8)
    level = f" at level {float(truth.level):g}" if "level" in truth.coords else ""
    figure.suptitle(
        f"{name}{level}, {np.datetime_as_string(truth.time.values, unit='m').replace('T', ' ')}"
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix.removeprefix(".") or "png")


def _field(axes: Axes, field: xr.DataArray, title: str, style: dict[str, object]) -> QuadMesh:
    field = field.assign_coords(longitude=_wrap(field.longitude.values)).sortby("longitude")
    # The map goes round: its first column once more, behind the last.
    first = field.isel(longitude=[0])
    again = first.assign_coords(longitude=first.longitude + 360.0)
    field = xr.concat([field, again], "longitude")
    mesh = axes.pcolormesh(field.longitude, field.latitude, field, shading="nearest", **style)  # type: ignore[arg-type]
    _coasts(axes, title)
    return mesh


def _coasts(axes: Axes, title: str) -> None:
    line = coastline()
    axes.plot(line[:, 0], line[:, 1], color="0.15", linewidth=0.6)
    axes.set(title=title, xlim=(-180, 180), ylim=(-90, 90), aspect="equal")
    axes.set(xticks=[-120, -60, 0, 60, 120], yticks=[-60, -30, 0, 30, 60])


def _wrap(longitude: NDArray[np.floating]) -> NDArray[np.floating]:
    return (longitude + 180.0) % 360.0 - 180.0
