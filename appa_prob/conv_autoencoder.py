r"""The convolutional autoencoder of the published Appa models.

It works on the plane: the grid is padded once, by what lies beyond the date line and by zeros
beyond the poles, until it halves as many times as there are stages, and convolutions are padded by
zeros. The margin beyond the date line is part of the latent, which is therefore wider than the
grid: 47 columns instead of 45 for 1,440 longitudes and a factor of 32.

References:
    | Appa: Bending Weather Dynamics with Latent Diffusion Models for Global Data Assimilation
    | (Andry et al., 2025)
    | https://arxiv.org/abs/2504.18720
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from .autoencoder import StandardisedAutoencoder
from .patches import patchify, unpatchify
from .saturation import Saturation, saturate

__all__ = ["ConvAutoencoder", "ConvAutoencoderConfig"]


class ConvAutoencoderConfig(BaseModel):
    r"""The sizes of a :class:`ConvAutoencoder`.

    Attributes:
        latent_channels: The number of channels of a latent.
        widths: The number of hidden channels of each stage; each but the first halves the
            resolution.
        blocks: The number of residual blocks of each stage.
        expansion: The width of the hidden layer of a residual block over that of the stage.
        patch: The cells of the grid that the first convolution takes as channels, by latitude and
            longitude.
        saturation: What keeps latents within bounds, see :func:`~appa_prob.saturation.saturate`.
        bound: The bound.
        shuffle: Whether stages move cells into channels and back. Otherwise convolutions leave
            out every other cell, and cells are repeated on the way back.
        periodic: Whether convolutions take both axes as periodic.
        kernel: The (odd) size of the kernels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    latent_channels: PositiveInt
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    blocks: tuple[int, ...] = Field(min_length=1)
    expansion: PositiveInt = 1
    patch: tuple[PositiveInt, PositiveInt] = (1, 1)
    saturation: Saturation | None = "softclip2"
    bound: PositiveFloat = 5.0
    shuffle: bool = True
    periodic: bool = False
    kernel: PositiveInt = 3


class ConvAutoencoder(StandardisedAutoencoder):
    r"""The autoencoder of the published models.

    Its parameters have the names and shapes of those of the published weights.

    Arguments:
        channels: The number :math:`C` of channels of a state.
        grid: The shape :math:`(H, W)` of the grid.
        config: The sizes.

    Raises:
        ValueError: If there are not as many blocks as widths, the patch is not square, or the grid
            has too few columns for the margins.

    Example:
        >>> config = ConvAutoencoderConfig(latent_channels=4, widths=(8, 16), blocks=(1, 1))
        >>> autoencoder = ConvAutoencoder(3, (21, 40), config)
        >>> z = autoencoder.encode(torch.randn(2, 3, 21, 40))
        >>> z.shape, autoencoder.decode(z).shape
        (torch.Size([2, 4, 11, 22]), torch.Size([2, 3, 21, 40]))
    """

    def __init__(
        self, channels: int, grid: tuple[int, int], config: ConvAutoencoderConfig
    ) -> None:
        if len(config.widths) != len(config.blocks):
            raise ValueError(
                f"expected as many blocks as widths, got {len(config.blocks)} and "
                f"{len(config.widths)}"
            )
        if config.patch[0] != config.patch[1]:
            raise ValueError(f"expected a square patch, got {config.patch}")
        factor = config.patch[0] * 2 ** (len(config.widths) - 1)
        rows, columns = -grid[0] % factor, -grid[1] % factor + 2 * factor
        if columns > 2 * grid[1]:
            raise ValueError(
                f"expected at least {factor} columns, for a margin of {columns}, got {grid[1]}: "
                "use fewer widths"
            )
        latent = ((grid[0] + rows) // factor, (grid[1] + columns) // factor)
        super().__init__((channels, *grid), (config.latent_channels, *latent))
        self.config, self.factor = config, factor
        # Beyond each edge, half of what is missing; what is odd goes to the south and the east.
        self.margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        self.encoder = Encoder(channels * math.prod(config.patch), config)
        self.decoder = Decoder(channels * math.prod(config.patch), config)

    def pad(self, x: Tensor) -> Tensor:
        r"""Pads states to a grid that halves, :math:`(B, C, H, W) \to (B, C, f h, f w)`."""
        west, east, north, south = self.margins
        x = F.pad(x, (west, east, 0, 0), mode="circular")
        return F.pad(x, (0, 0, north, south))

    def crop(self, x: Tensor) -> Tensor:
        r"""Takes the margins away: undoes :meth:`pad`."""
        west, _, north, _ = self.margins
        rows, columns = self.state_shape[-2:]
        return x[..., north : north + rows, west : west + columns]

    def raw_encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(patchify(self.pad(x), self.config.patch))
        return saturate(z, self.config.saturation, self.config.bound)

    def raw_decode(self, z: Tensor) -> Tensor:
        return self.crop(unpatchify(self.decoder(z), self.config.patch))


class Encoder(nn.Module):
    r"""The stages from states to latents: an entry, residual blocks and, in the last, an exit.

    Arguments:
        channels: The number of channels of a patch of a state.
        config: The sizes.
    """

    def __init__(self, channels: int, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        self.descent = nn.ModuleList()
        inner = channels
        for i, (width, depth) in enumerate(zip(config.widths, config.blocks, strict=True)):
            entry: nn.Module
            if i == 0:
                entry = _conv(inner, width, config)
            elif config.shuffle:
                entry = nn.Sequential(nn.PixelUnshuffle(2), _conv(4 * inner, width, config))
            else:
                entry = _conv(inner, width, config, stride=2)
            stage = nn.Sequential(entry, *_residual_blocks(width, depth, config))
            if i + 1 == len(config.widths):
                stage.append(_conv(width, config.latent_channels, config))
            self.descent.append(stage)
            inner = width

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.descent:
            x = stage(x)
        return x


class Decoder(nn.Module):
    r"""The stages from latents to states: an entry in the first, residual blocks and an exit.

    Arguments:
        channels: The number of channels of a patch of a state.
        config: The sizes.
    """

    def __init__(self, channels: int, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        stages: list[nn.Sequential] = []
        outer = channels
        for i, (width, depth) in enumerate(zip(config.widths, config.blocks, strict=True)):
            exit: nn.Module
            if i == 0:
                exit = _conv(width, outer, config)
            elif config.shuffle:
                exit = nn.Sequential(_conv(width, 4 * outer, config), nn.PixelShuffle(2))
            else:
                exit = nn.Sequential(nn.Upsample(scale_factor=2), _conv(width, outer, config))
            stages.append(nn.Sequential(*_residual_blocks(width, depth, config), exit))
            outer = width
        stages[-1].insert(0, _conv(config.latent_channels, outer, config))
        self.ascent = nn.ModuleList(reversed(stages))

    def forward(self, z: Tensor) -> Tensor:
        for stage in self.ascent:
            z = stage(z)
        return z


class PlanarResidualBlock(nn.Module):
    r"""A residual block of two convolutions on the plane, the identity at first.

    .. math:: x + W_2 \, \mathrm{SiLU}(W_1 \, \mathrm{norm}(x))

    Arguments:
        channels: The number of channels.
        config: The sizes.
    """

    def __init__(self, channels: int, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        hidden = config.expansion * channels
        self.norm = ChannelNorm()
        last = _conv(hidden, channels, config)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        # The third is where the published models have a dropout.
        self.ffn = nn.Sequential(_conv(channels, hidden, config), nn.SiLU(), nn.Identity(), last)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.ffn(self.norm(x))
        return y


class ChannelNorm(nn.Module):
    r"""Zero mean and unit (unbiased) variance over the channels of each cell.

    Arguments:
        eps: What is added to the variance.
    """

    eps: Tensor

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.register_buffer("eps", torch.tensor(eps))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + self.eps)


def _conv(
    channels: int, out_channels: int, config: ConvAutoencoderConfig, stride: int = 1
) -> nn.Conv2d:
    if config.kernel % 2 == 0:
        raise ValueError(f"expected an odd kernel, got {config.kernel}")
    return nn.Conv2d(
        channels,
        out_channels,
        config.kernel,
        stride,
        config.kernel // 2,
        padding_mode="circular" if config.periodic else "zeros",
    )


def _residual_blocks(
    width: int, depth: int, config: ConvAutoencoderConfig
) -> Sequence[PlanarResidualBlock]:
    return [PlanarResidualBlock(width, config) for _ in range(depth)]
