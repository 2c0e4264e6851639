r"""How near states are to the balances that the atmosphere keeps on large scales.

Geostrophic: the Coriolis force balances that of pressure, so that the wind follows from the
geopotential :math:`\Phi`, here with the Coriolis parameter :math:`f = 2 \Omega \sin \varphi`,

.. math:: f u_g = -(\nabla \Phi + R_d T \, \nabla \ln p_s)_\varphi \qquad
    f v_g = (\nabla \Phi + R_d T \, \nabla \ln p_s)_\lambda

with the second term on sigma levels :math:`p / p_s` only, not on levels of pressure. It holds
outside the tropics and above the boundary layer.

Hydrostatic: the thickness of a layer is that of its virtual temperature :math:`T_v = T (1 + 0.608
\, q)`,

.. math:: \frac{\Phi_k - \Phi_{k + 1}}{R_d \ln (p_{k + 1} / p_k)} = \overline{T_v}

with the mean of both levels on the right. Thick layers break it a little, and so does the truth:
it is what a sample is to be compared with.

References:
    | An Introduction to Dynamic Meteorology (Holton and Hakim, 2013)
    | https://doi.org/10.1016/C2009-0-63394-8
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from appa_prob.operators import SphereGradient

from .errors import UserError
from .regions import REGIONS, SPACE, average

__all__ = ["geostrophic_imbalance", "geostrophic_wind", "hydrostatic_imbalance"]

GAS_CONSTANT = 287.05  # of dry air, J / (kg K)
ROTATION = 7.292115e-5  # of the Earth, rad / s
EXCESS = 0.608  # ratio of the gas constants of vapour and dry air, less 1
TROPICS = 20.0  # degrees


def geostrophic_wind(states: xr.Dataset) -> xr.Dataset:
    r"""The wind that balances the pressure, outside the tropics.

    Arguments:
        states: States with `geopotential` and, on sigma levels, `temperature` and
            `surface_pressure`; SI units.

    Returns:
        The variables `u` and `v` in m/s, absent within 20 degrees of the equator.

    Raises:
        UserError: If a variable isn't there.
    """
    force = _gradient(_variable(states, "geopotential"))
    if on_sigma_levels(states):
        surface = xr.apply_ufunc(np.log, _variable(states, "surface_pressure"))
        force = force + GAS_CONSTANT * _variable(states, "temperature") * _gradient(surface)
    latitude = states["latitude"]
    sine = xr.apply_ufunc(lambda degrees: np.sin(np.deg2rad(degrees)), latitude)
    coriolis = (2 * ROTATION * sine).where(abs(latitude) > TROPICS)
    east, north = (force.sel(component=name, drop=True) for name in ("east", "north"))
    return xr.Dataset({"u": -north / coriolis, "v": east / coriolis})


def geostrophic_imbalance(states: xr.Dataset) -> xr.DataArray:
    r"""The speed of the ageostrophic wind outside the tropics, relative to that of the wind.

    .. math:: \sqrt{\overline{|u - u_g|^2} \, / \, \overline{|u|^2}}

    Arguments:
        states: States as for :func:`geostrophic_wind`, with the wind.

    Returns:
        The ratios, by all dimensions but latitude and longitude.
    """
    region = REGIONS["extra-tropics"]
    wind = {
        "u": _variable(states, "u_component_of_wind"),
        "v": _variable(states, "v_component_of_wind"),
    }
    balanced = geostrophic_wind(states)
    outside = abs(states["latitude"]) > TROPICS
    parts = [((wind[k] - balanced[k]) ** 2).where(outside, 0.0) for k in wind]
    speeds = [(wind[k] ** 2).where(outside, 0.0) for k in wind]
    ratio: xr.DataArray = average(parts[0] + parts[1], region) / average(
        speeds[0] + speeds[1], region
    )
    return ratio**0.5


def hydrostatic_imbalance(states: xr.Dataset) -> xr.DataArray:
    r"""The difference of the temperatures that thicknesses and temperatures tell, in K.

    Arguments:
        states: States with `geopotential`, `temperature` and, maybe, `specific_humidity`, on
            levels of pressure (in any unit) or sigma, at least two; SI units.

    Returns:
        The root mean squares over the globe, by layer (`level` is the upper one's) and all other
        dimensions but latitude and longitude.

    Raises:
        UserError: If a variable isn't there, or there are less than two levels.
    """
    temperature = _variable(states, "temperature")
    if "specific_humidity" in states:
        temperature = temperature * (1 + EXCESS * states["specific_humidity"])
    geopotential = _variable(states, "geopotential")
    if states.sizes.get("level", 0) < 2:
        raise UserError("expected at least two levels for the hydrostatic balance")
    downwards = np.sort(states["level"].to_numpy())
    upper, lower = ({"level": downwards[part]} for part in (slice(None, -1), slice(1, None)))
    log = xr.DataArray(np.diff(np.log(downwards)), upper)
    bottom = [x.sel(lower).assign_coords(upper) for x in (geopotential, temperature)]
    top = [x.sel(upper) for x in (geopotential, temperature)]
    found = (top[0] - bottom[0]) / (GAS_CONSTANT * log) - (top[1] + bottom[1]) / 2
    result: xr.DataArray = average(found**2) ** 0.5
    return result


def on_sigma_levels(states: xr.Dataset) -> bool:
    r"""Whether levels are sigma, a share of the surface pressure, and not pressures."""
    return "level" in states.coords and float(states["level"].max()) <= 1.0


def _variable(states: xr.Dataset, name: str) -> xr.DataArray:
    if name not in states:
        raise UserError(f"balances need {name}; there are: {', '.join(map(str, states))}")
    return states[name]


def _gradient(field: xr.DataArray) -> xr.DataArray:
    latitude = torch.tensor(field["latitude"].to_numpy())
    operator = SphereGradient(latitude, field.sizes["longitude"])
    found: xr.DataArray = xr.apply_ufunc(
        lambda x: operator(torch.tensor(x, dtype=torch.float64)).numpy(),
        field,
        input_core_dims=[SPACE],
        output_core_dims=[["component", *SPACE]],
    )
    return found.assign_coords(component=["east", "north"])
