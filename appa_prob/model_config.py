r"""The sizes of models, as YAML that ships with the package or of one's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from .config_file import describe
from .conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from .errors import UserError, unknown
from .published import find_published
from .published_parts import published_network_sizes, published_sizes, read_published_config
from .vision_transformer import VisionTransformer, VisionTransformerConfig

__all__ = ["ModelConfig", "read_model_config"]


class ModelConfig(BaseModel):
    r"""The sizes of an autoencoder and a denoiser of its latents.

    Attributes:
        channels: The number of channels of a state.
        grid: The shape of the grid.
        autoencoder: The sizes of the autoencoder.
        denoiser: The sizes of the network of the denoiser; there may be none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: PositiveInt
    grid: tuple[PositiveInt, PositiveInt]
    autoencoder: ConvAutoencoderConfig
    denoiser: VisionTransformerConfig | None = Field(None)

    def build(
        self, device: torch.device | str = "meta"
    ) -> tuple[ConvAutoencoder, VisionTransformer | None]:
        r"""The autoencoder and the network, with random weights.

        Arguments:
            device: The device; by default that of tensors without memory.

        Example:
            >>> autoencoder, network = read_model_config("appa-1b").build()
            >>> autoencoder.latent_shape, network.tokens
            (torch.Size([144, 23, 47]), (12, 23, 47))
        """
        with torch.device(device):
            autoencoder = ConvAutoencoder(self.channels, self.grid, self.autoencoder)
            if self.denoiser is None:
                return autoencoder, None
            latent, rows, columns = autoencoder.latent_shape
            return autoencoder, VisionTransformer(latent, (rows, columns), self.denoiser)


def read_model_config(name: str | Path) -> ModelConfig:
    r"""Reads the sizes of a model.

    Arguments:
        name: The name of sizes that ship with the package, such as `appa-1b`; the path of a YAML
            file, which may be the published one of an autoencoder; or the folder of a published
            model.

    Raises:
        UserError: If there is no such file, or it does not fit.

    Example:
        >>> read_model_config("appa-f32").denoiser.window
        24
    """
    shipped = Path(str(resources.files("appa_prob") / "configs"))
    path = Path(name)
    if path.is_dir():
        return _published(path)
    if not path.is_file():
        path = shipped / f"{name}.yaml"
    if not path.is_file():
        raise unknown("file or model", str(name), sorted(p.stem for p in shipped.glob("*.yaml")))
    content = read_published_config(path)
    if "ae" in content:
        content = published_sizes(content["ae"])
    return _validated(path, content)


def _published(directory: Path) -> ModelConfig:
    folder, lap = find_published(directory)
    autoencoder, denoiser = (read_published_config(f / "config.yaml") for f in (folder, lap))
    sizes = published_sizes(autoencoder.get("ae", {}))
    window = {"blanket_size": denoiser.get("train", {}).get("blanket_size")}
    backbone = window | dict(denoiser.get("backbone", {}))
    return _validated(lap, sizes | {"denoiser": published_network_sizes(backbone)})


def _validated(path: Path, content: dict[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, ModelConfig)}") from None
