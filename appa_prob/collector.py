r"""Collects scores of a method, time by time, for their means.

What several runs share, the truth and the baselines, is collected once for each time, or start and
lead time, whichever run brings it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from .errors import UserError
from .runs import State

__all__ = ["Collector"]


class Collector:
    r"""The parts of one method, time by time.

    Arguments:
        members: The number of its members.
    """

    def __init__(self, members: int | None) -> None:
        self.members = members
        self.parts: dict[str, list[xr.Dataset]] = {}
        self.seen: set[tuple[np.datetime64, int | None]] = set()

    def add(self, kind: str, part: xr.Dataset) -> None:
        r"""Adds a part of some kind."""
        self.parts.setdefault(kind, []).append(part)

    @property
    def times(self) -> int:
        r"""The number of times, or starts, that are scored."""
        return len({time for time, _ in self.seen} or self.parts["scores"])

    def mean(self, kind: str) -> xr.Dataset:
        r"""The mean of the parts of some kind over times.

        Raises:
            UserError: If they differ in levels or, those of runs, in lead times.
        """
        parts = self.parts[kind]
        try:
            return _over_times(parts, shared=bool(self.seen))
        except ValueError:
            if self.seen:
                raise UserError(
                    "runs differ in levels: evaluate them one by one, or choose the levels that "
                    "all have"
                ) from None
            raise UserError(
                "runs of one name differ in lead times or levels: give them different names"
            ) from None

    def new(self, state: State) -> xr.Dataset | None:
        r"""The truth at the lead times of a state that no run before had, if there are any."""
        leads = state.truth.get("lead_time")
        keys = [(state.time, x) for x in ((None,) if leads is None else leads.values.tolist())]
        here = [i for i, key in enumerate(keys) if key not in self.seen]
        self.seen.update(keys)
        if not here:
            return None
        return state.truth if leads is None else state.truth.isel(lead_time=here)


def _over_times(parts: Sequence[xr.Dataset], shared: bool) -> xr.Dataset:
    r"""The mean of parts; of shared ones at each lead time over those parts that have it."""
    if not shared or "lead_time" not in parts[0].dims:
        return xr.concat(parts, "time", join="exact").mean("time", skipna=False)
    leads = np.unique(np.concatenate([part["lead_time"].values for part in parts]))
    means = []
    for lead in leads:
        own = [part.sel(lead_time=lead) for part in parts if lead in part["lead_time"].values]
        means.append(xr.concat(own, "time", join="exact").mean("time", skipna=False))
    return xr.concat(means, "lead_time")
