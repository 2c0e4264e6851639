r"""The models of the published architecture as JSON and tensors.

A model is described by the sizes of its parts, and its weights are kept in the precision that they
have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from appa_prob.samplers import (
    LogLogitSchedule,
    PreconditionedDenoiser,
    RationalSchedule,
    Schedule,
    VESchedule,
)

from .catalogue import Catalogue, Channel
from .conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from .grid import Grid
from .reconstruction_error import ReconstructionError
from .statistics import Statistics
from .vision_transformer import VisionTransformer, VisionTransformerConfig

if TYPE_CHECKING:
    from .appa import Appa

__all__ = ["ARCHITECTURE", "pack_full", "under", "unpack_full"]

ARCHITECTURE = "convolutions and vision transformer"
SCHEDULES: dict[str, type[Schedule]] = {
    kind.__name__: kind for kind in (VESchedule, LogLogitSchedule, RationalSchedule)
}


def pack_full(appa: Appa) -> tuple[dict[str, Any], dict[str, Tensor]]:
    r"""What of a model is JSON, and its tensors.

    Arguments:
        appa: A model of the published architecture.
    """
    autoencoder, network = appa.autoencoder, appa.denoiser.network
    assert isinstance(autoencoder, ConvAutoencoder) and isinstance(network, VisionTransformer)
    schedule = appa.denoiser.schedule
    description = {
        "architecture": ARCHITECTURE,
        "autoencoder": autoencoder.config.model_dump(mode="json"),
        "denoiser": network.config.model_dump(mode="json"),
        "schedule": {"name": type(schedule).__name__, **vars(schedule)},
    }
    tensors = {f"autoencoder.{k}": v for k, v in autoencoder.state_dict().items()}
    tensors |= {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"statistics.{k}": v for k, v in appa.statistics.state_dict().items()}
    return description, tensors | {"error": appa.error, "variability": appa.variability}


def unpack_full(description: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    r"""The attributes of a model from what :func:`pack_full` gave.

    Arguments:
        description: What is JSON.
        tensors: The tensors.
    """
    channels = tuple(Channel(*channel) for channel in description["channels"])
    grid = Grid(np.asarray(description["latitude"]), np.asarray(description["longitude"]))
    schedule = dict(description["schedule"])
    # Parameters are made without memory, which the tensors then bring.
    with torch.device("meta"):
        autoencoder = ConvAutoencoder(
            len(channels), grid.shape, ConvAutoencoderConfig(**description["autoencoder"])
        )
        sizes = VisionTransformerConfig(**description["denoiser"])
    latent, rows, columns = autoencoder.latent_shape
    network = VisionTransformer(latent, (rows, columns), sizes)
    autoencoder.load_state_dict(under("autoencoder", tensors), assign=True)
    network.load_state_dict(under("network", tensors), assign=True)
    denoiser = PreconditionedDenoiser(
        network,
        SCHEDULES[schedule.pop("name")](**schedule),
        (sizes.window, *autoencoder.latent_shape),
    )
    return {
        "catalogue": Catalogue(channels),
        "grid": grid,
        "statistics": Statistics(**under("statistics", tensors)),
        "autoencoder": autoencoder.eval().requires_grad_(False),
        "denoiser": denoiser.eval().requires_grad_(False),
        "reconstruction": ReconstructionError.independent(tensors["error"], grid),
        "variability": tensors["variability"],
    }


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""The tensors whose names begin with a prefix, without it.

    Arguments:
        prefix: The prefix, without its dot.
        tensors: The tensors, by name.

    Example:
        >>> under("a", {"a.b": torch.tensor(1.0), "c": torch.tensor(2.0)})
        {'b': tensor(1.)}
    """
    return {
        k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")
    }
