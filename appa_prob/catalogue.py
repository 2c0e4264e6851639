r"""The channels of a state: its variables, by level, with their units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import UserError, unknown
from .units import same_units

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

__all__ = ["Catalogue", "Channel"]


@dataclass(frozen=True)
class Channel:
    r"""A variable at a level.

    Arguments:
        variable: The name of the variable.
        level: The level; `None` if the variable has none, as surface pressure.
        units: The units of the variable, in the spelling of the dataset.
    """

    variable: str
    level: float | None
    units: str


@dataclass(frozen=True)
class Catalogue:
    r"""The channels of a state, in the order in which they are stacked.

    Arguments:
        channels: The channels; those of a variable lie side by side.

    Raises:
        UserError: If there is no channel, one appears twice, or those of a variable are apart or
        differ in units.

    Example:
        >>> catalogue = Catalogue((
        ...     Channel("temperature", 0.95, "K"),
        ...     Channel("temperature", 0.2, "K"),
        ...     Channel("surface_pressure", None, "Pa"),
        ... ))
        >>> catalogue.variables
        ('temperature', 'surface_pressure')
        >>> catalogue.levels("temperature")
        (0.95, 0.2)
        >>> catalogue.index("temperature", 0.2)
        1
    """

    channels: tuple[Channel, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.channels:
            raise UserError("a catalogue needs at least one channel")
        seen = [(c.variable, c.level) for c in self.channels]
        for variable, level in seen:
            if seen.count((variable, level)) > 1:
                raise UserError(f"the channel {variable} at level {level} appears twice")
        for variable in self.variables:
            positions = [i for i, c in enumerate(self.channels) if c.variable == variable]
            channels = self.channels[positions[0] : positions[-1] + 1]
            if len(channels) != len(positions):
                raise UserError(f"the channels of {variable} are not side by side")
            if len({(c.units, c.level is None) for c in channels}) > 1:
                raise UserError(
                    f"the channels of {variable} differ in units, or some lack a level"
                )

    @classmethod
    def from_dataset(
        cls,
        dataset: xr.Dataset,
        variables: Sequence[str] | None = None,
        levels: Sequence[float] | None = None,
    ) -> Catalogue:
        r"""The catalogue of a dataset.

        Arguments:
            dataset: A dataset whose variables have the dimensions `time`, `latitude`, `longitude`
                and, maybe, `level`, in any order, and an attribute `units`.
            variables: The variables to take, in this order. By default all that vary in time, in
                the order of the dataset; others, such as the orography, are not states.
            levels: The levels to take, in this order. By default all, in that of the dataset.

        Raises:
            UserError: If a variable or a level isn't there, a variable has no units or other
            dimensions, or if there is none.
        """
        known = [str(name) for name, array in dataset.data_vars.items() if "time" in array.dims]
        channels: list[Channel] = []
        for name in known if variables is None else variables:
            if name not in known:
                raise unknown("variable", name, known)
            array = dataset[name]
            dimensions = {str(d) for d in array.dims}
            if dimensions - {"level"} != {"time", "latitude", "longitude"}:
                raise UserError(
                    f"{name} has the dimensions {', '.join(map(str, array.dims))}; "
                    "expected time, latitude, longitude and, maybe, level: rename or drop them, "
                    "or list the variables to take"
                )
            if "units" not in array.attrs:
                raise UserError(f"{name} has no units: give it an attribute `units`, as in CF")
            on_levels = "level" in dimensions
            own: Sequence[float | None] = [None]
            if on_levels:
                own = _levels(name, [float(x) for x in dataset["level"].values], levels)
            channels.extend(Channel(name, level, str(array.attrs["units"])) for level in own)
        if not channels:
            raise UserError("the dataset has no variable that varies in time")
        return cls(tuple(channels))

    @property
    def variables(self) -> tuple[str, ...]:
        r"""The variables, in order."""
        return tuple(dict.fromkeys(c.variable for c in self.channels))

    def levels(self, variable: str) -> tuple[float, ...]:
        r"""The levels of a variable, in order; none if it has no level.

        Raises:
            UserError: If the variable isn't there.
        """
        return tuple(c.level for c in self._channels(variable) if c.level is not None)

    def units(self, variable: str) -> str:
        r"""The units of a variable.

        Raises:
            UserError: If the variable isn't there.
        """
        return self._channels(variable)[0].units

    def index(self, variable: str, level: float | None = None) -> int:
        r"""The position of a channel.

        Arguments:
            variable: The name of the variable.
            level: The level, to a relative precision of :math:`10^{-5}`; `None` if the variable
                has none.

        Raises:
            UserError: If the variable or the level isn't there.
        """
        channels = self._channels(variable)
        levels = self.levels(variable)
        if not levels and level is None:
            return self.channels.index(channels[0])
        if not levels:
            raise UserError(f"{variable} has no levels, got level {level:g}: leave it out")
        listed = ", ".join(f"{known:g}" for known in levels)
        if level is None:
            raise UserError(f"{variable} needs a level; there are: {listed}")
        near = min(range(len(levels)), key=lambda i: abs(levels[i] - level))
        if not np.isclose(levels[near], level, rtol=1e-5, atol=0.0):
            raise UserError(
                f"{variable} has no level {level:g}; did you mean {levels[near]:g}? "
                f"There are: {listed}"
            )
        return self.channels.index(channels[near])

    def check(self, dataset: xr.Dataset) -> None:
        r"""Checks that a dataset has all channels, in these units.

        Arguments:
            dataset: The dataset.

        Raises:
            UserError: If a variable or a level isn't there, or has other units.

        Example:
            >>> import xarray as xr
            >>> dims = ("time", "latitude", "longitude")
            >>> dataset = xr.Dataset({"t2m": (dims, np.ones((1, 2, 4)), {"units": "K"})})
            >>> Catalogue((Channel("t2m", None, "K"),)).check(dataset)
            >>> Catalogue((Channel("t1m", None, "K"),)).check(dataset)
            Traceback (most recent call last):
                ...
            appa_prob.errors.UserError: unknown variable "t1m"; did you mean "t2m"? There are: t2m
        """
        found = Catalogue.from_dataset(dataset, self.variables)
        for channel in self.channels:
            found.index(channel.variable, channel.level)
            units = found.units(channel.variable)
            if not same_units(units, channel.units):
                raise UserError(
                    f"{channel.variable} is in {units}; expected {channel.units}: convert it"
                )

    def to_dataset(
        self, fields: Tensor | NDArray[np.floating], coords: Mapping[str, ArrayLike]
    ) -> xr.Dataset:
        r"""States as a dataset, one variable for all its levels.

        Variables have the dimensions of the leading axes, then `level` if they have levels, then
        `latitude` and `longitude`, and an attribute `units`.

        Arguments:
            fields: The states, with shape :math:`(*, C, H, W)`, a tensor or an array.
            coords: The coordinates of the leading axes, in their order, then `latitude` and
                `longitude`.

        Raises:
            ValueError: If variables have different levels, or shapes don't fit.
        """
        import xarray as xr

        if not isinstance(fields, np.ndarray):
            fields = fields.detach().cpu().numpy()
        levels = {self.levels(variable) for variable in self.variables} - {()}
        if len(levels) > 1:
            raise ValueError(
                f"expected the same levels for all variables that have any, got {sorted(levels)}"
            )
        sizes = {name: len(np.asarray(values)) for name, values in coords.items()}
        shape = (*list(sizes.values())[:-2], len(self.channels), *list(sizes.values())[-2:])
        if fields.shape != shape:
            raise ValueError(f"expected fields of shape {shape}, got {fields.shape}")
        arrays = {}
        for variable in self.variables:
            own = self.levels(variable)
            first = self.index(variable, own[0] if own else None)
            values = fields[..., first : first + max(len(own), 1), :, :]
            dims = list(coords)
            if own:
                dims.insert(-2, "level")
            else:
                values = values[..., 0, :, :]
            attributes = {"units": self.units(variable)}
            arrays[variable] = (dims, np.ascontiguousarray(values), attributes)
        named = {name: (name, np.asarray(values)) for name, values in coords.items()}
        if levels:
            named["level"] = ("level", np.asarray(levels.pop()))
        return xr.Dataset(arrays, named)

    def _channels(self, variable: str) -> list[Channel]:
        channels = [c for c in self.channels if c.variable == variable]
        if not channels:
            raise unknown("variable", variable, self.variables)
        return channels


def _levels(name: str, known: Sequence[float], chosen: Sequence[float] | None) -> Sequence[float]:
    if chosen is None:
        return known
    for level in chosen:
        if level not in known:
            raise unknown(f"level of {name}", f"{level:g}", [f"{x:g}" for x in known])
    return [float(level) for level in chosen]
