"""What is dear to differentiate twice is recorded as linear functions, each the backward pass of
its adjoint."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from appa_prob.operators import Jacobian
from appa_prob.operators.frozen import Frozen

F64 = torch.float64


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts convolutions, in either direction."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convolutions = 0
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.convolutions += "convolution" in str(func)
        if "detach" not in str(func):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def weighted(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(1))


LAYERS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "1d, same": ((2, 5), lambda x: functional.conv1d(x, weighted(3, 2, 3), padding="same")),
    "1d, valid": ((2, 5), lambda x: functional.conv1d(x, weighted(3, 2, 3), padding="valid")),
    "2d, stride": ((2, 5, 4), nn.Conv2d(2, 3, 3, stride=2, padding=1).to(F64)),
    "2d, groups": ((2, 5, 4), nn.Conv2d(2, 4, (3, 1), dilation=2, padding=2, groups=2).to(F64)),
    "2d, torus": ((2, 5, 4), nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular").to(F64)),
    "3d": ((1, 3, 3, 3), nn.Conv3d(1, 2, 2, bias=False).to(F64)),
    "1d, transposed": ((2, 4), nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1).to(F64)),
    "2d, transposed": ((2, 3, 3), nn.ConvTranspose2d(2, 4, 3, groups=2, dilation=2).to(F64)),
    "3d, transposed": ((1, 2, 3, 2), nn.ConvTranspose3d(1, 2, 2).to(F64)),
    "2d, to many channels": ((2, 4, 3), nn.Conv2d(2, 18, 3, padding=1).to(F64)),
    "2d, more padding than reach": ((2, 4, 3), nn.Conv2d(2, 3, 1, padding=1).to(F64)),
    "2d, few channels, dilated": ((2, 6, 5), nn.Conv2d(2, 3, 3, dilation=2, padding=1).to(F64)),
    "2d, transposed, much output padding": (
        (2, 3, 3),
        nn.ConvTranspose2d(2, 3, 2, output_padding=1, dilation=2).to(F64),
    ),
    "gelu": ((3, 4), nn.GELU("tanh")),
    "elu": ((3, 4), nn.ELU(0.5)),
    "mish": ((3, 4), nn.Mish()),
    "softplus": ((3, 4), nn.Softplus(2.0)),
    "hardswish": ((3, 4), nn.Hardswish()),
    "silu": ((3, 4), nn.SiLU()),
    "sigmoid": ((3, 4), torch.sigmoid),
    "tanh": ((3, 4), nn.Tanh()),
    "in place": ((3, 4), lambda x: functional.silu(1 * x, inplace=True)),
    "changed in place": ((3, 4), lambda x: functional.silu(x).mul_(x)),
    "moments": (
        (3, 4, 2),
        lambda x: torch.stack(torch.var_mean(x, dim=(-3, -1), keepdim=True)) * x,
    ),
    "moments of all": (
        (3, 4),
        lambda x: torch.stack(torch.var_mean(x, dim=(-2, -1), correction=0, keepdim=True)),
    ),
    "variance changed in place": (
        (3, 4),
        lambda x: torch.var_mean(x, -2, unbiased=False, keepdim=True)[0].add_(1.0).rsqrt() * x,
    ),
    "moments without axes": ((3, 4), lambda x: torch.stack(torch.var_mean(x, 1))),
    "shuffle": ((8, 2, 3), lambda x: functional.pixel_shuffle(x, 2).square_()),
    "shuffle, one pixel": (
        (2, 4, 1, 1),
        lambda x: nn.PixelShuffle(2)(h := 1 * x).add_(1.0) * h[0],
    ),
    "unshuffle": ((2, 2, 4, 6), nn.PixelUnshuffle(2)),
    "weights of the input": (
        (2, 5),
        lambda x: functional.conv1d(x, weighted(3, 2, 3) * x.sum((-1, -2))[..., None, None]),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_are_those_of_torch(name: str) -> None:
    shape, layer = LAYERS[name]
    x = torch.randn(shape, dtype=F64)

    def function(x: Tensor) -> Tensor:
        return layer(torch.sin(x)).square()

    J = Jacobian(function, x)
    torch.testing.assert_close(J.value, function(x))
    expected = torch.autograd.functional.jacobian(function, x)  # type: ignore[no-untyped-call]
    expected = expected.reshape(-1, x.numel())
    v, u = torch.randn(shape, dtype=F64), torch.randn_like(J.value)
    torch.testing.assert_close(J(v).flatten(), expected @ v.flatten())
    torch.testing.assert_close(J.adjoint(u).flatten(), expected.mT @ u.flatten())


@pytest.mark.parametrize("name", LAYERS)
def test_values_are_those_of_torch(name: str) -> None:
    shape, layer = LAYERS[name]
    x = torch.randn(shape, dtype=F64)
    with Frozen():
        recorded = layer(x.clone().requires_grad_())
    torch.testing.assert_close(recorded, layer(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU(), nn.Mish(), nn.Softplus()])
def test_products_take_one_operation_an_activation(activation: nn.Module) -> None:
    x, v = torch.randn(2, 6)
    J = Jacobian(activation, x)
    J.adjoint(v)
    J(v)
    for product in (J.forward, J.adjoint):
        with Calls() as calls:
            product(v)
        assert set(calls.names) == {"aten.mul.Tensor"}
        assert len(calls.names) == 1


def test_no_product_takes_more_than_one_convolution_a_layer() -> None:
    net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.SiLU(), nn.ConvTranspose1d(4, 1, 3)).to(F64)
    J = Jacobian(net, torch.randn(2, 1, 6, dtype=F64), event_ndim=2)
    J.adjoint(torch.randn_like(J.value))
    for product, field in ((J.forward, torch.randn(2, 1, 6, dtype=F64)), (J.adjoint, J.value)):
        with Calls() as calls:
            product(field)
        assert calls.convolutions == 2


def test_mixed_precision_is_that_of_the_plain_layer() -> None:
    layer, x = nn.Conv1d(2, 3, 3), torch.randn(4, 2, 6)

    def function(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = layer(x).float()
        return y

    J = Jacobian(function, x, event_ndim=2)
    assert torch.equal(J.value, function(x))
    u = torch.randn_like(J.value)
    x = x.requires_grad_()
    assert torch.equal(J.adjoint(u), torch.autograd.grad(function(x), x, u)[0])
    assert J(x.detach()).dtype is torch.float32
    close = layer(x) - function(torch.zeros_like(x))
    torch.testing.assert_close(J(x.detach()), close.detach(), rtol=0.05, atol=0.05)


def test_gradients_of_weights_go_through_the_plain_layer() -> None:
    layer, x = nn.Conv1d(1, 1, 3).to(F64), torch.randn(1, 6, dtype=F64, requires_grad=True)
    J = Jacobian(layer, x)
    J(torch.ones(1, 6, dtype=F64)).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(layer.weight.grad, torch.full((1, 1, 3), 4.0, dtype=F64))


def test_functions_may_differentiate_and_batch_inside() -> None:
    layer, x = nn.Conv1d(1, 1, 3).to(F64), torch.randn(3, 1, 6, dtype=F64)

    def slope(x: Tensor) -> Tensor:
        slopes: Tensor = torch.func.vmap(torch.func.grad(lambda x: layer(x).square().sum()))(x)
        return slopes

    J = Jacobian(slope, x, event_ndim=2)
    torch.testing.assert_close(J.value, slope(x))
    expected = torch.autograd.functional.jacobian(slope, x)  # type: ignore[no-untyped-call]
    v = torch.randn_like(x)
    torch.testing.assert_close(J(v), torch.einsum("abcdef,def->abc", expected, v))
