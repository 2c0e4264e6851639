r"""Training of the denoiser of latent trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from appa_prob.samplers import (
    GaussianDenoiser,
    LogNormalTimes,
    PreconditionedDenoiser,
    Recalibration,
    VESchedule,
    denoising_loss,
)

from .dataset import Source
from .files import save_tensors
from .parallel import rank
from .states import Period
from .training import Batch, Trainer, TrainingConfig
from .trajectory_prior import TrajectoryCovariance
from .transformer import TrajectoryTransformer
from .windows import Windows, encoded_windows

__all__ = [
    "DenoiserConfig",
    "NoiseConfig",
    "build_denoiser",
    "recalibrate",
    "train_denoiser",
    "validation_losses",
]

RECALIBRATED = (0.02, 80.0)  # the noise levels between which a trained denoiser is recalibrated


class NoiseConfig(BaseModel):
    r"""The noise levels.

    Attributes:
        sigma_min: The smallest noise level, at :math:`t = 0`.
        sigma_max: The largest noise level, at :math:`t = 1`.
        median: The median of the noise levels of the training (log-normal).
        spread: The standard deviation of their logarithm.
    """

    model_config = ConfigDict(extra="forbid")

    sigma_min: PositiveFloat = 0.01
    sigma_max: PositiveFloat = 100.0
    median: PositiveFloat = 0.4
    spread: PositiveFloat = 1.3


class DenoiserConfig(BaseModel):
    r"""What to train, and on what.

    Attributes:
        data: The path or the URL of the dataset.
        autoencoder: The folder of a trained autoencoder.
        latents: The path or the URL of its latents of the dataset, as `appa-prob encode` writes
            them; by default the dataset is encoded at the start.
        train: The period to train on.
        validation: The period to validate on.
        window: The number of states of a window.
        width: The number of features of a token.
        depth: The number of blocks.
        heads: The number of attention heads.
        dropout: The share of features that are dropped in training.
        turned: The share of windows that are turned by a random longitude in training, their
            places then being unknown to the network: the laws of the atmosphere are the same
            everywhere, and three years of weather are few.
        noise: The noise levels.
        training: How to train.
    """

    model_config = ConfigDict(extra="forbid")

    data: Source
    autoencoder: Path
    latents: Source | None = None
    train: Period
    validation: Period
    window: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    turned: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    noise: NoiseConfig = NoiseConfig()
    training: TrainingConfig


def build_denoiser(
    config: DenoiserConfig, covariance: TrajectoryCovariance
) -> PreconditionedDenoiser:
    r"""The untrained denoiser around a Gaussian prior, whose denoiser it equals at first.

    Arguments:
        config: The sizes of the network, and the noise levels.
        covariance: The covariance of the prior, of trajectories with shape :math:`(W, c, h, w)`.
    """
    window, channels, *grid = covariance.in_shape
    network = TrajectoryTransformer(
        2 * channels,
        channels,
        window=window,
        grid=(grid[0], grid[1]),
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        dropout=config.dropout,
    )
    schedule = VESchedule(config.noise.sigma_min, config.noise.sigma_max)
    prior = GaussianDenoiser(torch.zeros(covariance.in_shape), covariance, schedule)
    return PreconditionedDenoiser(network, schedule, covariance.in_shape, prior=prior)


def train_denoiser(
    config: DenoiserConfig,
    folder: Path,
    *,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> PreconditionedDenoiser:
    r"""Trains a denoiser and writes `denoiser.safetensors` into a folder.

    Arguments:
        config: What to train, and how.
        folder: Where checkpoints, curves and results go.
        progress: Whether to show a progress bar.
        device: The device to train on.

    Raises:
        UserError: If the data or the autoencoder can't be used, or the folder holds another
            training.
    """
    torch.manual_seed(config.training.seed)
    train, held = (
        encoded_windows(config.autoencoder, config.data, period, config.window, config.latents)
        for period in (config.train, config.validation)
    )
    covariance = fit_covariance(train)
    module = build_denoiser(config, covariance).to(device)
    times = LogNormalTimes(module.schedule, config.noise.median, config.noise.spread)

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, PreconditionedDenoiser)
        x, date = batch.items
        t = batch.draw(times)
        x, known = _turn(x, config.turned, batch)
        eps = batch.draw(torch.randn, *x.shape[1:])
        t, x, eps, date, known = (a.to(device) for a in (t, x, eps, date, known))
        return denoising_loss(model, x, t, eps, date=date, known=known)

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, PreconditionedDenoiser)
        return validation_losses(model, held, device)

    trainer = Trainer(module, objective, validate, train, config.training, folder)
    average = trainer.run(progress=progress)
    assert isinstance(average, PreconditionedDenoiser)
    if rank() > 0:
        return average
    average.recalibration = recalibrate(average, held)
    tensors = {f"network.{k}": v for k, v in average.network.state_dict().items()}
    tensors |= {
        "space": torch.view_as_real(covariance.basis.space),
        "lags": torch.view_as_real(covariance.lags),
        "recalibration": average.recalibration.coefficients,
    }
    save_tensors(
        Path(folder) / "denoiser.safetensors", tensors, {"config": config.model_dump(mode="json")}
    )
    return average


def fit_covariance(windows: Windows) -> TrajectoryCovariance:
    r"""The covariance of the prior, from latents in memory or in a store."""
    latents = windows.latents
    if isinstance(latents, Tensor):
        return TrajectoryCovariance.fit(latents, windows.window)
    return TrajectoryCovariance.fit_parts(latents.parts, windows.window)


def recalibrate(model: PreconditionedDenoiser, held: Windows) -> Recalibration:
    r"""Fits a denoiser to data that it was not trained on, see :class:`Recalibration`.

    Arguments:
        model: The denoiser.
        held: The windows of the validation period.
    """
    starts = torch.arange(0, len(held), max(len(held) // 48, 1))
    device = next(model.parameters()).device
    parts = (held[part] for part in torch.split(starts, 8))
    data = ((x.to(device), {"date": date.to(device)}) for x, date in parts)
    generator = torch.Generator(device).manual_seed(0)
    first, last = RECALIBRATED
    return Recalibration.fit(
        model.parts, model.schedule, data, first=first, last=last, generator=generator
    )


def validation_losses(
    model: PreconditionedDenoiser, held: Windows, device: torch.device | str
) -> dict[str, float]:
    r"""The losses at four noise levels, on about 96 windows with the same noise each time.

    Arguments:
        model: The denoiser.
        held: The windows of the validation period.
        device: The device of the denoiser.
    """
    starts = torch.arange(0, len(held) - 1, max(len(held.latents) // 96, 1))
    figures = {}
    for sigma in (0.1, 0.3, 1.0, 3.0):
        generator = torch.Generator().manual_seed(0)
        losses = []
        for part in torch.split(starts, 16):
            x, date = held[part]
            eps = torch.randn(x.shape, generator=generator)
            t = model.schedule.time(torch.tensor(sigma, device=device)).expand(len(x))
            x, eps, date = (a.to(device) for a in (x, eps, date))
            losses.append(denoising_loss(model, x, t, eps, date=date) * len(x))
        figures[f"loss_{sigma:g}"] = float(sum(losses)) / len(starts)
    return figures


def _turn(x: Tensor, share: float, batch: Batch) -> tuple[Tensor, Tensor]:
    r"""Turns a share of the windows by random longitudes, and tells which were left alone."""
    known = batch.draw(torch.rand) >= share
    steps = batch.draw(
        lambda count, generator: torch.randint(x.shape[-1], (count,), generator=generator)
    )
    steps = steps.where(~known, 0)
    columns = (torch.arange(x.shape[-1]) - steps.unsqueeze(-1)) % x.shape[-1]
    index = columns.reshape(len(x), *(1,) * (x.ndim - 2), -1).expand(x.shape)
    return x.gather(-1, index), known.to(x)
