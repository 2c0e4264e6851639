"""Runs that draw states part by part: in memory, or streamed to a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import xarray as xr
from pydantic import BaseModel
from torch import Tensor
from tqdm import tqdm

from .mesh import Mesh
from .parallel import rank
from .stream import StateStore, digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .appa import Appa
    from .rollout import Rollout

__all__ = ["Draw", "Part", "describe_run", "draw_run", "rollout_parts"]


COUNTS = ("rejected_observations",)  # what memories tell of a whole run
Draw: TypeAlias = "Callable[[int, Mapping[str, Tensor]], Iterable[Part]]"


@dataclass(frozen=True, eq=False)
class Part:
    r"""The next states of a run.

    Arguments:
        states: Those that this rank holds, in physical units, with shape
            :math:`(M, n, C, H, W)`.
        memory: What the parts after it depend on, for all members.
        length: The number of states of the part.
        own: Which of them this rank holds.
    """

    states: Tensor
    memory: Mapping[str, Tensor]
    length: int
    own: range


def draw_run(
    draw: Draw,
    appa: Appa,
    times: NDArray[np.datetime64],
    members: int,
    *,
    parts: tuple[int, ...],
    attributes: Mapping[str, Any],
    output: Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    label: str = "sampling",
    mesh: Mesh | None = None,
) -> xr.Dataset:
    r"""Draws all parts of a run.

    Arguments:
        draw: Gives the parts that are left, from the number of states that are done and the memory
            of the last part, which is empty at first.
        appa: The model.
        times: The times of all states.
        members: The number of members.
        parts: The sizes of parts.
        attributes: The attributes of the dataset; they tell one run from another.
        output: The zarr store to write, part by part; by default all states are kept in memory.
        overwrite: Whether the output may be replaced.
        progress: Whether to show a progress bar.
        label: What the bar is of.
        mesh: Which members and states this rank draws; each writes its own. By default all.

    Returns:
        The states, in physical units, on all ranks.

    Raises:
        UserError: If the output exists, or another run has begun to write it.
    """
    mesh = mesh or Mesh()
    store = kept = None
    if output is not None:
        store = StateStore(
            output,
            appa,
            times,
            members,
            parts=parts,
            attributes=attributes,
            overwrite=overwrite,
            mesh=mesh,
        )
    else:
        kept = list[Tensor]()
    done, memory = (store.done, store.memory) if store else (0, {})
    memory = {name: tensor.to(appa.error.device) for name, tensor in memory.items()}
    hidden = not progress or rank() > 0
    last: Mapping[str, Tensor] = memory
    bar = tqdm(total=len(times), initial=done, disable=hidden, desc=label, unit="state")
    with bar:
        for part in draw(done, memory):
            last = part.memory
            if store is not None:
                store.append(part.states, part.memory, part.length, part.own)
            if kept is not None:
                shape = (members, part.length)
                kept.append(mesh.assemble(part.states, shape, mesh.members(members), part.own))
            bar.update(part.length)
    counts = {name: last[name].tolist() for name in COUNTS if name in last}
    if store is not None:
        return store.finish(counts)
    dataset = appa.dataset(torch.cat(kept or [], dim=1), times)
    return dataset.assign_attrs(dict(attributes) | counts)


def rollout_parts(
    rollout: Rollout,
    done: int,
    memory: Mapping[str, Tensor],
    past: Tensor | None = None,
    *,
    known: int = 0,
    number: int = 0,
    error: Tensor | None = None,
) -> Iterator[Part]:
    r"""The parts of a trajectory that are left, drawn block by block.

    Arguments:
        rollout: The blocks.
        done: The number of states that are done, without those known at first.
        memory: What the last part left, if there was one.
        past: The latents known at first, with shape :math:`(M, K, c, h, w)`.
        known: The number of states known at first.
        number: The number of the first block of all.
        error: The smooth part of the error of the autoencoder at the last known state, with shape
            :math:`(M, C, H, W)`.
    """
    number = int(memory["number"]) if memory else number
    past, error = (memory.get("past"), memory.get("error")) if memory else (past, error)
    for block in rollout.blocks(past, first=known + done, number=number, error=error):
        yield Part(block.states, block.memory, block.stop - block.first, block.own)


def describe_run(
    task: str, title: str, config: BaseModel, seed: int, appa: Appa, *data: Tensor
) -> dict[str, Any]:
    r"""The attributes of a dataset, which tell how it was made.

    Arguments:
        task: The command.
        title: The title of the dataset.
        config: What was done; how ranks shared it is left out, for it changes nothing.
        seed: What all that is random depends on.
        appa: The model.
        data: What was read, such as observations.
    """
    version = metadata.version("appa-prob")
    return {
        "title": title,
        "Conventions": "CF-1.11",
        "source": f"appa-prob {version}",
        "history": f"appa-prob {task} --seed {seed}",
        "seed": seed,
        "config": config.model_dump_json(exclude={"parallel"}),
        "model_digest": digest(*appa.denoiser.state_dict().values(), appa.error),
        "data_digest": digest(*data),
    }
