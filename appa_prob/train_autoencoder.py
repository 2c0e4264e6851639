r"""Training of the autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from .autoencoder import Autoencoder
from .catalogue import Catalogue
from .dataset import open_dataset, read_states, select_period
from .files import save_tensors
from .grid import Grid
from .parallel import rank
from .statistics import Statistics
from .training import Batch, Trainer, TrainingConfig

if TYPE_CHECKING:
    pass

__all__ = ["AutoencoderConfig", "StandardisedStates", "train_autoencoder"]


class Period(BaseModel):
    r"""A period, both ends included; an absent end means that of the dataset."""

    model_config = ConfigDict(extra="forbid")

    start: str | None = None
    stop: str | None = None


class AutoencoderConfig(BaseModel):
    r"""What to train, and on what.

    Attributes:
        data: The path of the dataset.
        train: The period to train on.
        validation: The period to validate on.
        harmonics: The number of harmonics of the seasonal climatology.
        latent_channels: The number of channels of a latent.
        widths: The number of hidden channels of each stage.
        blocks: The number of residual blocks of each stage.
        latent_noise: The standard deviation of the noise on the latents, relative to theirs.
        training: How to train.
    """

    model_config = ConfigDict(extra="forbid")

    data: Path
    train: Period
    validation: Period
    harmonics: int = 2
    latent_channels: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    latent_noise: float = 0.02
    training: TrainingConfig


class StandardisedStates:
    r"""The states of a period in memory, standardised.

    Arguments:
        path: The path of the dataset.
        period: The period.
        statistics: The climatology; fitted to these states if absent.
        harmonics: The number of harmonics of the climatology to fit.
    """

    def __init__(
        self, path: Path, period: Period, statistics: Statistics | None = None, harmonics: int = 2
    ) -> None:
        dataset = open_dataset(path)
        self.catalogue = Catalogue.from_dataset(dataset)
        self.grid = Grid(dataset.latitude.values, dataset.longitude.values)
        states, self.times = read_states(
            select_period(dataset, period.start, period.stop), self.catalogue
        )
        if statistics is None:
            weights = torch.as_tensor(self.grid.weights, dtype=torch.float32)
            statistics = Statistics.fit(states, self.times, weights, harmonics)
        self.statistics = statistics
        for start in range(0, len(states), 256):
            part = slice(start, start + 256)
            states[part] = statistics.standardise(states[part], self.times[part])
        self.states = states


def train_autoencoder(
    config: AutoencoderConfig,
    folder: Path,
    *,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> Autoencoder:
    r"""Trains an autoencoder.

    Writes `autoencoder.safetensors` and `statistics.safetensors` into a folder.

    Arguments:
        config: What to train, and how.
        folder: Where checkpoints, curves and results go.
        progress: Whether to show a progress bar.
        device: The device to train on.

    Raises:
        UserError: If the data can't be used, or the folder holds another training.
    """
    torch.manual_seed(config.training.seed)
    train = StandardisedStates(config.data, config.train, harmonics=config.harmonics)
    validation = StandardisedStates(config.data, config.validation, train.statistics)
    module = Autoencoder(
        len(train.catalogue.channels),
        (len(train.grid.latitude), len(train.grid.longitude)),
        config.latent_channels,
        config.widths,
        config.blocks,
    ).to(device)
    held = validation.states[:: max(len(validation.states) // 256, 1)]

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        x = train.states[batch.indices].to(device)
        noise = config.latent_noise * batch.draw(torch.randn, *module.latent_shape).to(device)
        reconstruction, _ = model(x, noise)
        loss: Tensor = (reconstruction.float() - x).square().mean()
        return loss

    def validate(model: nn.Module) -> dict[str, float]:
        parts = [part.to(device) for part in torch.split(held, 32)]
        errors = [(model(part)[0] - part).square().mean((0, 2, 3)) for part in parts]
        error = torch.stack(errors).mean(0)
        return {"rmse": error.mean().sqrt().item(), "worst_channel": error.max().sqrt().item()}

    trainer = Trainer(module, objective, validate, len(train.states), config.training, folder)
    average = trainer.run(progress=progress)
    assert isinstance(average, Autoencoder)
    standardise_latents(average.to("cpu"), train.states)
    if rank() > 0:
        return average
    metadata = {"config": config.model_dump(mode="json")}
    save_tensors(Path(folder) / "autoencoder.safetensors", average.state_dict(), metadata)
    save_tensors(Path(folder) / "statistics.safetensors", train.statistics.state_dict(), {})
    return average


@torch.no_grad()
def standardise_latents(autoencoder: Autoencoder, states: Tensor) -> None:
    r"""Gives the latents of some states zero mean and unit variance, by channel."""
    z = torch.cat([autoencoder.encode(part) for part in torch.split(states, 128)])
    autoencoder.standardise(z.mean((0, 2, 3)), z.std((0, 2, 3)))
