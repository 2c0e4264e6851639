r"""Convolutions on the sphere, sampled on a latitude-longitude grid, and on the plane.

Longitude is periodic. Beyond the poles a meridian goes on at the opposite longitude, so a field is
padded in latitude by its own first rows, mirrored and turned by half a circle.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PlanarConv2d", "ResidualBlock", "SphereConv2d", "pad_sphere"]


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

    Weights that require no gradient are taken as fixed: forward products of the Jacobian, by
    differentiating twice, then cost one convolution instead of two.

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
        _check_odd(kernel_size)
        super().__init__(in_channels, out_channels, kernel_size)
        self.halo = kernel_size // 2

    def forward(self, input: Tensor) -> Tensor:
        return _convolve(self, pad_sphere(input, self.halo), 0)


class PlanarConv2d(nn.Conv2d):
    r"""A convolution on the plane, beyond whose edges there are zeros or the opposite edges.

    Weights that require no gradient are taken as fixed, as by :class:`SphereConv2d`.

    Arguments:
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        kernel_size: The (odd) size of the kernel.
        stride: The number of cells between two outputs.
        periodic: Whether both axes are periodic.

    Raises:
        ValueError: If the kernel size is even.

    Example:
        >>> PlanarConv2d(3, 5, stride=2)(torch.ones(1, 3, 8, 16)).shape
        torch.Size([1, 5, 4, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        periodic: bool = False,
    ) -> None:
        _check_odd(kernel_size)
        self.halo = kernel_size // 2
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            self.halo,
            padding_mode="circular" if periodic else "zeros",
        )

    def forward(self, input: Tensor) -> Tensor:
        if self.padding_mode == "circular" or self.stride != (1, 1):
            return super().forward(input)
        return _convolve(self, input, self.halo)


def _check_odd(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f"expected an odd kernel_size, got {kernel_size}")


def _convolve(conv: nn.Conv2d, x: Tensor, halo: int) -> Tensor:
    """A convolution with zeros around, of fixed weights if they require no gradient."""
    weight, bias = conv.weight, conv.bias
    if weight.requires_grad:
        return F.conv2d(x, weight, bias, padding=halo)
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(x.dtype)
    y: Tensor = _FixedConv2d.apply(x, weight, bias, halo)  # type: ignore[no-untyped-call]
    return y


class _FixedConv2d(torch.autograd.Function):
    """A convolution by weights that stay as they are, with its adjoint spelt out.

    The second derivative of torch's own convolution computes that of the weights as well.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, halo: int) -> Tensor:
        return F.conv2d(x, weight, bias, padding=halo)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, int], output: Any
    ) -> None:
        ctx.halo = inputs[3]
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x = F.conv_transpose2d(grads[0], ctx.saved_tensors[0], padding=ctx.halo)
        return x, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return F.conv2d(tangents[0], ctx.saved_tensors[0], padding=ctx.halo)


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
