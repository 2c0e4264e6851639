r"""The small models as JSON and tensors, in half precision or 8 bits where that loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from appa_prob.samplers import Recalibration

from .autoencoder import Autoencoder
from .catalogue import Catalogue, Channel
from .full_model import under
from .grid import Grid
from .reconstruction_error import ReconstructionError
from .statistics import Statistics
from .train_autoencoder import AutoencoderConfig
from .train_denoiser import DenoiserConfig, build_denoiser
from .trajectory_prior import TrajectoryCovariance

if TYPE_CHECKING:
    from .appa import Appa

__all__ = ["pack_small", "unpack_small"]


def pack_small(appa: Appa) -> tuple[dict[str, Any], dict[str, Tensor]]:
    r"""What of a model is JSON, and its tensors.

    Arguments:
        appa: A small model, whose configurations are its provenance.
    """
    scale = appa.statistics.scale.reshape(-1, 1, 1)
    prior = appa.denoiser.prior
    assert prior is not None and isinstance(prior.covariance, TrajectoryCovariance)
    space = prior.covariance.basis.space
    half = {f"autoencoder.{k}": v for k, v in appa.autoencoder.state_dict().items()}
    half |= {f"network.{k}": v for k, v in appa.denoiser.network.state_dict().items()}
    # The modes of the first and the last wavenumber are real.
    half |= {"prior.space.real": space.real, "prior.space.imag": space.imag[1:-1]}
    full = {
        "prior.lags": torch.view_as_real(prior.covariance.lags),
        "statistics.mean": appa.statistics.coefficients[0],
        "statistics.scale": appa.statistics.scale,
    }
    full |= _pack("statistics.cycle", appa.statistics.coefficients[1:] / scale)
    full |= _pack("error", appa.error) | _pack("variability", appa.variability)
    full["error.power"] = appa.reconstruction.power
    description: dict[str, Any] = {"error_memory": appa.reconstruction.memory}
    if (recalibration := appa.denoiser.recalibration) is not None:
        description["recalibration"] = [recalibration.first, recalibration.last]
        full["recalibration"] = recalibration.coefficients
    return description, {k: v.half() for k, v in half.items()} | full


def unpack_small(description: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    r"""The attributes of a model from what :func:`pack_small` gave.

    Arguments:
        description: What is JSON.
        tensors: The tensors.
    """
    provenance = description["provenance"]
    scale = tensors["statistics.scale"]
    cycle = _unpack("statistics.cycle", tensors) * scale.reshape(-1, 1, 1)
    statistics = Statistics(torch.cat((tensors["statistics.mean"].unsqueeze(0), cycle)), scale)
    grid = Grid(np.asarray(description["latitude"]), np.asarray(description["longitude"]))

    config = AutoencoderConfig.model_validate(provenance["autoencoder"])
    shape = (len(grid.latitude), len(grid.longitude))
    autoencoder = Autoencoder(
        len(scale), shape, config.latent_channels, config.widths, config.blocks
    )
    autoencoder.load_state_dict(under("autoencoder", tensors))

    imaginary = torch.nn.functional.pad(tensors["prior.space.imag"], (0, 0, 0, 0, 1, 1))
    space = _orthonormal(torch.complex(tensors["prior.space.real"], imaginary))
    lags = torch.view_as_complex(tensors["prior.lags"].contiguous())
    covariance = TrajectoryCovariance(space, lags, autoencoder.latent_shape)
    denoiser = build_denoiser(DenoiserConfig.model_validate(provenance["denoiser"]), covariance)
    denoiser.network.load_state_dict(under("network", tensors))
    if "recalibration" in description:
        levels = description["recalibration"]
        denoiser.recalibration = Recalibration(tensors["recalibration"], *levels)
    return {
        "catalogue": Catalogue(tuple(Channel(*channel) for channel in description["channels"])),
        "grid": grid,
        "statistics": statistics,
        "autoencoder": autoencoder.eval().requires_grad_(False),
        "denoiser": denoiser.eval().requires_grad_(False),
        "reconstruction": ReconstructionError(
            _unpack("error", tensors),
            tensors["error.power"],
            description["error_memory"],
            torch.as_tensor(grid.latitude).to(scale),
            len(grid.longitude),
        ),
        "variability": _unpack("variability", tensors),
    }


def _pack(name: str, x: Tensor) -> dict[str, Tensor]:
    # Smooth fields, to 8 bits of the largest value of each.
    scale = x.abs().amax((-2, -1), keepdim=True).clamp_min(1e-30) / 127
    return {name: (x / scale).round().to(torch.int8), f"{name}.scale": scale}


def _unpack(name: str, tensors: dict[str, Tensor]) -> Tensor:
    return tensors[name] * tensors[f"{name}.scale"]


def _orthonormal(modes: Tensor) -> Tensor:
    # Half precision leaves the modes orthonormal to 1e-3 only.
    q, r = torch.linalg.qr(modes)
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    fixed: Tensor = q * (diagonal / diagonal.abs()).unsqueeze(-2)
    return fixed
