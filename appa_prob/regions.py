r"""Averages over regions of the sphere, weighted by area.

.. math:: \overline{x} = \frac{\sum_{ij} w_i \, m_{ij} \, x_{ij}}{\sum_{ij} w_i \, m_{ij}}
    \qquad w_i \propto \sin \varphi_{i + 1/2} - \sin \varphi_{i - 1/2}

with edges :math:`\varphi_{i \pm 1/2}` half-way between rows, and at the poles, and with :math:`m`
one in the region and zero elsewhere. Points outside of a region don't count, whatever they hold;
within it an absent value makes the average absent.

References:
    | WeatherBench 2: A benchmark for the next generation of data-driven global weather models
    | (Rasp et al., 2024)
    | https://arxiv.org/abs/2308.15560
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import xarray as xr

from .errors import UserError, unknown
from .grid import row_weights

__all__ = ["GLOBE", "REGIONS", "Region", "average", "regional_averages", "select_regions"]

Field = TypeVar("Field", xr.DataArray, xr.Dataset)

SPACE = ("latitude", "longitude")


@dataclass(frozen=True, eq=False)
class Region:
    r"""A part of the globe.

    Arguments:
        name: What it is called.
        latitudes: Bands of latitude in degrees, from south to north, both ends included.
        longitudes: The longitudes in degrees from west to east, both ends included, maybe across
            the date line or Greenwich.
        mask: The points that count, with dimensions `latitude, longitude`, as those over sea, and
            maybe others that fields have.

    Example:
        >>> rows, columns = [-60.0, 0.0, 60.0], [0.0, 90.0, 180.0, 270.0]
        >>> x = xr.DataArray([[1.0] * 4, [2.0] * 4, [3.0] * 4], [("latitude", rows),
        ...     ("longitude", columns)])
        >>> [float(average(x, REGIONS[name])) for name in ("globe", "tropics", "arctic")]
        [2.0, 2.0, 3.0]
    """

    name: str
    latitudes: tuple[tuple[float, float], ...] = ((-90.0, 90.0),)
    longitudes: tuple[float, float] = (0.0, 360.0)
    mask: xr.DataArray | None = None

    def weights(self, field: xr.DataArray | xr.Dataset) -> xr.DataArray:
        r"""The weights of the points of a field, with dimensions `latitude, longitude`, the last.

        Arguments:
            field: A field on a global grid, for its coordinates.

        Raises:
            UserError: If no point of the grid lies in the region.
        """
        latitude, longitude = field["latitude"], field["longitude"]
        west, east = self.longitudes
        inside = ((longitude - west) % 360.0 <= east - west) | (east - west >= 360.0)
        rows = sum(((latitude >= a) & (latitude <= b)).astype(int) for a, b in self.latitudes)
        rows = rows * xr.DataArray(row_weights(latitude.values), {"latitude": latitude})
        weights = rows * inside if self.mask is None else rows * inside * self.mask.astype(float)
        weights = weights.transpose(..., *SPACE)
        if not bool((weights > 0).any()):
            raise UserError(f'no point of the grid lies in the region "{self.name}"')
        return weights


GLOBE = Region("globe")

# The regions of WeatherBench 2, which are those of the scores of the ECMWF.
REGIONS = {
    region.name: region
    for region in (
        GLOBE,
        Region("tropics", ((-20.0, 20.0),)),
        Region("extra-tropics", ((-90.0, -20.0), (20.0, 90.0))),
        Region("northern-hemisphere", ((20.0, 90.0),)),
        Region("southern-hemisphere", ((-90.0, -20.0),)),
        Region("arctic", ((60.0, 90.0),)),
        Region("antarctic", ((-90.0, -60.0),)),
        Region("europe", ((35.0, 75.0),), (-12.5, 42.5)),
        Region("north-america", ((25.0, 60.0),), (-120.0, -75.0)),
        Region("north-atlantic", ((25.0, 65.0),), (-70.0, -10.0)),
        Region("north-pacific", ((25.0, 60.0),), (145.0, 230.0)),
        Region("east-asia", ((25.0, 60.0),), (102.5, 150.0)),
        Region("australia", ((-45.0, -12.5),), (120.0, 175.0)),
    )
}


def select_regions(names: Sequence[str]) -> tuple[Region, ...]:
    r"""The regions of some names.

    Raises:
        UserError: If a name isn't known.
    """
    for name in names:
        if name not in REGIONS:
            raise unknown("region", name, REGIONS)
    return tuple(REGIONS[name] for name in names)


def average(field: Field, region: Region = GLOBE) -> Field:
    r"""The average over a region.

    Arguments:
        field: Fields with dimensions `latitude, longitude` and any others.
        region: The region.

    Returns:
        Their averages, without these two dimensions.
    """
    weights = region.weights(field)
    mean: Field = field.where(weights > 0, 0.0).weighted(weights).mean(SPACE, skipna=False)
    return mean


def regional_averages(field: Field, regions: Sequence[Region]) -> Field:
    r"""The averages over some regions, along a new dimension `region`, the first one.

    Arguments:
        field: Fields with dimensions `latitude, longitude` and any others.
        regions: The regions.
    """
    names = xr.DataArray([region.name for region in regions], dims="region", name="region")
    return xr.concat([average(field, region) for region in regions], dim=names)
