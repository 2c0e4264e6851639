"""States in exact balance, and states out of it by a known amount."""

import numpy as np
import pytest
import xarray as xr

from appa_prob.balance import (
    GAS_CONSTANT,
    ROTATION,
    geostrophic_imbalance,
    geostrophic_wind,
    hydrostatic_imbalance,
)
from appa_prob.errors import UserError

LATITUDE = np.linspace(-88.75, 88.75, 72)
LONGITUDE = np.arange(144) * 2.5
RADIUS = 6.371e6
PRESSURES = [200.0, 500.0, 850.0]


def rotation(speed: float, levels: list[float]) -> xr.Dataset:
    """Winds u = speed cos(latitude) and the geopotential that balances them, geostrophically:
    its gradient is -f u, so that it is -2 Omega R speed sin^2(latitude) / 2."""
    latitude = xr.DataArray(np.deg2rad(LATITUDE), {"latitude": LATITUDE})
    column = xr.DataArray(levels, {"level": levels})
    one = xr.ones_like(column) * xr.DataArray(np.ones(144), {"longitude": LONGITUDE})
    phi = -ROTATION * RADIUS * speed * np.sin(latitude) ** 2
    u = speed * np.cos(latitude) * one
    return xr.Dataset(
        {
            "geopotential": phi * one,
            "u_component_of_wind": u,
            "v_component_of_wind": 0 * u,
            "temperature": 250.0 + 0 * u,
        }
    )


def test_a_balanced_rotation_has_its_own_geostrophic_wind() -> None:
    states = rotation(20.0, PRESSURES)
    wind = geostrophic_wind(states)
    outside = wind.sel(latitude=slice(25.0, 85.0))
    expected = states.u_component_of_wind.sel(latitude=slice(25.0, 85.0))
    # Second order: (2.5 degrees)^2 / 6 of it, and a little more.
    assert float(abs(outside.u - expected).max()) < 20.0 * np.deg2rad(2.5) ** 2
    assert bool(wind.u.sel(latitude=slice(-19.0, 19.0)).isnull().all())
    assert float(geostrophic_imbalance(states).max()) < 2e-3


def test_the_imbalance_is_the_share_of_the_ageostrophic_wind() -> None:
    states = rotation(20.0, PRESSURES)
    twice = states.assign(u_component_of_wind=2 * states.u_component_of_wind)
    assert np.allclose(geostrophic_imbalance(twice), 0.5, atol=2e-3)
    calm = states.assign(geopotential=0 * states.geopotential)
    assert np.allclose(geostrophic_imbalance(calm), 1.0)


def test_on_sigma_levels_the_slope_of_the_surface_counts() -> None:
    # The same pressure force, told by the surface pressure instead of the geopotential.
    states = rotation(20.0, [0.2, 0.5, 0.95])
    surface = 1e5 * np.exp(states.geopotential.isel(level=0, drop=True) / (GAS_CONSTANT * 250.0))
    sigma = states.assign(geopotential=0 * states.geopotential, surface_pressure=surface)
    xr.testing.assert_allclose(
        geostrophic_imbalance(sigma),
        geostrophic_imbalance(states.assign(surface_pressure=0 * surface + 1e5)),
        atol=1e-6,
    )


def test_an_isothermal_atmosphere_is_in_hydrostatic_balance_and_a_moist_one_is_lighter() -> None:
    states = rotation(0.0, PRESSURES)
    level = states["level"]
    states["geopotential"] = GAS_CONSTANT * 250.0 * np.log(1000.0 / level) + 0 * states.temperature
    assert np.allclose(hydrostatic_imbalance(states), 0.0, atol=1e-9)
    moist = states.assign(specific_humidity=0.01 + 0 * states.temperature)
    assert np.allclose(hydrostatic_imbalance(moist), 0.608 * 0.01 * 250.0)
    assert hydrostatic_imbalance(moist).level.values.tolist() == [200.0, 500.0]
    upside_down = moist.isel(level=slice(None, None, -1))
    xr.testing.assert_allclose(hydrostatic_imbalance(upside_down), hydrostatic_imbalance(moist))


def test_what_balances_need_is_named() -> None:
    states = rotation(1.0, [0.5, 0.9])
    with pytest.raises(UserError, match="balances need surface_pressure; there are: geopotential"):
        geostrophic_wind(states)
    with pytest.raises(UserError, match="expected at least two levels"):
        hydrostatic_imbalance(states.isel(level=[0]))
