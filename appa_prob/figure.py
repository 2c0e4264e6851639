r"""Pictures on a map: of a reanalysis with truth, observations, ensemble mean, spread and two
members; and of any fields.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .errors import unknown
from .files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = [
    "coastline",
    "colours",
    "draw_coasts",
    "draw_fields",
    "draw_reanalysis",
    "save_figure",
    "short_units",
    "wrap",
]

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


def short_units(units: str) -> str:
    r"""Units as people write them.

    Example:
        >>> short_units("m s-1")
        'm/s'
    """
    return TITLES.get(units, units)


def draw_reanalysis(
    members: xr.DataArray,
    truth: xr.DataArray | None,
    observations: tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]],
    path: Path,
) -> None:
    r"""Draws one variable, at one time and level, and saves the figure.

    Arguments:
        members: The ensemble, with dimensions `member, latitude, longitude`, at least two members.
        truth: The truth, with dimensions `latitude, longitude`, if it is known.
        observations: The latitudes, longitudes and values of the observations of that variable.
        path: The image file to write.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    shown = members.isel(member=0) if truth is None else truth
    units = short_units(shown.attrs.get("units", ""))
    mean, spread = members.mean("member"), members.std("member", ddof=1)
    shared = colours(shown.values)

    figure = Figure(figsize=(13, 5.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    latitude, longitude, values = observations
    if truth is None:
        axes[0, 0].set_axis_off()
    else:
        _field(axes[0, 0], truth, "truth", shared)
    draw_coasts(axes[0, 1], f"{len(values)} observations")
    axes[0, 1].scatter(
        wrap(longitude), latitude, c=values, s=14, edgecolors="0.25", linewidths=0.3, **shared
    )
    main = _field(axes[0, 2], mean, f"mean of {members.sizes['member']} members", shared)
    _field(axes[1, 0], members.isel(member=0), "member 1", shared)
    _field(axes[1, 1], members.isel(member=1), "member 2", shared)
    side = _field(axes[1, 2], spread, "spread", {"vmin": 0.0, "cmap": colormaps["magma_r"]})
    name = str(shown.attrs.get("long_name", shown.name))
    figure.colorbar(
        main,
        ax=axes[:, :2],
        label=f"{name} ({units})",
        location="bottom",
        shrink=0.6,
        aspect=40,
        extend="both",
    )
    figure.colorbar(side, ax=axes[:, 2], label=f"spread ({units})", location="bottom", shrink=0.8)
    level = f" at level {float(shown.level):g}" if "level" in shown.coords else ""
    figure.suptitle(
        f"{name}{level}, {np.datetime_as_string(shown.time.values, unit='m').replace('T', ' ')}"
    )
    save_figure(figure, path)


def draw_fields(
    fields: dict[str, xr.DataArray],
    path: Path,
    *,
    title: str,
    label: str,
    units: str,
    spread: xr.DataArray | None = None,
) -> None:
    r"""Draws fields with one scale of colours, and maybe their spread with its own.

    Arguments:
        fields: The fields by title, with dimensions `latitude, longitude`.
        path: The image file to write.
        title: The title of the figure.
        label: What the fields are of.
        units: Their units.
        spread: The spread.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    count = len(fields) + (spread is not None)
    columns = min(3, count)
    rows = -(-count // columns)
    values = np.concatenate([field.values.ravel() for field in fields.values()])
    shared = colours(values)
    figure = Figure(figsize=(4.4 * columns, 2.6 * rows + 1.0), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    for axes, (name, field) in zip(grid, fields.items(), strict=False):
        main = _field(axes, field, name, shared)
    figure.colorbar(
        main,
        ax=list(grid[: len(fields)]),
        label=f"{label} ({short_units(units)})",
        shrink=0.8,
        extend="both",
    )
    if spread is not None:
        style = {"vmin": 0.0, "cmap": colormaps["magma_r"]}
        side = _field(grid[count - 1], spread, "spread", style)
        figure.colorbar(side, ax=grid[count - 1], label=f"spread ({short_units(units)})")
    figure.suptitle(title)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    r"""Writes a figure in the format that the suffix of the path tells, PNG by default.

    Raises:
        UserError: If there is no such format.
    """
    suffix = path.suffix.removeprefix(".") or "png"
    known = figure.canvas.get_supported_filetypes()
    if suffix not in known:
        raise unknown("format of images", suffix, known)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format=suffix)


def colours(values: NDArray[np.floating]) -> dict[str, object]:
    r"""The limits and the map of colours of a field, which leave out half a percent at both ends.

    Zero is in the middle of those of what has both signs, as winds.

    Arguments:
        values: The values.
    """
    from matplotlib import colormaps

    lower, upper = (float(q) for q in np.nanquantile(values, [0.005, 0.995]))
    if lower < 0 < upper and min(-lower, upper) > 0.1 * max(-lower, upper):
        upper = max(-lower, upper)
        lower = -upper
    return {"vmin": lower, "vmax": upper, "cmap": colormaps["Spectral_r"]}


def _field(axes: Axes, field: xr.DataArray, title: str, style: dict[str, object]) -> QuadMesh:
    field = field.assign_coords(longitude=wrap(field.longitude.values)).sortby("longitude")
    # The map goes round: its first column once more, behind the last.
    first = field.isel(longitude=[0])
    again = first.assign_coords(longitude=first.longitude + 360.0)
    field = xr.concat([field, again], "longitude")
    mesh = axes.pcolormesh(field.longitude, field.latitude, field, shading="nearest", **style)  # type: ignore[arg-type]
    draw_coasts(axes, title)
    return mesh


def draw_coasts(axes: Axes, title: str) -> None:
    r"""Draws the coasts of the world on axes of longitude and latitude."""
    line = coastline()
    axes.plot(line[:, 0], line[:, 1], color="0.15", linewidth=0.6)
    axes.set(title=title, xlim=(-180, 180), ylim=(-90, 90), aspect="equal")
    axes.set_xticks([-120, -60, 0, 60, 120], ["120°W", "60°W", "0°", "60°E", "120°E"])
    axes.set_yticks([-60, -30, 0, 30, 60], ["60°S", "30°S", "0°", "30°N", "60°N"])
    axes.tick_params(labelsize="small")


def wrap(longitude: NDArray[np.floating]) -> NDArray[np.floating]:
    r"""Longitudes from -180 to 180 degrees."""
    return (longitude + 180.0) % 360.0 - 180.0
