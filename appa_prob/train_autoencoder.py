r"""Training of the autoencoder."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from .autoencoder import Autoencoder
from .dataset import Source
from .errors import UserError
from .files import load_tensors, save_tensors
from .parallel import agree, rank, share, sum_over_ranks
from .states import Period, StandardisedStates, States, streamed_statistics
from .statistics import Statistics
from .training import Batch, Trainer, TrainingConfig

__all__ = ["AutoencoderConfig", "open_states", "read_statistics", "train_autoencoder"]


class AutoencoderConfig(BaseModel):
    r"""What to train, and on what.

    Attributes:
        data: The path or the URL of the dataset.
        train: The period to train on.
        validation: The period to validate on.
        variables: The variables to take, in this order; by default all that vary in time.
        levels: The levels to take, in this order; by default all.
        partial: The variables that may be absent in places, as the temperature of the sea is over
            land; there they are taken as average.
        cache: Whether states are kept in memory; by default if those of a period take less than
            1 GiB.
        harmonics: The number of harmonics of the seasonal climatology.
        latent_channels: The number of channels of a latent.
        widths: The number of hidden channels of each stage.
        blocks: The number of residual blocks of each stage.
        latent_noise: The standard deviation of the noise on the latents, relative to theirs.
        training: How to train.
    """

    model_config = ConfigDict(extra="forbid")

    data: Source
    train: Period
    validation: Period
    variables: tuple[str, ...] | None = None
    levels: tuple[float, ...] | None = None
    partial: tuple[str, ...] = ()
    cache: bool | None = None
    harmonics: int = 2
    latent_channels: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    latent_noise: float = 0.02
    training: TrainingConfig


def read_statistics(config: AutoencoderConfig, folder: Path) -> Statistics:
    r"""The climatology of the training period: `statistics.safetensors` in a folder, written
    first if it is not there, in one pass through the data, which ranks share.

    Arguments:
        config: The data.
        folder: The folder.

    Raises:
        UserError: If the data can't be used, or the file was made of other data.
    """
    path = Path(folder) / "statistics.safetensors"
    keys = {"data", "train", "variables", "levels", "partial", "harmonics"}
    origin = config.model_dump(mode="json", include=keys)
    if agree(path.exists()):
        tensors, metadata = load_tensors(path)
        if metadata.get("origin") != origin:
            raise UserError(
                f"{path} holds the statistics of other data: take the same data, or another "
                "output folder"
            )
        return Statistics(**tensors)
    statistics = streamed_statistics(open_states(config, config.train), config.harmonics)
    if rank() == 0:
        save_tensors(path, statistics.state_dict(), {"origin": origin})
    return statistics


def open_states(
    config: AutoencoderConfig, period: Period, source: Path | str | None = None
) -> States:
    r"""The states of a period, as a configuration describes them, of its dataset or another."""
    return States(
        source or config.data,
        period,
        config.variables,
        config.levels,
        partial=config.partial,
        keep=config.training.pool + 1,
    )


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
    statistics = read_statistics(config, folder)
    train, validation = (
        StandardisedStates(open_states(config, period), statistics, cache=config.cache)
        for period in (config.train, config.validation)
    )
    module = Autoencoder(
        len(train.source.catalogue.channels),
        train.source.grid.shape,
        config.latent_channels,
        config.widths,
        config.blocks,
    ).to(device)
    held = torch.arange(0, len(validation), max(len(validation) // 256, 1))

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        x = batch.items.to(device)
        noise = config.latent_noise * batch.draw(torch.randn, *module.latent_shape).to(device)
        reconstruction, _ = model(x, noise)
        loss: Tensor = (reconstruction.float() - x).square().mean()
        return loss

    def validate(model: nn.Module) -> dict[str, float]:
        errors = []
        for some in torch.split(held, 32):
            part = validation[some].to(device)
            errors.append((model(part)[0] - part).square().mean((0, 2, 3)))
        error = torch.stack(errors).mean(0)
        return {"rmse": error.mean().sqrt().item(), "worst_channel": error.max().sqrt().item()}

    trainer = Trainer(module, objective, validate, train, config.training, folder)
    average = trainer.run(progress=progress)
    assert isinstance(average, Autoencoder)
    standardise_latents(average.to("cpu"), train)
    if rank() == 0:
        metadata = {"config": config.model_dump(mode="json")}
        save_tensors(Path(folder) / "autoencoder.safetensors", average.state_dict(), metadata)
    agree(True)  # which other ranks wait for, as the file may be read next
    return average


@torch.no_grad()
def standardise_latents(autoencoder: Autoencoder, states: StandardisedStates) -> None:
    r"""Gives the latents of some states zero mean and unit variance, by channel; ranks share the
    states.
    """
    count = torch.zeros((), dtype=torch.float64)
    total, square = torch.zeros(2, autoencoder.latent_shape[0], dtype=torch.float64)
    for part in states.parts(share(len(states))):
        # About the zero mean that they have before, nearly.
        z = autoencoder.encode(part).double()
        count += z[:, 0].numel()
        total += z.sum((0, 2, 3))
        square += z.square().sum((0, 2, 3))
    count, total, square = (sum_over_ranks(x) for x in (count, total, square))
    mean = total / count
    variance = (square - count * mean.square()) / (count - 1)
    autoencoder.standardise(mean.float(), variance.sqrt().float())
