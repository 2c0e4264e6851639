r"""Short excerpts of datasets, small enough to ship."""

from __future__ import annotations

from pathlib import Path

from .dataset import open_dataset, select_times
from .files import refuse_existing, replacing

__all__ = ["write_excerpt"]

PACKING = ("dtype", "scale_factor", "add_offset", "_FillValue")


def write_excerpt(
    data: Path, start: str, states: int, output: Path, *, overwrite: bool = False
) -> None:
    r"""Writes some states of a dataset to a zarr store, packed as they were, in one chunk each.

    Arguments:
        data: The dataset.
        start: The first time.
        states: The number of states.
        output: The zarr store to write.
        overwrite: Whether it may be replaced.

    Raises:
        UserError: If the dataset has not as many states from that time on.
    """
    refuse_existing(output, overwrite=overwrite)
    dataset = select_times(open_dataset(data), start, states).transpose("time", ...).load()
    encoding = {}
    for name in dataset.variables:
        old = dataset[name].encoding
        packing = {key: old[key] for key in PACKING if key in old}
        encoding[name] = {"chunks": dataset[name].shape, **packing}
        if name == "time":
            encoding[name] |= {"units": old["units"], "calendar": old["calendar"]}
    with replacing(output, overwrite=overwrite) as temporary:
        dataset.to_zarr(temporary, mode="w", encoding=encoding, zarr_format=2, consolidated=True)
