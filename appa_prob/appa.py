r"""The Appa model: an autoencoder, a denoiser of latent trajectories, statistics and coordinates
in one object.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
import xarray as xr
from torch import Tensor

from appa_prob.samplers import (
    Denoiser,
    PreconditionedDenoiser,
    ShardedWindows,
    WindowedDenoiser,
)

from .autoencoder import StandardisedAutoencoder
from .catalogue import Catalogue
from .conv_autoencoder import ConvAutoencoder
from .errors import UserError
from .files import load_tensors, replacing, save_tensors
from .full_model import ARCHITECTURE, pack_full, unpack_full
from .grid import Grid
from .published import Which, read_published
from .reconstruction_error import ReconstructionError
from .small_model import pack_small, unpack_small
from .statistics import Statistics
from .transformer import TrajectoryTransformer
from .vision_transformer import VisionTransformer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Appa"]

# What the CF conventions ask of coordinates, and standard names of common variables.
ATTRIBUTES = {
    "member": {"standard_name": "realization", "long_name": "ensemble member"},
    "time": {"standard_name": "time", "axis": "T"},
    "level": {"long_name": "level", "positive": "down", "axis": "Z"},
    "latitude": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
    "temperature": {"standard_name": "air_temperature"},
    "u_component_of_wind": {"standard_name": "eastward_wind"},
    "v_component_of_wind": {"standard_name": "northward_wind"},
    "specific_humidity": {"standard_name": "specific_humidity"},
    "geopotential": {"standard_name": "geopotential"},
    "surface_pressure": {"standard_name": "surface_air_pressure"},
}


@dataclass
class Appa:
    r"""A generative model of trajectories of the atmosphere.

    A trajectory of latents :math:`z_{1:L}` follows the prior of the denoiser; a state is decoded
    as

    .. math:: x_l = D(z_l) + e \odot w_l

    in standardised units, with :math:`e` the error of the autoencoder in its validation period,
    and :math:`w_l` of unit variance, see :class:`ReconstructionError`.

    References:
        | Appa: Bending Weather Dynamics with Latent Diffusion Models for Global Data Assimilation
        (Andry et al., 2025)
        | https://arxiv.org/abs/2504.18720

    Attributes:
        catalogue: The channels of a state.
        grid: The latitude-longitude grid.
        statistics: The seasonal climatology that states are standardised with.
        autoencoder: The autoencoder.
        denoiser: The denoiser of windows of latents.
        reconstruction: The law of the errors of the autoencoder.
        variability: The standard deviation of the standardised anomalies, with shape
            :math:`(C, H, W)`.
        step: The time between two states.
        provenance: What the model was trained on, and how.

    Example:
        >>> appa = Appa.from_pretrained("appa-small")
        >>> appa.window, tuple(appa.autoencoder.latent_shape), appa.autoencoder.compression
        (12, (28, 8, 16), 12.0)
    """

    catalogue: Catalogue
    grid: Grid
    statistics: Statistics
    autoencoder: StandardisedAutoencoder
    denoiser: PreconditionedDenoiser
    reconstruction: ReconstructionError
    variability: Tensor
    step: np.timedelta64
    provenance: dict[str, Any]

    @property
    def window(self) -> int:
        r"""The number of states of a window of the denoiser."""
        return int(self.denoiser.event_shape[0])

    @property
    def error(self) -> Tensor:
        r"""The standard deviation :math:`e` of the errors of the autoencoder, with shape
        :math:`(C, H, W)`.
        """
        return self.reconstruction.deviation

    def to(self, device: torch.device | str) -> Appa:
        r"""Moves the model to a device, in place."""
        self.statistics.to(device)
        self.autoencoder.to(device)
        self.denoiser.to(device)
        self.reconstruction = self.reconstruction.to(device)
        self.variability = self.variability.to(device)
        return self

    def decode(self, z: Tensor, precision: torch.dtype | None = None) -> Tensor:
        r"""Decodes latents to standardised states.

        Arguments:
            z: Latents, with shape :math:`(*, c, h, w)`.
            precision: The floating type to compute in, by automatic mixed precision.
        """
        if precision is None:
            return self.autoencoder.decode(z)
        with torch.autocast(z.device.type, precision):
            return self.autoencoder.decode(z).to(z.dtype)

    def trajectory_denoiser(
        self,
        times: NDArray[np.datetime64],
        stride: int | None = None,
        precision: torch.dtype | None = None,
        group: dist.ProcessGroup | None = None,
        at_once: int | None = None,
    ) -> Denoiser:
        r"""The denoiser of trajectories at some times.

        Arguments:
            times: The times, :attr:`step` apart, at least :attr:`window` of them.
            stride: The number of states between two windows; by default half a window.
            precision: The floating type that the network computes in.
            group: Processes that share the windows; the denoiser is then that of the piece of
                this one. By default it is that of whole trajectories.
            at_once: The number of windows that are evaluated at once; by default all are.

        Raises:
            UserError: If the times are too few or not :attr:`step` apart.
        """
        if len(times) < self.window:
            raise UserError(
                f"expected at least {self.window} states, the window of the model, got "
                f"{len(times)}"
            )
        if not (np.diff(times) == self.step).all():
            hours = self.step / np.timedelta64(1, "h")
            raise UserError(
                f"expected states every {hours:g} h, as the model was trained, got other steps"
            )
        network = self.denoiser.network
        assert isinstance(network, TrajectoryTransformer | VisionTransformer)
        dates = network.date_features(times).to(self.error)
        stride = stride or self.window // 2
        denoiser = copy.copy(self.denoiser)
        denoiser.precision = precision
        options: Any = {
            "length": len(times),
            "stride": stride,
            "context": {"date": dates},
            "at_once": at_once,
        }
        if group is None:
            return WindowedDenoiser(denoiser, **options)
        return ShardedWindows(denoiser, **options, group=group)

    def dataset(self, states: Tensor, times: NDArray[np.datetime64]) -> xr.Dataset:
        r"""Physical states as a dataset with CF metadata.

        Arguments:
            states: States in physical units, with shape :math:`(M, L, C, H, W)`.
            times: Their times, with shape :math:`(L)`.
        """
        coords = {
            "member": np.arange(len(states)),
            "time": times,
            "latitude": self.grid.latitude,
            "longitude": self.grid.longitude,
        }
        dataset = self.catalogue.to_dataset(states.cpu().numpy(), coords)
        for name, attributes in ATTRIBUTES.items():
            if name in dataset.variables:
                dataset[name].attrs |= attributes
        return dataset

    def save(self, folder: Path, *, overwrite: bool = False) -> None:
        r"""Writes `appa.json` and `weights.safetensors`.

        Arguments:
            folder: The folder to write, all of it or nothing.
            overwrite: Whether it may be replaced.

        Raises:
            UserError: If it exists and may not be replaced.
        """
        description = {
            "channels": [[c.variable, c.level, c.units] for c in self.catalogue.channels],
            "latitude": self.grid.latitude.tolist(),
            "longitude": self.grid.longitude.tolist(),
            "step_hours": float(self.step / np.timedelta64(1, "h")),
            "provenance": self.provenance,
        }
        pack = pack_full if isinstance(self.autoencoder, ConvAutoencoder) else pack_small
        own, tensors = pack(self)
        with replacing(Path(folder), overwrite=overwrite) as temporary:
            temporary.mkdir()
            (temporary / "appa.json").write_text(json.dumps(description | own, indent=1) + "\n")
            save_tensors(temporary / "weights.safetensors", tensors, {})

    @classmethod
    def from_pretrained(cls, name: str | Path, device: torch.device | str = "cpu") -> Appa:
        r"""Loads a model that ships with the package, or one that :meth:`save` wrote.

        Arguments:
            name: The name of a model, such as `appa-small`, or a folder.
            device: The device for the model.

        Raises:
            UserError: If there is no such model, or its files are truncated.
        """
        folder = _find(name)
        try:
            description = json.loads((folder / "appa.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(
                f"{folder / 'appa.json'} can't be read ({error}): copy or make the model again"
            ) from None
        tensors, _ = load_tensors(folder / "weights.safetensors")
        try:
            return cls._assemble(description, {k: v.float() for k, v in tensors.items()}).to(
                device
            )
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder} does not hold a whole model ({reason}): copy or make it again"
            ) from None

    @classmethod
    def from_published(
        cls,
        directory: str | Path,
        which: Which = "best",
        statistics: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> Appa:
        r"""Loads a model from the folders of the published ones, see :mod:`appa_prob.published`.

        Configurations are read without running what they say, and weights as tensors only. The
        states of a model whose statistics are not at hand stay standardised, in units of `1`.

        Arguments:
            directory: A folder with one denoiser somewhere in it, or the folder of the denoiser.
            which: Whether to take the weights with the best score or the last ones.
            statistics: The zarr store of the statistics of states; by default the one in
                `directory/data`, if there is one.
            device: The device for the model.

        Raises:
            UserError: If there is no denoiser or more than one, or if a file is missing, broken or
                does not fit.
        """
        store = None if statistics is None else Path(statistics)
        return cls(**read_published(Path(directory), which, store)).to(device)

    @classmethod
    def _assemble(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> Appa:
        full = description.get("architecture") == ARCHITECTURE
        return cls(
            **(unpack_full if full else unpack_small)(description, tensors),
            step=np.timedelta64(round(description["step_hours"] * 60), "m"),
            provenance=description["provenance"],
        )


def _find(name: str | Path) -> Path:
    shipped = resources.files("appa_prob") / "weights"
    for folder in (Path(name), Path(str(shipped)) / str(name)):
        if (folder / "appa.json").is_file():
            return folder
    models = sorted(entry.name for entry in Path(str(shipped)).glob("*/"))
    raise UserError(
        f"there is no model {str(name)!r}: give a folder with appa.json, or one of "
        f"{', '.join(models)}"
    )
