r"""Published Appa models, from the folders that their training left.

.. code-block:: text

    autoencoders/<autoencoder>/<lap>/config.yaml  model_best.pth  model_last.pth
        latents/<dump>/<dump>.h5  stats.pth  ae/config.yaml  ae/model.pth
            denoisers/<run>/<lap>/config.yaml  model_best.pth  model_last.pth

A denoiser is one of latents that a copy of the autoencoder made, in the folder of the dump. What
it saw were latents standardised by the mean and the total standard deviation
:math:`\sqrt{s^2 + \tau^2}`, with :math:`\tau` the noise that the autoencoder was trained with.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from .catalogue import Catalogue, Channel
from .conv_autoencoder import ConvAutoencoder
from .dates import to_times
from .era5 import ALL_LEVELS, LEVELS, era5_catalogue, era5_grid, read_era5_statistics
from .errors import UserError
from .published_parts import (
    build_autoencoder,
    build_denoiser,
    read_published_config,
    read_published_weights,
)
from .reconstruction_error import ReconstructionError
from .statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Which", "find_published", "read_latents", "read_published"]

Which = Literal["best", "last"]


def read_published(
    directory: Path, which: Which = "best", statistics: Path | None = None
) -> dict[str, Any]:
    r"""The attributes of an :class:`~appa_prob.appa.Appa` from a published folder.

    Arguments:
        directory: A folder with one denoiser somewhere in it, or the lap of the denoiser itself.
        which: Whether to take the weights with the best score or the last ones.
        statistics: The zarr store of the statistics of states; by default the one in a folder
            `data` of the directory or, if there is none, states stay standardised.

    Raises:
        UserError: If there is no denoiser or more than one, or a file is missing, broken or does
            not fit.
    """
    folder, lap = find_published(Path(directory))
    config, trained = (read_published_config(f / "config.yaml") for f in (folder, lap))
    section = config.get("ae", {})
    autoencoder = build_autoencoder(section)
    weights = "model.pth" if folder.name == "ae" else f"model_{which}.pth"
    load_weights(autoencoder, folder / weights)

    channels, *latent = autoencoder.latent_shape
    denoiser = build_denoiser(trained, channels, (latent[0], latent[1]))
    load_weights(denoiser.network, lap / f"model_{which}.pth")
    settings = trained["train"]
    if settings.get("standardize", True):
        mean, std = _moments(lap.parents[2], latent)
        noise = section.get("noise_level", 0.0) if settings.get("inject_ae_noise", True) else 0.0
        autoencoder.standardise(mean, (std.square() + noise**2).sqrt())

    catalogue, fitted = _states(Path(directory), autoencoder, statistics)
    shape = autoencoder.state_shape
    grid = era5_grid(shape[1:])
    return {
        "catalogue": catalogue,
        "grid": grid,
        "statistics": fitted,
        "autoencoder": autoencoder.eval().requires_grad_(False),
        "denoiser": denoiser.eval().requires_grad_(False),
        # Neither is published; the decoder is taken at its word.
        "reconstruction": ReconstructionError.independent(torch.zeros(shape[0], 1, 1), grid),
        "variability": torch.ones(shape[0], 1, 1),
        "step": np.timedelta64(60 * settings.get("blanket_dt", 1), "m"),
        "provenance": {"autoencoder": config, "denoiser": trained, "weights": which},
    }


def load_weights(module: nn.Module, path: Path) -> None:
    r"""Loads published weights, all of them and no others.

    Arguments:
        module: A published autoencoder or network.
        path: The `.pth` file.

    Raises:
        UserError: If the file can't be read, or holds the weights of another module.
    """
    # The standardisation of latents is not part of a published autoencoder.
    own = {k: v for k, v in module.state_dict().items() if k.startswith("latent_")}
    try:
        module.load_state_dict(read_published_weights(path) | own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit its config.yaml: {reason}") from None


def read_latents(path: Path, grid: Sequence[int]) -> xr.DataArray:
    r"""Opens the latents of a dump, which are raw: saturated, neither standardised nor noisy.

    Arguments:
        path: The HDF5 file.
        grid: The shape of the grid of a latent.

    Returns:
        The latents, with dimensions `time`, `cell` and `channel`; cells are rows of the grid, one
        after the other. Values are read when they are asked for.

    Raises:
        UserError: If the file can't be read, or is of another grid.
    """
    try:
        dataset = xr.open_dataset(path, engine="h5netcdf", phony_dims="access")
        latents, dates = dataset["latents"], dataset["dates"]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} can't be read as a dump of latents ({error}); HDF5 needs the extra `netcdf`"
        ) from None
    if latents.ndim != 3 or latents.shape[1] != grid[0] * grid[1]:
        raise UserError(
            f"{path}: expected latents of {grid[0]} x {grid[1]} cells, got {latents.shape}"
        )
    named = latents.rename(dict(zip(latents.dims, ("time", "cell", "channel"), strict=True)))
    times: NDArray[np.datetime64] = to_times(dates.values).astype("datetime64[ns]")
    return named.assign_coords(time=times)


def find_published(directory: Path) -> tuple[Path, Path]:
    r"""The folders of the autoencoder and of the denoiser of a published model.

    Arguments:
        directory: A folder with one denoiser somewhere in it, or the lap of the denoiser itself.

    Raises:
        UserError: If there is no denoiser or more than one.
    """
    lap = _find_denoiser(directory.resolve())
    dump = lap.parents[2]
    return (dump / "ae" if (dump / "ae" / "config.yaml").is_file() else dump.parents[1]), lap


def _find_denoiser(directory: Path) -> Path:
    if (directory / "config.yaml").is_file() and directory.parents[1].name == "denoisers":
        return directory
    found = sorted(path.parent for path in directory.rglob("denoisers/*/*/config.yaml"))
    if not found:
        raise UserError(
            f"{directory} holds no published denoiser: expected denoisers/<run>/<lap>/config.yaml"
        )
    if len(found) > 1:
        names = ", ".join(str(lap.relative_to(directory)) for lap in found[:5])
        raise UserError(f"{directory} holds {len(found)} denoisers: give one of {names}")
    return found[0]


def _moments(dump: Path, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of raw latents by channel."""
    if (dump / "stats.pth").is_file():
        stats = read_published_weights(dump / "stats.pth")
        return stats["mean"], stats["std"]
    files = sorted(dump.glob("*.h5"))
    if not files:
        raise UserError(
            f"{dump} holds neither stats.pth nor latents (.h5), one of which is needed"
        )
    latents = read_latents(files[0], grid)
    total, square = torch.zeros(2, latents.shape[2], dtype=torch.float64)
    for start in range(0, latents.shape[0], 256):
        part = torch.as_tensor(latents[start : start + 256].values).double()
        total += part.sum((0, 1))
        square += part.square().sum((0, 1))
    count = latents.shape[0] * latents.shape[1]
    mean = total / count
    return mean.float(), (square / count - mean.square()).sqrt().float()


def _states(
    directory: Path, autoencoder: ConvAutoencoder, statistics: Path | None
) -> tuple[Catalogue, Statistics]:
    """The channels of a state, and what they are standardised by."""
    count = autoencoder.state_shape[0]
    known = {len(c.channels): c for c in map(era5_catalogue, (LEVELS, ALL_LEVELS))}
    catalogue = known.get(count)
    if statistics is None:
        stores = sorted((directory / "data").glob("*stat*.zarr"))
        statistics = stores[0] if stores and catalogue is not None else None
    if statistics is not None:
        if catalogue is None:
            raise UserError(
                f"expected a model of {' or '.join(map(str, known))} channels for statistics of "
                f"ERA5, got one of {count}: leave them out"
            )
        return catalogue, read_era5_statistics(statistics, catalogue)
    if catalogue is None:
        channels = tuple(Channel(f"channel_{i}", None, "1") for i in range(count))
    else:
        channels = tuple(replace(channel, units="1") for channel in catalogue.channels)
    return Catalogue(channels), Statistics(torch.zeros(1, count, 1, 1), torch.ones(count))
