r"""The transformer of the published Appa models, which attends over whole windows.

Tokens are patches of a window of latents along time, latitude and longitude. Every token attends
to every other, with rotary embeddings of their places; every block is modulated by the noise level
and mixes in the tokens of the first one again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from .dates import calendar_features
from .patches import patchify, unpatchify

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["VisionTransformer", "VisionTransformerConfig"]


class VisionTransformerConfig(BaseModel):
    r"""The sizes of a :class:`VisionTransformer`.

    Attributes:
        window: The number of states of a window.
        width: The number of features of a token.
        depth: The number of blocks.
        heads: The number of attention heads.
        modulation: The number of features of the noise level.
        expansion: The width of the hidden layers over that of a token.
        patch: The lengths of a patch along time, latitude and longitude.
        normalised: Whether queries and keys are normalised.
        rotary: Whether queries and keys are turned by their places.
        reach: How far a token looks along each axis, as the width of a centred window in tokens;
            by default all tokens see each other.
        wrap: Which axes are periodic to a token that does not see all. The published code takes
            all three as periodic, time and latitude too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    modulation: PositiveInt = 256
    expansion: PositiveInt = 4
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1)
    normalised: bool = True
    rotary: bool = True
    reach: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    wrap: tuple[bool, bool, bool] = (False, False, True)


class VisionTransformer(nn.Module):
    r"""The network of the published denoisers.

    .. math:: F_\theta(x, c_\mathrm{noise}, \mathrm{date}) \qquad
        x \in \mathbb{R}^{W \times C \times H \times W'}

    Each block, with tokens :math:`x`, those it began with :math:`x_0`, and
    :math:`a, b, c, d` from the noise level:

    .. math:: y = (1 + a) \, \mathrm{LN}(x) + b \qquad y \leftarrow y + \mathrm{MSA}(y) \qquad
        y \leftarrow W_2 \, \mathrm{SiLU}(W_1 y)

    .. math:: x \leftarrow \frac{x + c \, y}{\sqrt{1 + c^2}} \qquad
        x \leftarrow \frac{x + d \, x_0}{\sqrt{1 + d^2}}

    The dates of all states of the window are channels of every cell. Parameters have the names and
    shapes of those of the published weights. The output is zero at first.

    References:
        | Appa: Bending Weather Dynamics with Latent Diffusion Models for Global Data Assimilation
        | (Andry et al., 2025)
        | https://arxiv.org/abs/2504.18720

        | Scalable Diffusion Models with Transformers (Peebles and Xie, 2023)
        | https://arxiv.org/abs/2212.09748

        | RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021)
        | https://arxiv.org/abs/2104.09864

    Arguments:
        channels: The number :math:`C` of channels of a latent.
        grid: The shape :math:`(H, W')` of a latent.
        config: The sizes.

    Raises:
        ValueError: If patches don't tile the window, or heads, with an even number of features
            each, don't tile the width.

    Example:
        >>> config = VisionTransformerConfig(window=4, width=32, depth=2, heads=2, patch=(2, 1, 1))
        >>> f = VisionTransformer(3, (6, 12), config)
        >>> f(torch.randn(5, 4, 3, 6, 12), torch.zeros(5), date=torch.randn(4, 4)).shape
        torch.Size([5, 4, 3, 6, 12])
    """

    coordinates: Tensor
    mask: Tensor | None

    def __init__(
        self, channels: int, grid: tuple[int, int], config: VisionTransformerConfig
    ) -> None:
        super().__init__()
        full, width = (config.window, *grid), config.width
        if any(n % p for n, p in zip(full, config.patch, strict=True)):
            raise ValueError(f"expected a window that patches tile, got {full}, {config.patch}")
        if width % (2 * config.heads) or config.modulation % 2:
            raise ValueError(
                f"expected an even modulation and a width that is a multiple of "
                f"{2 * config.heads}, twice the heads, got {config.modulation} and {width}"
            )
        self.config = config
        self.tokens = tuple(n // p for n, p in zip(full, config.patch, strict=True))
        cells = math.prod(config.patch)
        self.in_proj = nn.Linear((channels + 4 * config.window) * cells, width)
        self.out_proj = nn.Linear(width, channels * cells)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)
        self.positional_embedding = nn.Sequential(
            SineEncoding(width), nn.Flatten(-2), nn.Linear(3 * width, width)
        )
        self.blocks = nn.ModuleList(ModulatedBlock(config) for _ in range(config.depth))
        self.diffusion_time_encoder = SineEncoding(config.modulation)
        places = torch.cartesian_prod(*(torch.arange(float(n)) for n in self.tokens))
        self.register_buffer("coordinates", places, persistent=False)
        mask = None if config.reach is None else _mask(places, self.tokens, config)
        self.register_buffer("mask", mask, persistent=False)

    @staticmethod
    def date_features(times: NDArray[np.datetime64]) -> Tensor:
        r"""What the network knows of times, :math:`(L) \to (L, 4)`, see
        :func:`~appa_prob.dates.calendar_features`.
        """
        return calendar_features(times)

    def forward(self, x: Tensor, c_noise: Tensor, *, date: Tensor) -> Tensor:
        r"""Denoises windows.

        Arguments:
            x: The windows, with shape :math:`(*, W, C, H, W')`.
            c_noise: The noise level :math:`\tfrac{1}{4} \ln \sigma`, with shape :math:`()` or
                :math:`(*)`.
            date: The features of the dates, with shape :math:`(W, 4)` or :math:`(*, W, 4)`.

        Returns:
            The output, with shape :math:`(*, W, C, H, W')`.
        """
        batch, state = x.shape[:-4], x.shape[-4:]
        fields = x.reshape(-1, *state).transpose(1, 2)
        # Seasons of all states, then their hours.
        dates = torch.cat((date[..., :2].flatten(-2), date[..., 2:].flatten(-2)), dim=-1)
        dates = dates.expand(*batch, -1).reshape(len(fields), -1, 1, 1, 1).to(x)
        fields = torch.cat((fields, dates.expand(-1, -1, *fields.shape[2:])), dim=1)
        tokens = self.in_proj(patchify(fields, self.config.patch).flatten(2).mT)

        # The published networks know the noise as 10 ln sigma.
        modulation = self.diffusion_time_encoder(40 * c_noise.expand(batch).reshape(-1))
        first, tokens = tokens, tokens + self.positional_embedding(self.coordinates)
        for block in self.blocks:
            tokens = block(tokens, first, modulation.to(tokens), self.coordinates, self.mask)
        y = self.out_proj(tokens).mT
        y = y.reshape(*y.shape[:-1], *self.tokens)
        return unpatchify(y, self.config.patch).transpose(1, 2).reshape(x.shape)


class SineEncoding(nn.Module):
    r"""Sines and cosines of numbers at :math:`n / 2` frequencies from 1 down to 0.01.

    .. math:: \sin(\omega_k x), \dots, \cos(\omega_k x), \dots \qquad
        \omega_k = 100^{-k / (n / 2 - 1)}

    Arguments:
        features: The (even) number :math:`n` of sines and cosines.
    """

    freqs: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        exponents = torch.linspace(0.0, 2.0, features // 2, dtype=torch.float64)
        self.register_buffer("freqs", (10.0**-exponents).float())

    def forward(self, x: Tensor) -> Tensor:
        angles = x.unsqueeze(-1) * self.freqs
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class ModulatedBlock(nn.Module):
    r"""A block of the transformer, see :class:`VisionTransformer`. It is the identity at first.

    Arguments:
        config: The sizes.
    """

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.expansion * config.width
        features = config.modulation
        self.theta = nn.Parameter(torch.randn(3, width // 2)) if config.rotary else None
        last = nn.Linear(features, 4 * width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.ada_zero = nn.Sequential(nn.Linear(features, features), nn.SiLU(), last)
        self.msa = Attention(width, config.heads, config.normalised)
        # The third is where the published models have a dropout.
        self.ffn = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Identity(), nn.Linear(hidden, width)
        )

    def forward(
        self, x: Tensor, first: Tensor, modulation: Tensor, places: Tensor, mask: Tensor | None
    ) -> Tensor:
        a, b, c, d = self.ada_zero(modulation).unsqueeze(1).chunk(4, dim=-1)
        y = (1 + a) * F.layer_norm(x, x.shape[-1:]) + b
        # A product of matrices would be rounded to the precision of the network.
        angles = None if self.theta is None else (places.unsqueeze(-1) * self.theta).sum(1)
        y = self.ffn(y + self.msa(y, angles, mask))
        x = (x + c * y) * torch.rsqrt(1 + c.square())
        z: Tensor = (x + d * first) * torch.rsqrt(1 + d.square())
        return z


class Attention(nn.Module):
    r"""Attention of all tokens to all others, with rotary embeddings.

    Arguments:
        width: The number of features of a token.
        heads: The number of heads.
        normalised: Whether queries and keys have unit mean square.
    """

    def __init__(self, width: int, heads: int, normalised: bool) -> None:
        super().__init__()
        self.heads, self.normalised = heads, normalised
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.y_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor | None, mask: Tensor | None) -> Tensor:
        r"""Attends.

        Arguments:
            x: The tokens, with shape :math:`(B, L, E)`.
            angles: The angles that pairs of features turn by, with shape :math:`(L, E / 2)`.
            mask: Which tokens attend to which, with shape :math:`(L, L)`.
        """
        qkv = self.qkv_proj(x).reshape(*x.shape[:-1], 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, L, E / heads)
        if self.normalised:
            q, k = (u * torch.rsqrt(u.square().mean(-1, keepdim=True) + 1e-5) for u in (q, k))
        if angles is not None:
            turns = angles.reshape(len(angles), self.heads, -1).transpose(0, 1)
            q, k = _turn(q, turns), _turn(k, turns)
        y = F.scaled_dot_product_attention(q.to(v), k.to(v), v, attn_mask=mask)
        z: Tensor = self.y_proj(y.transpose(1, 2).flatten(-2))
        return z


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    """Turns pairs of neighbouring features, (B, heads, L, e), by angles, (heads, L, e / 2)."""
    a, b = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def _mask(places: Tensor, tokens: Sequence[int], config: VisionTransformerConfig) -> Tensor:
    """Which tokens see which, with shape (L, L)."""
    assert config.reach is not None
    seen = torch.ones(len(places), len(places), dtype=torch.bool, device=places.device)
    for axis, (n, reach) in enumerate(zip(tokens, config.reach, strict=True)):
        far = (places[:, None, axis] - places[None, :, axis]).abs()
        if config.wrap[axis]:
            far = torch.minimum(far, n - far)
        seen &= far <= reach // 2
    return seen
