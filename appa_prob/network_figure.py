r"""Maps of observing networks, and how much they observe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .figure import draw_coasts, save_figure, wrap

if TYPE_CHECKING:
    from .network import Footprints

__all__ = ["count_observations", "draw_networks"]


def count_observations(footprints: Sequence[Footprints], length: int) -> pd.DataFrame:
    r"""How many observations of each variable a time has on average, by network and level.

    Arguments:
        footprints: The networks, laid out over a trajectory.
        length: The number of its times.
    """
    errors = [
        [
            # Of reports each has its own; what no station observes has none.
            np.median(own[part.seen[:, k]]) if part.seen[:, k].any() else np.nan
            for k, own in enumerate(np.broadcast_to(part.errors, part.seen.shape).T)
        ]
        for part in footprints
    ]
    rows = [
        {
            "network": part.name,
            "variable": channel.variable,
            "level": np.nan if channel.level is None else channel.level,
            "error": "" if np.isnan(error) else f"{error:g} {channel.units}",
            "a time": part.seen[:, k].sum() / length,
        }
        for part, own in zip(footprints, errors, strict=True)
        for k, (channel, error) in enumerate(zip(part.channels, own, strict=True))
    ]
    return pd.DataFrame(rows)


def draw_networks(
    footprints: Sequence[Footprints], times: Sequence[np.datetime64], state: int, path: Path
) -> None:
    r"""Draws where each network observes at one time, and saves the figure.

    Arguments:
        footprints: The networks, laid out over a trajectory.
        times: The times of the trajectory.
        state: The index of the time.
        path: The image file to write.
    """
    from matplotlib.figure import Figure

    columns = min(2, len(footprints))
    rows = -(-len(footprints) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.6 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(footprints) :]:
        axes.set_axis_off()
    for i, (axes, part) in enumerate(zip(grid, footprints, strict=False)):
        here = part.time == state
        variables = dict.fromkeys(channel.variable for channel in part.channels)
        listed = fill(", ".join(variables), width=64)
        draw_coasts(axes, f"{part.name}: {int(here.sum())} points\n{listed}")
        axes.title.set_fontsize("medium")
        axes.scatter(
            wrap(part.longitude[here]), part.latitude[here], s=5, color=f"C{i}", linewidths=0
        )
    figure.suptitle(np.datetime_as_string(times[state], unit="m").replace("T", " "))
    save_figure(figure, path)
