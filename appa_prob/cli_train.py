r"""The commands `appa-prob train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Config, Folder, Quiet, Threads, start_ranks, use_threads
from .config_file import read_config

__all__ = ["train"]

train = typer.Typer(help="Train the parts of an Appa model.", no_args_is_help=True)


@train.command("autoencoder")
def train_autoencoder(
    config: Config, output: Folder, quiet: Quiet = False, threads: Threads = None
) -> None:
    """Train an autoencoder; goes on from the last checkpoint if there is one."""
    from .train_autoencoder import AutoencoderConfig, train_autoencoder

    training = read_config(AutoencoderConfig, config)
    with start_ranks(threads) as device:
        train_autoencoder(training, output, progress=not quiet, device=device)


@train.command("statistics")
def train_statistics(config: Config, output: Folder, threads: Threads = None) -> None:
    """Take the statistics that an autoencoder needs, in one pass through the data."""
    from .train_autoencoder import AutoencoderConfig, read_statistics

    training = read_config(AutoencoderConfig, config)
    with start_ranks(threads):
        read_statistics(training, output)


@train.command("denoiser")
def train_denoiser(
    config: Config, output: Folder, quiet: Quiet = False, threads: Threads = None
) -> None:
    """Train a denoiser of trajectories; goes on from the last checkpoint if there is one."""
    from .train_denoiser import DenoiserConfig, train_denoiser

    training = read_config(DenoiserConfig, config)
    with start_ranks(threads) as device:
        train_denoiser(training, output, progress=not quiet, device=device)


@train.command("bundle")
def bundle(
    denoiser: Annotated[Path, typer.Argument(help="The folder of a trained denoiser.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the model to write.")
    ],
    overwrite: Annotated[bool, typer.Option(help="Replace the model if it exists.")] = False,
) -> None:
    """Put an autoencoder, its statistics and a denoiser together as one model."""
    from .bundle import bundle_model

    bundle_model(denoiser, output, overwrite=overwrite)


@train.command("eofs")
def train_eofs(
    config: Config,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it exists.")] = False,
    threads: Threads = None,
) -> None:
    """Take the EOFs of optimal interpolation, the baseline, from a dataset."""
    from .baselines import EofConfig, train_eofs

    use_threads(threads)
    train_eofs(read_config(EofConfig, config), output, overwrite=overwrite)
