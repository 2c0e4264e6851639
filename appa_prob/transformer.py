r"""The transformer that denoises short trajectories of latents."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TrajectoryTransformer"]


class TrajectoryTransformer(nn.Module):
    r"""A transformer over all patches of all states of a window, modulated by the noise level.

    .. math:: F_\theta(x, c_\mathrm{noise}, \mathrm{date})
        \qquad x \in \mathbb{R}^{W \times C \times H \times W'}

    Each state is cut into patches; a token is a patch, plus learned embeddings of its time in the
    window and its place on the globe, plus an embedding of its date. Each block is modulated by
    the noise level (adaptive layer normalisation with one modulation network for all blocks). The
    output is zero at first.

    References:
        | Scalable Diffusion Models with Transformers (Peebles and Xie, 2023)
        | https://arxiv.org/abs/2212.09748

        | PixArt-alpha: Fast Training of Diffusion Transformer (Chen et al., 2023)
        | https://arxiv.org/abs/2310.00426

    Arguments:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        window: The number of states of a window.
        grid: The shape of the latent grid.
        patch: The size of a square patch.
        width: The number of features of a token.
        depth: The number of blocks.
        heads: The number of attention heads.
        expansion: The width of the hidden layers over that of a token.
        date_features: The number of features of a date.
        dropout: The share of features that are dropped at the end of each half of a block, in
            training.

    Raises:
        ValueError: If patches do not tile the grid, or heads the width.

    Example:
        >>> sizes = {"patch": 2, "width": 32, "depth": 1, "heads": 2}
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
        patch: int,
        width: int,
        depth: int,
        heads: int,
        expansion: int = 3,
        date_features: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if grid[0] % patch or grid[1] % patch:
            raise ValueError(f"expected a patch that tiles the grid {tuple(grid)}, got {patch}")
        if width % heads or width % 2:
            raise ValueError(
                f"expected an even width that is a multiple of {heads} heads, got {width}"
            )
        self.patch, self.width, self.out_channels = patch, width, out_channels
        places = (grid[0] // patch) * (grid[1] // patch)
        self.embed = nn.Linear(in_channels * patch**2, width)
        self.time_embedding = nn.Parameter(0.02 * torch.randn(window, 1, width))
        self.place_embedding = nn.Parameter(0.02 * torch.randn(1, places, width))
        self.date_embedding = nn.Linear(date_features, width)
        self.modulation = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 6 * width)
        )
        self.blocks = nn.ModuleList(_Block(width, heads, expansion, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.unembed = nn.Linear(width, out_channels * patch**2)
        nn.init.zeros_(self.unembed.weight)
        nn.init.zeros_(self.unembed.bias)

    def forward(self, x: Tensor, c_noise: Tensor, *, date: Tensor) -> Tensor:
        r"""Denoises windows.

        Arguments:
            x: The windows, with shape :math:`(*, W, C_\mathrm{in}, H, W')`.
            c_noise: The noise level, with shape :math:`()` or :math:`(*)`.
            date: The features of the dates, with shape :math:`(W, K)` or :math:`(*, W, K)`.

        Returns:
            The output, with shape :math:`(*, W, C_\mathrm{out}, H, W')`.
        """
        batch, (window, _, height, breadth) = x.shape[:-4], x.shape[-4:]
        x = x.reshape(-1, window, *x.shape[-3:])
        count = len(x)
        date = date.expand(*batch, *date.shape[-2:]).reshape(count, window, -1)
        c_noise = c_noise.expand(batch).reshape(count)

        rows, columns = height // self.patch, breadth // self.patch
        tokens = F.pixel_unshuffle(x, self.patch).flatten(-2).transpose(-1, -2)
        tokens = self.embed(tokens) + self.place_embedding
        tokens = tokens + self.time_embedding + self.date_embedding(date).unsqueeze(-2)
        tokens = tokens.flatten(1, 2)
        modulation = self.modulation(_fourier(c_noise, self.width).to(tokens)).unsqueeze(1)
        for block in self.blocks:
            tokens = block(tokens, modulation)
        y: Tensor = self.unembed(self.norm(tokens)).transpose(-1, -2)
        y = y.reshape(count, -1, window, rows, columns).transpose(1, 2)
        y = F.pixel_shuffle(y, self.patch)
        return y.reshape(*batch, window, self.out_channels, height, breadth)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.offset = nn.Parameter(torch.zeros(6 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = (modulation + self.offset).chunk(6, dim=-1)
        q, k, v = self.qkv(self.norm(x) * (1 + scale) + shift).chunk(3, dim=-1)
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for a in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)
        x = x + (1 + gate) * self.dropout(self.out(attended))
        hidden = F.silu(self.up(self.norm(x) * (1 + scale_2) + shift_2))
        y: Tensor = x + (1 + gate_2) * self.dropout(self.down(hidden))
        return y


def _fourier(c_noise: Tensor, features: int) -> Tensor:
    frequencies = torch.exp(
        torch.linspace(math.log(0.5), math.log(16.0), features // 2, device=c_noise.device)
    )
    angles = c_noise.unsqueeze(-1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
