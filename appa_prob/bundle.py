r"""From the results of the two trainings to one model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from appa_prob.samplers import Recalibration

from .appa import Appa
from .files import load_tensors
from .latents import load_autoencoder
from .reconstruction_error import ReconstructionError
from .states import StandardisedStates
from .train_autoencoder import AutoencoderConfig, open_states
from .train_denoiser import RECALIBRATED, DenoiserConfig, build_denoiser
from .trajectory_prior import TrajectoryCovariance

__all__ = ["bundle_model"]


@torch.no_grad()
def bundle_model(denoiser: Path, output: Path, *, overwrite: bool = False) -> Appa:
    r"""Puts a trained denoiser and its autoencoder together as one model.

    The errors of the autoencoder are measured in the validation period, the variability in the
    training period.

    Arguments:
        denoiser: The folder that the training of the denoiser wrote; its configuration names the
            autoencoder.
        output: The folder of the model to write.
        overwrite: Whether the model may be replaced.
    """
    tensors, metadata = load_tensors(Path(denoiser) / "denoiser.safetensors")
    config = DenoiserConfig.model_validate(metadata["config"])
    autoencoder, statistics = load_autoencoder(config.autoencoder)
    _, trained = load_tensors(config.autoencoder / "autoencoder.safetensors")

    encoder = AutoencoderConfig.model_validate(trained["config"])
    train, held = (
        StandardisedStates(open_states(encoder, period, config.data), statistics, cache=False)
        for period in (config.train, config.validation)
    )
    variability = torch.zeros(train.source.shape)
    for part in train.parts():
        variability += part.square().sum(0) / len(train)

    def errors() -> Iterator[Tensor]:
        return (part - autoencoder(part)[0] for part in held.parts())

    space, lags = (torch.view_as_complex(tensors[name].contiguous()) for name in ("space", "lags"))
    covariance = TrajectoryCovariance(space, lags, autoencoder.latent_shape)
    module = build_denoiser(config, covariance)
    module.network.load_state_dict(
        {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    )
    module.recalibration = Recalibration(tensors["recalibration"], *RECALIBRATED)
    model = Appa(
        catalogue=train.source.catalogue,
        grid=train.source.grid,
        statistics=statistics,
        autoencoder=autoencoder,
        denoiser=module,
        reconstruction=ReconstructionError.fit(errors, train.source.grid),
        variability=variability.sqrt(),
        step=np.diff(train.times[:2])[0],
        provenance={
            "autoencoder": encoder.model_dump(mode="json"),
            "denoiser": config.model_dump(mode="json"),
        },
    )
    model.save(output, overwrite=overwrite)
    return model
