r"""Options that commands share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

__all__ = [
    "Config",
    "Folder",
    "Overwrite",
    "Quiet",
    "Seed",
    "Store",
    "Threads",
    "start_ranks",
    "use_threads",
]

Config = Annotated[Path, typer.Argument(help="A YAML file.", metavar="CONFIG")]
Folder = Annotated[
    Path, typer.Option("--output", "-o", help="The folder for checkpoints, curves and results.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bar.")]
Threads = Annotated[
    int | None, typer.Option(help="The number of CPU threads; by default all cores.")
]
Store = Annotated[Path, typer.Option("--output", "-o", help="The zarr store to write.")]
Seed = Annotated[int, typer.Option(min=0, help="What all that is random depends on.")]
Overwrite = Annotated[bool, typer.Option(help="Replace the output if it exists.")]


def start_ranks(threads: int | None) -> AbstractContextManager[torch.device]:
    r"""The device of this rank, for as long as there are ranks.

    Arguments:
        threads: The number of CPU threads; by default all cores.
    """
    from .parallel import process_group

    use_threads(threads)
    return process_group()


def use_threads(threads: int | None) -> None:
    r"""Sets the number of CPU threads, if one is given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
