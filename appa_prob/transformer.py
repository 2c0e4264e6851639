r"""The transformer that denoises short trajectories of latents.

A token is one cell of one latent. Most mixing is local, as the atmosphere's own dynamics are: in
each block, groups of features are taken from neighbouring cells and times (a shift, which costs no
arithmetic) before a perceptron acts on each token. Some blocks attend over all times of a cell as
well. Weights are shared by all places, so that three years of weather go a long way; what is
particular to a place enters by an embedding that can be withheld.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .seasons import seasonal_basis

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TrajectoryTransformer", "shift"]

# Steps in time, latitude and longitude to the cells that groups of features are taken from.
NEIGHBOURS = (
    *((0, 0, 1), (0, 0, -1), (0, 0, 2), (0, 0, -2), (0, 1, 0), (0, -1, 0)),
    *((1, 0, 0), (-1, 0, 0), (3, 0, 0), (-3, 0, 0)),
)


class TrajectoryTransformer(nn.Module):
    r"""A transformer over all cells of all states of a window, modulated by the noise level.

    .. math:: F_\theta(x, c_\mathrm{noise}, \mathrm{date}, \mathrm{known})
        \qquad x \in \mathbb{R}^{W \times C \times H \times W'}

    Each token is embedded together with its time in the window, its latitude and its date, and
    with its place on the globe where that is known. Each block is modulated by the noise level
    (adaptive layer normalisation with one modulation network for all blocks). The output is zero
    at first.

    References:
        | Scalable Diffusion Models with Transformers (Peebles and Xie, 2023)
        | https://arxiv.org/abs/2212.09748

        | PixArt-alpha: Fast Training of Diffusion Transformer (Chen et al., 2023)
        | https://arxiv.org/abs/2310.00426

        | When Shift Operation Meets Vision Transformer (Wang et al., 2022)
        | https://arxiv.org/abs/2201.10801

    Arguments:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        window: The number of states of a window.
        grid: The shape of the latent grid; the number of columns is even.
        width: The number of features of a token.
        depth: The number of blocks.
        heads: The number of attention heads.
        attend_every: Every how many blocks there is attention over time.
        expansion: The width of the hidden layers over that of a token.
        date_features: The number of features of a date.
        dropout: The share of hidden features that are dropped in training.

    Raises:
        ValueError: If heads do not tile the width, or the width or the columns are odd.

    Example:
        >>> sizes = {"width": 32, "depth": 2, "heads": 2, "attend_every": 2}
        >>> f = TrajectoryTransformer(8, 4, window=3, grid=(4, 8), **sizes)
        >>> f(torch.randn(5, 3, 8, 4, 8), torch.zeros(5), date=torch.randn(5, 3, 2)).shape
        torch.Size([5, 3, 4, 4, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        window: int,
        grid: tuple[int, int],
        width: int,
        depth: int,
        heads: int,
        attend_every: int = 4,
        expansion: int = 2,
        date_features: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads or width % 2 or grid[1] % 2:
            raise ValueError(
                f"expected an even width that is a multiple of {heads} heads and an even number "
                f"of columns, got width {width} and grid {tuple(grid)}"
            )
        self.width = width
        self.embed = nn.Linear(in_channels, width)
        self.time_embedding = nn.Parameter(0.02 * torch.randn(window, 1, 1, width))
        self.row_embedding = nn.Parameter(0.02 * torch.randn(grid[0], 1, width))
        self.place_embedding = nn.Parameter(0.02 * torch.randn(*grid, width))
        self.date_embedding = nn.Linear(date_features, width)
        self.modulation = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width)
        )
        self.blocks = nn.ModuleList(
            _Block(width, expansion, dropout, heads if i % attend_every == 1 else 0)
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.unembed = nn.Linear(width, out_channels)
        nn.init.zeros_(self.unembed.weight)
        nn.init.zeros_(self.unembed.bias)

    @staticmethod
    def date_features(times: NDArray[np.datetime64]) -> Tensor:
        r"""The cosine and the sine of the season, :math:`(L) \to (L, 2)`."""
        return seasonal_basis(times, 1)[:, 1:]

    def forward(
        self, x: Tensor, c_noise: Tensor, *, date: Tensor, known: Tensor | None = None
    ) -> Tensor:
        r"""Denoises windows.

        Arguments:
            x: The windows, with shape :math:`(*, W, C_\mathrm{in}, H, W')`.
            c_noise: The noise level, with shape :math:`()` or :math:`(*)`.
            date: The features of the dates, with shape :math:`(W, K)` or :math:`(*, W, K)`.
            known: 1 where the columns of a window lie at their own longitudes, 0 where they may
                lie elsewhere, with shape :math:`(*)`; by default they all are at their own.

        Returns:
            The output, with shape :math:`(*, W, C_\mathrm{out}, H, W')`.
        """
        batch, window = x.shape[:-4], x.shape[-4]
        x = x.reshape(-1, window, *x.shape[-3:])
        count = len(x)
        date = date.expand(*batch, *date.shape[-2:]).reshape(count, window, 1, 1, -1)
        c_noise = c_noise.expand(batch).reshape(count)
        place: Tensor = self.place_embedding
        if known is not None:
            place = place * known.reshape(count, 1, 1, 1, 1)

        tokens = self.embed(x.movedim(2, -1)) + self.date_embedding(date)
        tokens = tokens + (self.time_embedding + self.row_embedding + place).to(tokens)
        modulation = self.modulation(_fourier(c_noise, self.width).to(tokens))
        modulation = modulation.reshape(count, 1, 1, 1, -1)
        for block in self.blocks:
            tokens = block(tokens, modulation)
        y: Tensor = self.unembed(self.norm(tokens)).movedim(-1, 2)
        return y.reshape(*batch, *y.shape[1:])


class _Block(nn.Module):
    def __init__(self, width: int, expansion: int, dropout: float, heads: int) -> None:
        super().__init__()
        self.attention = _TimeAttention(width, heads) if heads else None
        self.offset = nn.Parameter(torch.zeros(3 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        group = width // (len(NEIGHBOURS) + 3)  # three parts in all stay at their place
        self.groups = [width - group * len(NEIGHBOURS), *[group] * len(NEIGHBOURS)]
        self.mix = nn.Linear(width, width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        if self.attention is not None:
            x = x + self.attention(self.norm(x))
        offset, scale, gate = (modulation + self.offset).chunk(3, dim=-1)
        own, *others = self.mix(self.norm(x) * (1 + scale) + offset).split(self.groups, dim=-1)
        moved = (shift(part, *step) for part, step in zip(others, NEIGHBOURS, strict=True))
        hidden = F.silu(self.up(torch.cat((own, *moved), dim=-1)))
        y: Tensor = x + (1 + gate) * self.down(self.dropout(hidden))
        return y


class _TimeAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        count, window, rows, columns, _ = x.shape
        qkv = self.qkv(x).reshape(count, window, rows * columns, 3, self.heads, -1)
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 3)  # (B * places * heads, W, d)
        # A window is so short that the fused kernels lose more than they gain.
        scores = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
        attended = (scores.to(v) @ v).reshape(count, rows * columns, self.heads, window, -1)
        y: Tensor = self.out(attended.permute(0, 3, 1, 2, 4).reshape(x.shape))
        return y


def shift(x: Tensor, time: int, rows: int, columns: int) -> Tensor:
    r"""Moves fields on the sphere: :math:`y_{l, i, j} = x_{l - t, \, i - r, \, j - c}`.

    Longitude is periodic, meridians go on beyond the poles at the opposite longitude, and zeros
    come in at the ends of the window.

    Arguments:
        x: The fields, with shape :math:`(*, W, H, W', C)`, :math:`W'` even.
        time: The steps :math:`t` in time.
        rows: The steps :math:`r` in latitude.
        columns: The steps :math:`c` in longitude.

    Example:
        >>> shift(torch.arange(4.0).reshape(1, 1, 4, 1), 0, 0, 1).flatten()
        tensor([3., 0., 1., 2.])
    """
    if columns:
        x = x.roll(columns, -2)
    if rows:
        end = slice(0, rows) if rows > 0 else slice(rows, None)
        beyond = x[..., end, :, :].flip(-3).roll(x.shape[-2] // 2, -2)
        parts = (beyond, x[..., :-rows, :, :]) if rows > 0 else (x[..., -rows:, :, :], beyond)
        x = torch.cat(parts, dim=-3)
    if time:
        x = F.pad(x, (0, 0, 0, 0, 0, 0, time, -time))
    return x


def _fourier(c_noise: Tensor, features: int) -> Tensor:
    frequencies = torch.exp(
        torch.linspace(math.log(0.5), math.log(16.0), features // 2, device=c_noise.device)
    )
    angles = c_noise.unsqueeze(-1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
