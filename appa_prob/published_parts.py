r"""The parts of the published Appa models: their files, and what their configurations mean.

Configurations are YAML with paths that are written as instructions to call Python, weights are
pickles. Nothing of either is run: a path is read as its text, and weights by the loader of torch
that knows tensors only.

Published states and latents are lists of cells, :math:`(*, H W, C)`; here they are fields,
:math:`(*, C, H, W)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from appa_prob.samplers import (
    LogLogitSchedule,
    PreconditionedDenoiser,
    RationalSchedule,
    Schedule,
    VESchedule,
)

from .conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from .errors import UserError
from .vision_transformer import VisionTransformer, VisionTransformerConfig

__all__ = [
    "build_autoencoder",
    "build_denoiser",
    "build_network",
    "published_network_sizes",
    "published_sizes",
    "read_published_config",
    "read_published_weights",
    "to_cells",
    "to_fields",
]

SCHEDULES: Mapping[str, Callable[[float, float], Schedule]] = {
    "loglinear": VESchedule,
    "loglogit": lambda low, high: LogLogitSchedule(
        low, high, shift=math.log(low * high) / 2, exact=False
    ),
    "rectified": RationalSchedule,
}

# The published names of sizes, and the names here.
AUTOENCODER = {
    "lat_channels": "latent_channels",
    "hid_channels": "widths",
    "hid_blocks": "blocks",
    "ffn_factor": "expansion",
    "patch_size": "patch",
    "saturation": "saturation",
    "saturation_bound": "bound",
    "pixel_shuffle": "shuffle",
    "periodic": "periodic",
    "kernel_size": "kernel",
}
DENOISER = {
    "blanket_size": "window",
    "hid_channels": "width",
    "hid_blocks": "depth",
    "attention_heads": "heads",
    "mod_features": "modulation",
    "ffn_factor": "expansion",
    "patch_size": "patch",
    "qk_norm": "normalised",
    "rope": "rotary",
    "window_size": "reach",
}


class _Loader(yaml.SafeLoader):
    """The safe loader, to which the paths of Python are text."""


def _path(loader: _Loader, node: yaml.Node) -> str:
    assert isinstance(node, yaml.SequenceNode)
    parts = loader.construct_sequence(node)
    return str(PurePosixPath(*map(str, parts)))


for _name in ("PosixPath", "PurePosixPath", "WindowsPath", "Path"):
    _Loader.add_constructor(f"tag:yaml.org,2002:python/object/apply:pathlib.{_name}", _path)


def read_published_config(path: Path) -> dict[str, Any]:
    r"""Reads a published configuration, without running what its paths say.

    Arguments:
        path: A YAML file.

    Raises:
        UserError: If the file is absent, is no YAML, or asks for any other Python object.

    Example:
        >>> path = getfixture("tmp_path") / "config.yaml"
        >>> _ = path.write_text("path: !!python/object/apply:pathlib.PosixPath [/, data, '0']")
        >>> read_published_config(path)
        {'path': '/data/0'}
    """
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected names and values, got {type(content).__name__}")
    return content


def read_published_weights(path: Path) -> dict[str, Tensor]:
    r"""Reads tensors from a `.pth` file; from `.prev.pth`, its last copy, if it is broken.

    Arguments:
        path: The file.

    Raises:
        UserError: If neither can be read, or they hold anything but tensors.

    Example:
        >>> path = getfixture("tmp_path") / "model_best.pth"
        >>> torch.save({"x": torch.ones(2)}, path)
        >>> read_published_weights(path)
        {'x': tensor([1., 1.])}
    """
    complaint = "it does not exist"
    for file in (path, path.with_name(f"{path.stem}.prev.pth")):
        if not file.is_file():
            continue
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # broken pickles raise whatever they please
            complaint = " ".join(str(error).split())[:200]
            continue
        if isinstance(content, dict) and all(isinstance(x, Tensor) for x in content.values()):
            return dict(content)
        complaint = "it holds something else"
    raise UserError(f"{path} can't be read as tensors: {complaint}; fetch it again")


def to_fields(x: Tensor, grid: Sequence[int]) -> Tensor:
    r"""Lists of cells to fields, :math:`(*, H W, C) \to (*, C, H, W)`.

    Example:
        >>> to_fields(torch.arange(12).reshape(6, 2), (2, 3))[1]
        tensor([[ 1,  3,  5],
                [ 7,  9, 11]])
    """
    return x.mT.reshape(*x.shape[:-2], x.shape[-1], *grid)


def to_cells(x: Tensor) -> Tensor:
    r"""Fields to lists of cells, :math:`(*, C, H, W) \to (*, H W, C)`.

    Example:
        >>> to_cells(torch.tensor([[[1, 3]], [[2, 4]]]))
        tensor([[1, 2],
                [3, 4]])
    """
    return x.flatten(-2).mT


def published_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    r"""The sizes of a published autoencoder by their names here.

    Arguments:
        config: The section `ae`.

    Raises:
        UserError: If the autoencoder is not the convolutional one, or lacks a grid or channels.
    """
    if not str(config.get("name", "cae")).startswith("cae") or config.get("stride", 2) != 2:
        raise UserError(
            f"the autoencoder {config.get('name')!r} is not supported: expected a convolutional "
            "one of stride 2, whose name begins with cae"
        )
    missing = {"shape", "in_channels"} - set(config)
    if missing:
        raise UserError(f"the section `ae` does not fit: {sorted(missing)[0]} is missing")
    return {
        "channels": config["in_channels"],
        "grid": config["shape"],
        "autoencoder": _renamed(config, AUTOENCODER),
    }


def build_autoencoder(config: Mapping[str, Any]) -> ConvAutoencoder:
    r"""The autoencoder of a published configuration, with random weights.

    Arguments:
        config: The section `ae`.

    Raises:
        UserError: If it is not the convolutional one, or sizes are missing or don't fit.

    Example:
        >>> sizes = {"lat_channels": 2, "hid_channels": [4, 8], "hid_blocks": [1, 1]}
        >>> build_autoencoder(sizes | {"in_channels": 3, "shape": [9, 16]}).latent_shape
        torch.Size([2, 5, 10])
    """
    sizes = published_sizes(config)
    try:
        rows, columns = sizes["grid"]
        parts = ConvAutoencoderConfig.model_validate(sizes["autoencoder"])
        module = ConvAutoencoder(sizes["channels"], (rows, columns), parts)
    except (TypeError, ValueError) as error:
        raise UserError(f"the section `ae` does not fit: {_reason(error)}") from None
    if module.factor != config.get("resize", module.factor):
        raise UserError(
            f"the section `ae` does not fit: {len(parts.widths)} stages make the grid "
            f"{module.factor} times coarser, resize says {config['resize']}"
        )
    return module


def published_network_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    r"""The sizes of a published network of a denoiser by their names here.

    Arguments:
        config: The section `backbone`.

    Raises:
        UserError: If it is not the vision transformer.
    """
    arch = config.get("arch", "vit")
    if arch != "vit":
        raise UserError(f"the denoiser {arch!r} is not supported: expected a vit")
    # Tokens that do not see all take every axis as periodic, as the published networks do.
    return _renamed(config, DENOISER) | {"wrap": (True, True, True)}


def build_network(
    config: Mapping[str, Any], channels: int, grid: tuple[int, int]
) -> VisionTransformer:
    r"""The network of a published configuration, with random weights.

    Arguments:
        config: The section `backbone`.
        channels: The number of channels of a latent.
        grid: The shape of the grid of a latent.

    Raises:
        UserError: If it is not the vision transformer, or sizes are missing or don't fit.

    Example:
        >>> sizes = {"hid_channels": 8, "hid_blocks": 1, "attention_heads": 2, "mod_features": 4}
        >>> build_network(sizes | {"blanket_size": 4}, 2, (5, 10)).tokens
        (4, 5, 10)
    """
    sizes = published_network_sizes(config)
    try:
        return VisionTransformer(channels, grid, VisionTransformerConfig.model_validate(sizes))
    except ValueError as error:
        raise UserError(f"the section `backbone` does not fit: {_reason(error)}") from None


def build_denoiser(
    config: Mapping[str, Any], channels: int, grid: tuple[int, int]
) -> PreconditionedDenoiser:
    r"""The denoiser of a published configuration, with random weights.

    Arguments:
        config: The configuration, with sections `backbone` and `train`.
        channels: The number of channels of a latent.
        grid: The shape of the grid of a latent.

    Raises:
        UserError: If :func:`build_network` raises one, or the noise is missing or doesn't fit.
    """
    try:
        backbone, train = config["backbone"], config["train"]
        schedule = SCHEDULES[train["noise_schedule"]](train["sigma_min"], train["sigma_max"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the configuration does not fit: {_reason(error)}") from None
    window = {"blanket_size": train["blanket_size"]} if "blanket_size" in train else {}
    network = build_network(window | dict(backbone), channels, grid)
    return PreconditionedDenoiser(network, schedule, (network.config.window, channels, *grid))


def _renamed(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
