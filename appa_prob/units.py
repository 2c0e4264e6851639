r"""Quantities with units, as people write them, in the units that the code expects."""

from __future__ import annotations

import math
import re
from functools import lru_cache

import pint

from .errors import UserError

__all__ = ["converter", "parse_quantity", "same_units"]

NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.DOTALL)
# What quantities of a dimension are called, by a unit of that dimension.
KINDS = {
    "": "a ratio",
    "K": "a temperature",
    "Pa": "a pressure",
    "m": "a length",
    "s": "a duration",
    "kg": "a mass",
    "m / s": "a speed",
    "m / s**2": "an acceleration",
    "m**2 / s**2": "a geopotential",
    "kg / m**2": "a mass per area",
    "kg / m**3": "a density",
    "W / m**2": "an energy flux",
    "1 / s": "a rate",
}


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry[float]:
    return pint.UnitRegistry(cache_folder=None)


@lru_cache
def _unit(text: str) -> pint.Unit | None:
    r"""A unit as CF (`m s-1`), Python (`m s**-1`) or people (`m/s`) spell it, else `None`."""
    text = re.sub(r"(?<=[A-Za-z])\s*(?:\^|\*\*)?\s*([+-]?\d+)", r"**\1", text.strip())
    try:
        return _registry().Unit("" if text == "1" else text)
    except Exception:  # pint lets the errors of its tokenizer through, assertions among them
        return None


def _kind(unit: pint.Unit) -> str:
    for text, kind in KINDS.items():
        if _registry().Unit(text).dimensionality == unit.dimensionality:
            return kind
    return f"a quantity in {unit:~}"


def parse_quantity(text: object, units: str, what: str, *, signed: bool = False) -> float:
    r"""Reads a positive quantity, such as an error standard deviation or a width.

    Offsets don't count: an error of 1 degree Celsius is one of 1 K.

    Arguments:
        text: A number with a unit, as in `0.5 g/kg`. Ratios may do without a unit.
        units: The units of the result, in the spelling of a dataset.
        what: What it is, for the message of an error.
        signed: Whether it may be zero or negative, as a bias.

    Raises:
        UserError: If it is no number, not positive, has no unit or one of another kind, or if a
            unit is not understood.

    Example:
        >>> parse_quantity("1 hPa", "kg m-1 s-2", "error for surface_pressure")
        100.0
        >>> parse_quantity("1 kg", "K", "error")
        Traceback (most recent call last):
            ...
        appa_prob.errors.UserError: error: "1 kg" is a mass; expected a temperature in K
    """
    target = _unit(units)
    if target is None:
        raise UserError(f'{what}: the unit "{units}" of the dataset is not understood')
    expected = f"expected {_kind(target)} in {units}"
    match = NUMBER.fullmatch(str(text))
    if match is None or isinstance(text, bool):
        raise UserError(f'{what}: "{text}" is no number with a unit; {expected}')
    value, unit = float(match[1]), _unit(match[2])
    if unit is None:
        raise UserError(f'{what}: the unit "{match[2]}" of "{text}" is not understood; {expected}')
    if unit.dimensionality != target.dimensionality:
        got = f"is {_kind(unit)}" if match[2] else "has no unit"
        raise UserError(f'{what}: "{text}" {got}; {expected}')
    if not (math.isfinite(value) and (signed or value > 0.0)):
        expectation = "finite" if signed else "positive"
        raise UserError(f'{what}: "{text}" is not {expectation}; {expected}')
    return value * _difference(unit, target)


def same_units(first: str, second: str) -> bool:
    r"""Whether two spellings are those of one unit.

    Example:
        >>> same_units("m s**-1", "m/s"), same_units("hPa", "Pa")
        (True, False)
    """
    units = [_unit(text) for text in (first, second)]
    return first == second or (None not in units and units[0] == units[1])


def converter(source: str, units: str, what: str) -> tuple[float, float]:
    r"""How values in some units become values in others: by a factor, then an offset.

    Arguments:
        source: The units of the values.
        units: The units that are wanted.
        what: What the values are, for the message of an error.

    Raises:
        UserError: If a unit is not understood, or they are of different kinds.

    Example:
        >>> converter("degC", "K", "temperature"), converter("hPa", "Pa", "pressure")
        ((1.0, 273.15), (100.0, 0.0))
    """
    if same_units(source, units):
        return 1.0, 0.0
    target, unit = _unit(units), _unit(source)
    if target is None:
        raise UserError(f'{what}: the unit "{units}" of the model is not understood')
    expected = f"expected units of {_kind(target)}, as {units}"
    if unit is None:
        raise UserError(f'{what}: the unit "{source}" is not understood; {expected}')
    if unit.dimensionality != target.dimensionality:
        raise UserError(f'{what}: "{source}" is the unit of {_kind(unit)}; {expected}')
    offset = float(_registry().Quantity(0.0, unit).to(target).magnitude)
    return _difference(unit, target), offset


def _difference(source: pint.Unit, target: pint.Unit) -> float:
    quantity = _registry().Quantity
    one, zero = (float(quantity(x, source).to(target).magnitude) for x in (1.0, 0.0))
    return one - zero
