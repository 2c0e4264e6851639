"""Padding and convolutions on the sphere."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from appa_prob.layers import ResidualBlock, SphereConv2d, pad_sphere
from appa_prob.operators import Jacobian


def smooth(latitude: Tensor, longitude: Tensor) -> Tensor:
    """A polynomial of the Cartesian coordinates; latitudes beyond 90 degrees go over the pole."""
    phi, lam = torch.meshgrid(latitude, longitude, indexing="ij")
    x, y, z = phi.cos() * lam.cos(), phi.cos() * lam.sin(), phi.sin()
    return x + 2 * y * z - 3 * x * y + z**3 + 0.5 * x**2 * z


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_padding_continues_a_smooth_field_over_the_poles(
    padding: int, device: torch.device
) -> None:
    rows, columns = 6, 8
    row = torch.arange(-padding, rows + padding, device=device).double()
    column = torch.arange(-padding, columns + padding, device=device).double()
    latitude = (-90 + (row + 0.5) * 180 / rows).deg2rad()
    longitude = (column * 360 / columns).deg2rad()
    expected = smooth(latitude, longitude)
    inner = slice(padding, -padding or None)
    padded = pad_sphere(expected[inner, inner][None, None], padding)
    assert torch.allclose(padded[0, 0], expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 4, 7), (1, 1, 2, 8), (1, 1, 8, 2)])
def test_padding_refuses_fields_that_it_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="even number of columns"):
        pad_sphere(torch.zeros(shape), 3)


def test_convolution_commutes_with_turns(device: torch.device, generator: torch.Generator) -> None:
    conv = SphereConv2d(3, 5, 5).double().to(device)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64, device=device, generator=generator)
    for turn in range(1, 8):
        assert torch.allclose(conv(x.roll(turn, -1)), conv(x).roll(turn, -1), atol=1e-12)


def test_convolution_is_that_of_the_padded_field(device: torch.device) -> None:
    conv = SphereConv2d(2, 3, 3).double().to(device)
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, device=device)
    top = torch.roll(x[:, :, :1], 3, -1)
    bottom = torch.roll(x[:, :, -1:], 3, -1)
    tall = torch.cat((top, x, bottom), -2)
    wide = torch.cat((tall[..., -1:], tall, tall[..., :1]), -1)
    expected = torch.nn.functional.conv2d(wide, conv.weight, conv.bias)
    assert torch.allclose(conv(x), expected, atol=1e-12)


@pytest.mark.parametrize("forward", ["double-adjoint", "forward-mode"])
def test_jacobians_of_convolutions_are_the_convolutions_themselves(
    forward: Literal["double-adjoint", "forward-mode"],
    device: torch.device,
    generator: torch.Generator,
) -> None:
    conv = SphereConv2d(3, 5).double().to(device)
    x, v, u = (
        torch.randn(2, n, 6, 8, dtype=torch.float64, device=device, generator=generator)
        for n in (3, 3, 5)
    )
    y = conv(x)
    linear = y - conv(torch.zeros_like(x))
    (pulled,) = torch.autograd.grad(conv(x.requires_grad_()), x, u)
    conv.requires_grad_(False)
    J = Jacobian(conv, x.detach(), (3, 6, 8), forward=forward)
    assert torch.allclose(J.value, y, atol=1e-12)
    assert torch.allclose(J(x.detach()), linear, atol=1e-12)
    assert torch.allclose(J.adjoint(u), pulled, atol=1e-12)
    assert torch.allclose((J(v) * u).sum(), (v * pulled).sum(), atol=1e-10)
    mapped = torch.func.vmap(lambda a: conv(a.unsqueeze(0)).squeeze(0))(x.detach())
    assert torch.allclose(mapped, y, atol=1e-12)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="odd kernel_size, got 4"):
        SphereConv2d(1, 1, 4)


def test_residual_block_is_the_identity_at_first_and_then_learns(device: torch.device) -> None:
    block = ResidualBlock(4, 6).to(device)
    x = torch.randn(2, 4, 4, 8, device=device)
    y = block(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    gradient = block.second.weight.grad
    assert gradient is not None and math.isfinite(float(gradient.norm()))
    assert float(gradient.norm()) > 0
