r"""Convolutions on the sphere, sampled on a latitude-longitude grid.

Longitude is periodic. Beyond the poles a meridian goes on at the opposite longitude, so a field is
padded in latitude by its own first rows, mirrored and turned by half a circle.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResidualBlock", "SphereConv2d", "pad_sphere"]


def pad_sphere(x: Tensor, padding: int) -> Tensor:
    r"""Pads a field on all sides with what lies there on the sphere.

    Arguments:
        x: A field, with shape :math:`(B, C, H, W)`, rows from pole to pole. :math:`W` is even.
        padding: The number of rows and columns, at most :math:`H` and :math:`W`.

    Returns:
        The padded field, with shape :math:`(B, C, H + 2p, W + 2p)`.

    Raises:
        ValueError: If :math:`W` is odd, or the padding exceeds the field.

    Example:
        >>> pad_sphere(torch.arange(8.0).reshape(1, 1, 2, 4), 1)[0, 0]
        tensor([[1., 2., 3., 0., 1., 2.],
                [3., 0., 1., 2., 3., 0.],
                [7., 4., 5., 6., 7., 4.],
                [5., 6., 7., 4., 5., 6.]])
    """
    if padding == 0:
        return x
    if x.shape[-1] % 2 or padding > min(x.shape[-2:]):
        raise ValueError(
            f"expected an even number of columns and at least {padding} rows and columns, "
            f"got {tuple(x.shape)}"
        )
    half = x.shape[-1] // 2
    first = x[..., :padding, :].flip(-2).roll(half, -1)
    last = x[..., -padding:, :].flip(-2).roll(half, -1)
    return F.pad(torch.cat((first, x, last), dim=-2), (padding, padding, 0, 0), mode="circular")


class SphereConv2d(nn.Conv2d):
    r"""A convolution on the sphere (:func:`pad_sphere`), which keeps the shape of a field.

    Arguments:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        kernel_size: The (odd) size of the kernel.

    Raises:
        ValueError: If the kernel size is even.

    Example:
        >>> SphereConv2d(3, 5, 3)(torch.ones(1, 3, 8, 16)).shape
        torch.Size([1, 5, 8, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel_size, got {kernel_size}")
        super().__init__(in_channels, out_channels, kernel_size)
        self.halo = kernel_size // 2

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(pad_sphere(input, self.halo))


class ResidualBlock(nn.Module):
    r"""A residual block of two convolutions on the sphere, the identity at first.

    .. math:: x + W_2 \, \mathrm{SiLU}(W_1 \, \mathrm{GN}(x))

    Arguments:
        channels: The number of channels.
        hidden: The number of channels between the two convolutions.

    Example:
        >>> x = torch.randn(1, 16, 8, 16)
        >>> torch.equal(ResidualBlock(16, 32)(x), x)
        True
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.first = SphereConv2d(channels, hidden, 3)
        self.second = SphereConv2d(hidden, channels, 3)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(F.silu(self.first(self.norm(x))))
        return y
