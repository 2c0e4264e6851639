r"""Checkpoints of trainings: tensors that may be spread over ranks, and JSON.

One rank writes one safetensors file. Several ranks write a folder, each its own parts, through
:mod:`torch.distributed.checkpoint`; it can be read by any number of ranks. Both are written under
a temporary name first, so that a training that is killed has a whole checkpoint always.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from .errors import UserError
from .files import load_tensors, save_tensors
from .parallel import rank

__all__ = ["load_checkpoint", "read_metadata", "save_checkpoint"]

METADATA = "metadata.json"


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]
) -> None:
    r"""Writes a checkpoint, `path.safetensors`, or the folder `path` if there are several ranks,
    all of which must call this.

    Arguments:
        path: Where, without suffix.
        tensors: The tensors, by name.
        metadata: What JSON can hold.

    Raises:
        UserError: If torch is too old for checkpoints of several ranks.
    """
    if not dist.is_initialized():
        save_tensors(path.with_suffix(".safetensors"), tensors, metadata)
        shutil.rmtree(path, ignore_errors=True)
        return
    temporary, old = (path.with_name(f".{path.name}.{kind}") for kind in ("tmp", "old"))
    if rank() == 0:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / METADATA).write_text(json.dumps(metadata))
    dist.barrier()
    writer, _ = _storage()
    save(dict(tensors), storage_writer=writer(str(temporary), save_distributed=True))
    dist.barrier()
    if rank() == 0:
        if path.exists():
            path.rename(old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
        path.with_suffix(".safetensors").unlink(missing_ok=True)
    dist.barrier()


def read_metadata(path: Path) -> dict[str, object] | None:
    r"""The metadata of a checkpoint, or None if there is no checkpoint.

    Raises:
        UserError: If the checkpoint is truncated.
    """
    folder, old = path, path.with_name(f".{path.name}.old")
    if rank() == 0 and old.exists() and not folder.exists():
        old.rename(folder)  # killed between two renamings
    if dist.is_initialized():
        dist.barrier()
    if folder.is_dir():
        try:
            metadata: dict[str, object] = json.loads((folder / METADATA).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise _truncated(folder, error) from None
        return metadata
    file = path.with_suffix(".safetensors")
    return load_tensors(file)[1] if file.exists() else None


def load_checkpoint(path: Path, tensors: Mapping[str, Tensor]) -> None:
    r"""Reads a checkpoint into tensors, in place, however many ranks wrote it.

    Arguments:
        path: Where, without suffix.
        tensors: The tensors, by name.

    Raises:
        UserError: If the checkpoint is truncated.
        ValueError: If it holds other tensors, or tensors of other shapes.
    """
    if path.is_dir():
        _load_folder(path, tensors)
        return
    stored, _ = load_tensors(path.with_suffix(".safetensors"))
    _compare({k: v.shape for k, v in stored.items()}, tensors)
    with torch.no_grad():
        for name, value in tensors.items():
            whole = stored[name].to(value.device)
            if isinstance(value, DTensor):
                whole = distribute_tensor(whole, value.device_mesh, value.placements)
            value.copy_(whole)


def _load_folder(path: Path, tensors: Mapping[str, Tensor]) -> None:
    _, reader = _storage()
    try:
        storage = reader(str(path))
        known = storage.read_metadata().state_dict_metadata
        _compare({k: v.size for k, v in known.items()}, tensors)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            load(dict(tensors), storage_reader=reader(str(path)))
    except (OSError, RuntimeError, json.JSONDecodeError) as error:
        raise _truncated(path, error) from None


def _compare(stored: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> None:
    if stored != {k: v.shape for k, v in tensors.items()}:
        raise ValueError("expected a checkpoint of the same tensors, got others")


def _truncated(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path} is truncated or is no checkpoint ({reason}): copy or make it again")


def _storage() -> tuple[type, type]:
    try:
        from torch.distributed.checkpoint.hf_storage import (
            HuggingFaceStorageReader,
            HuggingFaceStorageWriter,
        )
    except ImportError:
        raise UserError(
            "checkpoints of several ranks need torch 2.9 or later: install it, or train on one"
        ) from None
    return HuggingFaceStorageWriter, HuggingFaceStorageReader
