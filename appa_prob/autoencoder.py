r"""The convolutional autoencoder of atmospheric states.

A state of :math:`C` standardised channels on an :math:`H \times W` latitude-longitude grid becomes
a latent of :math:`c` channels on a coarser grid. Both ways, a linear path (one convolution)
carries most of the variance and a residual path adds what a linear map can't; the resolution
changes by moving :math:`2 \times 2` cells into channels and back.

References:
    | Appa: Bending Weather Dynamics with Latent Diffusion Models for Global Data Assimilation
    | (Andry et al., 2025)
    | https://arxiv.org/abs/2504.18720
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ResidualBlock, SphereConv2d

__all__ = ["Autoencoder", "StandardisedAutoencoder"]


class StandardisedAutoencoder(nn.Module, ABC):
    r"""Encoder :math:`E` and decoder :math:`D` with :math:`D(E(x)) \approx x`, and latents of zero
    mean and unit variance.

    .. math:: z = \frac{E(x) - \mu}{\sigma} \qquad x \approx D(\sigma z + \mu)

    Subclasses implement the raw maps :math:`E` and :math:`D` of batches, :meth:`raw_encode` and
    :meth:`raw_decode`.

    Arguments:
        state_shape: The shape :math:`(C, H, W)` of a state.
        latent_shape: The shape :math:`(c, h, w)` of a latent.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, state_shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.state_shape = torch.Size(state_shape)
        self.latent_shape = torch.Size(latent_shape)
        self.register_buffer("latent_mean", torch.zeros(self.latent_shape[0], 1, 1))
        self.register_buffer("latent_std", torch.ones(self.latent_shape[0], 1, 1))

    @abstractmethod
    def raw_encode(self, x: Tensor) -> Tensor:
        r"""The map :math:`E`, :math:`(B, C, H, W) \to (B, c, h, w)`."""

    @abstractmethod
    def raw_decode(self, z: Tensor) -> Tensor:
        r"""The map :math:`D`, :math:`(B, c, h, w) \to (B, C, H, W)`."""

    @property
    def compression(self) -> float:
        r"""The number of values of a state over the number of values of a latent."""
        return math.prod(self.state_shape) / math.prod(self.latent_shape)

    def encode(self, x: Tensor) -> Tensor:
        r"""Encodes standardised states, :math:`(*, C, H, W) \to (*, c, h, w)`.

        Raises:
            ValueError: If the states have another shape.
        """
        self._check(x, self.state_shape, "state")
        flat = x.reshape(-1, *self.state_shape)
        z = (self.raw_encode(flat) - self.latent_mean) / self.latent_std
        return z.reshape(*x.shape[:-3], *self.latent_shape)

    def decode(self, z: Tensor) -> Tensor:
        r"""Decodes latents to standardised states, :math:`(*, c, h, w) \to (*, C, H, W)`.

        Raises:
            ValueError: If the latents have another shape.
        """
        self._check(z, self.latent_shape, "latent")
        flat = z.reshape(-1, *self.latent_shape) * self.latent_std + self.latent_mean
        return self.raw_decode(flat).reshape(*z.shape[:-3], *self.state_shape)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Encodes and decodes.

        Arguments:
            x: Standardised states, with shape :math:`(*, C, H, W)`.
            noise: What is added to the latents before they are decoded, in units of the standard
                deviation of each channel of each of them, with shape :math:`(B, c, h, w)`; states
                then have shape :math:`(B, C, H, W)`.

        Returns:
            The reconstruction and the latents.

        Raises:
            ValueError: If the states have another shape.
        """
        z = self.encode(x)
        if noise is None:
            return self.decode(z), z
        std = z.detach().std(dim=(-2, -1), keepdim=True)
        return self.decode(z + std * noise), z

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        r"""Changes the latents to :math:`(z - \mu) / \sigma`; states stay the same.

        Arguments:
            mean: The mean :math:`\mu` of the present latents by channel, with shape :math:`(c)`.
            std: Their standard deviation :math:`\sigma`, with shape :math:`(c)`.
        """
        self.latent_mean += self.latent_std * mean.reshape(-1, 1, 1)
        self.latent_std *= std.reshape(-1, 1, 1)

    @staticmethod
    def _check(x: Tensor, shape: torch.Size, what: str) -> None:
        if x.shape[-3:] != shape:
            expected = ", ".join(map(str, shape))
            raise ValueError(f"expected a {what} of shape (*, {expected}), got {tuple(x.shape)}")


class Autoencoder(StandardisedAutoencoder):
    r"""Encoder :math:`E` and decoder :math:`D` with :math:`D(E(x)) \approx x`.

    The latents that :meth:`encode` returns have zero mean and unit variance by channel over the
    training period, once :meth:`standardise` was called. A shift of a state by :attr:`factor`
    columns shifts its latent by one, and the other way round.

    Arguments:
        channels: The number :math:`C` of channels of a state.
        grid: The shape :math:`(H, W)` of the grid.
        latent_channels: The number :math:`c` of channels of a latent.
        widths: The number of hidden channels of each stage; each stage halves the resolution.
        blocks: The number of residual blocks of each stage.

    Raises:
        ValueError: If the grid can't be halved as many times as there are stages, or if there are
            not as many blocks as widths.

    Example:
        >>> autoencoder = Autoencoder(5, (16, 32), 8, widths=(16, 32), blocks=(1, 1))
        >>> z = autoencoder.encode(torch.randn(2, 5, 16, 32))
        >>> z.shape, autoencoder.decode(z).shape
        (torch.Size([2, 8, 4, 8]), torch.Size([2, 5, 16, 32]))
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        latent_channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
    ) -> None:
        factor = 2 ** len(widths)
        if grid[0] % factor or grid[1] % (2 * factor):
            raise ValueError(
                f"expected a grid that halves {len(widths)} times, got {tuple(grid)}: "
                f"use fewer widths, or a grid with multiples of ({factor}, {2 * factor}) cells"
            )
        if len(widths) != len(blocks):
            raise ValueError(
                f"expected as many blocks as widths, got {len(blocks)} and {len(widths)}"
            )
        latent_shape = (latent_channels, grid[0] // factor, grid[1] // factor)
        super().__init__((channels, *grid), latent_shape)
        self.factor = factor

        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        inner = channels
        for width, depth in zip(widths, blocks, strict=True):
            stage = [ResidualBlock(width, width) for _ in range(depth)]
            encoder += [nn.PixelUnshuffle(2), SphereConv2d(4 * inner, width, 3), *stage]
            stage = [ResidualBlock(width, width) for _ in range(depth)]
            decoder = [*stage, SphereConv2d(width, 4 * inner, 3), nn.PixelShuffle(2), *decoder]
            inner = width
        self.encoder = nn.Sequential(*encoder, nn.SiLU(), SphereConv2d(inner, latent_channels, 3))
        self.decoder = nn.Sequential(SphereConv2d(latent_channels, inner, 3), *decoder)
        self.encoder_linear = SphereConv2d(channels * factor**2, latent_channels, 3)
        self.decoder_linear = SphereConv2d(latent_channels, channels * factor**2, 3)

    def raw_encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(x) + self.encoder_linear(F.pixel_unshuffle(x, self.factor))
        return z

    def raw_decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.decoder(z) + F.pixel_shuffle(self.decoder_linear(z), self.factor)
        return x
