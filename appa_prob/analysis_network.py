r"""Gridded analyses as observations: means over blocks of the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, PositiveInt

from .network import Network, Places
from .stencils import block_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .grid import Grid

__all__ = ["AnalysisNetwork"]


class AnalysisNetwork(Network):
    r"""An analysis on a grid that is coarser than that of states by a whole factor.

    Example:
        >>> AnalysisNetwork(factor=2, variables=("t",), error={"t": "1 K"}).label
        'analysis'
    """

    network: Literal["analysis"] = "analysis"
    factor: PositiveInt = Field(default=1, description="a number of rows and columns")

    def default_levels(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        r"""All levels."""
        return levels

    def places(self, times: NDArray[np.datetime64], grid: Grid) -> Places:
        r"""The middle cells of all blocks, at each time."""
        rows, columns = (
            np.minimum(np.arange(0, size, self.factor) + (self.factor - 1) // 2, size - 1)
            for size in grid.shape
        )
        latitude, longitude = np.meshgrid(
            grid.latitude[rows], grid.longitude[columns], indexing="ij"
        )
        return Places(
            np.repeat(np.arange(len(times)), latitude.size),
            np.tile(latitude.ravel(), len(times)),
            np.tile(longitude.ravel(), len(times)),
        )

    def stencil(
        self, latitude: NDArray[np.float64], longitude: NDArray[np.float64], grid: Grid
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        r"""Means over blocks."""
        return block_means(latitude, longitude, grid, self.factor)
