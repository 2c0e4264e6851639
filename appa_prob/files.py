"""Writing files so that a failure loses nothing: under a temporary name first, then renamed."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import UserError

__all__ = ["load_tensors", "replacing", "save_tensors"]


@contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    r"""Gives a temporary path beside `path`, which replaces `path` once the block ends well.

    If the block raises, or writes nothing, what was at `path` stays.

    Arguments:
        path: The file or folder to write.
        overwrite: Whether a file or folder that exists may be replaced.

    Raises:
        UserError: If `path` exists and may not be replaced.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> with replacing(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("all or nothing")
        >>> [p.name for p in folder.iterdir()]
        ['a.txt']
    """
    path = Path(path)
    refuse_existing(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.is_dir() and temporary.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    r"""Raises a :class:`~appa_prob.errors.UserError` if `path` exists and `overwrite` is false."""
    if Path(path).exists() and not overwrite:
        raise UserError(
            f"{path} exists: choose another name, or allow it to be replaced with --overwrite"
        )


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]
) -> None:
    r"""Saves tensors and JSON metadata as one safetensors file, at once or not at all.

    Arguments:
        path: The file to write or to replace.
        tensors: The tensors, by name.
        metadata: What is stored with them, by name; values that JSON can hold.
    """
    encoded = {key: json.dumps(value) for key, value in metadata.items()}
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with replacing(path) as temporary:
        # Safetensors makes files that nobody else may read: take the mode that others get here.
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, encoded)
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    r"""Loads what :func:`save_tensors` saved.

    Raises:
        UserError: If the file is absent, truncated, or no safetensors file.

    Example:
        >>> import torch
        >>> path = getfixture("tmp_path") / "a.safetensors"
        >>> save_tensors(path, {"x": torch.ones(2)}, {"step": 3})
        >>> load_tensors(path)
        ({'x': tensor([1., 1.])}, {'step': 3})
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: expected a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is truncated or is not a safetensors file ({error}): copy or make it again"
        ) from None
    return tensors, metadata
