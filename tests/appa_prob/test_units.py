"""Quantities with units: conversions, and what is refused."""

import pytest

from appa_prob.errors import UserError
from appa_prob.units import parse_quantity


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("1 hPa", "Pa", 100.0),
        ("1 mbar", "Pa", 100.0),
        ("0.5 g/kg", "kg kg-1", 5e-4),
        ("0.5 g/kg", "kg kg**-1", 5e-4),
        ("0.5 g kg^-1", "1", 5e-4),
        ("2 %", "1", 0.02),
        (0.1, "kg kg-1", 0.1),
        ("36 km/h", "m s-1", 10.0),
        ("1 m/s", "m s**-1", 1.0),
        ("1 degC", "K", 1.0),
        ("1.8 degF", "K", 1.0),
        ("1e-1K", "K", 0.1),
        ("  .5   K ", "K", 0.5),
        ("2 dam", "m", 20.0),
        ("1 m**2/s**2", "m2 s-2", 1.0),
        ("30 s", "min", 0.5),
        ("1 hPa", "kg m-1 s-2", 100.0),
    ],
)
def test_conversions(text: object, units: str, value: float) -> None:
    assert parse_quantity(text, units, "error") == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "units", "message"),
    [
        ("1 hPa", "K", '"1 hPa" is a pressure; expected a temperature in K'),
        ("1 K", "m s-1", '"1 K" is a temperature; expected a speed in m s-1'),
        ("1 s", "kg kg-1", '"1 s" is a duration; expected a ratio in kg kg-1'),
        ("1", "K", '"1" has no unit; expected a temperature in K'),
        (1.0, "Pa", '"1.0" has no unit; expected a pressure in Pa'),
        ("1 kelvins2", "K", "is a quantity in"),
        ("-1 K", "K", '"-1 K" is not positive'),
        ("0 K", "K", "is not positive"),
        ("1e999 K", "K", "is not positive"),
        ("nan K", "K", "is no number with a unit"),
        ("one K", "K", "is no number with a unit"),
        ("", "K", "is no number with a unit"),
        (None, "K", "is no number with a unit"),
        (True, "1", "is no number with a unit"),
        ([1.0], "K", "is no number with a unit"),
        ("1 foo", "K", 'the unit "foo" of "1 foo" is not understood'),
        ("1 K", "foo", 'the unit "foo" of the dataset is not understood'),
    ],
)
def test_refusals(text: object, units: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_quantity(text, units, "error for x")
    assert str(caught.value).startswith("error for x: ")
    assert message in str(caught.value)
