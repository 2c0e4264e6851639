r"""The states that are taken as the truth, read as they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import xarray as xr
from torch import Tensor

from .catalogue import Catalogue
from .dataset import open_dataset, parse_time, read_states, select_times, shipped_sample
from .rollout import state_times

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .appa import Appa

__all__ = ["Missing", "Truth", "open_truth"]

Missing = Literal["refuse", "mask"]


class Truth:
    r"""A trajectory of a dataset, in physical units.

    Slices of it are tensors with shape :math:`(L, C, H, W)`; nothing else is kept in memory.

    Arguments:
        dataset: The dataset, which has the channels.
        catalogue: The channels.
        missing: Whether values that are not finite are refused, once they are read.
    """

    def __init__(
        self, dataset: xr.Dataset, catalogue: Catalogue, missing: Missing = "refuse"
    ) -> None:
        self.dataset, self.catalogue, self.missing = dataset, catalogue, missing
        self.times: NDArray[np.datetime64] = dataset.time.values

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, states: slice) -> Tensor:
        chosen, allowed = self.dataset.isel(time=states), self.missing == "mask"
        return read_states(chosen, self.catalogue, allow_missing=allowed)[0]

    @classmethod
    def open(
        cls, appa: Appa, data: Path | str, start: str, states: int, missing: Missing = "refuse"
    ) -> Truth:
        r"""Opens states of a dataset as far apart as the model takes them; those between are left
        out.

        Arguments:
            appa: The model, which the data must fit.
            data: The dataset; `sample` is the one that ships with the package.
            start: The first time.
            states: The number of states.
            missing: Whether values that are not finite are refused.

        Raises:
            UserError: If the data don't fit the model, or lack one of the states.
        """
        dataset = open_dataset(shipped_sample(data))
        appa.grid.check(dataset.latitude.values, dataset.longitude.values)
        appa.catalogue.check(dataset)
        chosen = select_times(dataset, start, states, appa.step)
        return cls(chosen, appa.catalogue, missing)


def open_truth(
    appa: Appa, data: Path | str | None, start: str, states: int, missing: Missing = "refuse"
) -> tuple[Truth | None, NDArray[np.datetime64]]:
    r"""The truth and its times. Without data there is none, and times are as far apart as the
    model was trained on.

    Arguments:
        appa: The model.
        data: As of :meth:`Truth.open`, or none.
        start: The first time.
        states: The number of states.
        missing: As of :meth:`Truth.open`.

    Raises:
        UserError: As :meth:`Truth.open` does.
    """
    if data is None:
        return None, state_times(parse_time(start), states, appa.step)
    truth = Truth.open(appa, data, start, states, missing)
    return truth, truth.times
