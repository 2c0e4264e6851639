"""Jacobians agree with torch.autograd.functional.jacobian, and evaluate their function once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from appa_prob.operators import Composition, Dense, Jacobian, Mask, Nonlinear
from appa_prob.operators.linearised import Linearised
from appa_prob.operators.tape import Forward

F64 = torch.float64
Function = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """One residual block of self-attention with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 2)).movedim(-3, 0).transpose(-3, -2)
        heads = nn.functional.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = x + self.out(heads.transpose(-3, -2).flatten(-2))
        return mixed


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Function) -> None:
        self.function, self.calls = function, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.function(x)


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 3, 3, stride=2),
    )


def case(name: str) -> tuple[Function, Tensor]:
    """A function of a batch of events and a point of one event, by name."""
    if name == "linear":
        return nn.Linear(3, 5).to(F64), torch.randn(3, dtype=F64)
    if name == "convolution":
        return convolution().to(F64), torch.randn(2, 4, 5, dtype=F64)
    return Attention().to(F64), torch.randn(5, 4, dtype=F64)


def matrix(function: Function, x: Tensor) -> Tensor:
    """The Jacobian of one event, flattened, by torch."""
    batched = x[None]
    J: Tensor = torch.autograd.functional.jacobian(lambda x: function(x)[0], batched)  # type: ignore[no-untyped-call]
    return J.reshape(-1, x.numel())


NAMES = ["linear", "convolution", "attention"]
MODES: list[Forward] = ["linearised", "double-adjoint", "forward-mode"]


@pytest.mark.parametrize("mode", ["linearised", None])
@pytest.mark.parametrize("name", NAMES)
def test_matches_torch_in_products_both_ways(name: str, mode: Forward | None) -> None:
    f, x = case(name)
    J, M = Jacobian(f, x[None], event_ndim=x.ndim, forward=mode), matrix(f, x)
    torch.testing.assert_close(J.value, f(x[None]))
    torch.testing.assert_close(J.to_dense()[0], M)
    torch.testing.assert_close(J.T.to_dense()[0], M.mT)
    v, u = torch.randn(1, *J.in_shape, dtype=F64), torch.randn(1, *J.out_shape, dtype=F64)
    torch.testing.assert_close(J(v).flatten(), M @ v.flatten())
    torch.testing.assert_close(J.adjoint(u).flatten(), M.mT @ u.flatten())


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_forward_modes_agree(name: str) -> None:
    f, x = case(name)
    v = torch.randn(2, *x.shape, dtype=F64)
    linear, double, forward = (
        Jacobian(f, torch.stack((x, -x)), event_ndim=x.ndim, forward=mode) for mode in MODES
    )
    assert double(v).abs().max() > 1e-3
    torch.testing.assert_close(double(v), forward(v))
    torch.testing.assert_close(linear(v), forward(v))


@pytest.mark.parametrize("order", ["adjoint first", "forward first"])
def test_products_evaluate_the_function_once(order: str) -> None:
    f, x = case("convolution")
    counted = Counted(f)
    value, J = Nonlinear(counted, x.shape, (3, 1, 2)).linearize(x[None])
    u, v = torch.ones_like(value), torch.ones_like(x)[None]
    for product in (J.adjoint, J, J.adjoint, J) if order == "adjoint first" else (J, J.adjoint, J):
        product(u if product == J.adjoint else v)
    assert counted.calls == 1


def test_forward_mode_evaluates_the_function_again_for_each_product() -> None:
    counted = Counted(torch.sin)
    J = Jacobian(counted, torch.zeros(3), forward="forward-mode")
    J.adjoint(torch.ones(3))
    assert counted.calls == 1
    J(torch.ones(3))
    assert counted.calls == 2


def test_functions_are_linearised_once_for_each_shape() -> None:
    f, x = case("convolution")
    counted = Counted(f)
    g = Nonlinear(counted, x.shape, (3, 1, 2), forward="linearised")
    for scale in (1.0, 2.0, 3.0):
        value, J = g.linearize(scale * x[None])
        M, v = matrix(f, scale * x), torch.randn(1, *x.shape, dtype=F64)
        torch.testing.assert_close(value, f(scale * x[None]))
        torch.testing.assert_close(J(v).flatten(), M @ v.flatten())
        torch.testing.assert_close(J.adjoint(value).flatten(), M.mT @ value.flatten())
    assert counted.calls == 1
    g.linearize(torch.stack((x, -x)))
    assert counted.calls == 2


def test_traces_read_parameters_anew() -> None:
    layer = nn.Linear(3, 3).to(F64)
    f, x = Linearised(nn.Sequential(layer, nn.Tanh())), torch.randn(3, dtype=F64)
    f.trace(x)
    with torch.no_grad():
        layer.weight.mul_(2.0)
    J = Jacobian(f, x)
    torch.testing.assert_close(J.value, layer(x).tanh())
    torch.testing.assert_close(J(x), (1 - J.value.square()) * (layer.weight @ x))


def test_linearised_functions_may_write_in_place() -> None:
    def f(x: Tensor) -> Tensor:
        y = x.sin()
        y[..., 0] = x[..., 1].square()
        return y.mul_(x)

    x = torch.randn(4, 3, dtype=F64)
    J = Jacobian(f, x, event_ndim=1, forward="linearised")
    M = torch.func.vmap(torch.func.jacfwd(lambda x: f(x[None])[0]))(x)
    torch.testing.assert_close(J.to_dense(), M)
    torch.testing.assert_close(J.T.to_dense(), M.mT)


class Cube(torch.autograd.Function):
    """A function without second derivatives and without a forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Square(torch.autograd.Function):
    """A function without second derivatives, but with a forward mode."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        return 2 * ctx.saved_tensors[0] * g

    @staticmethod
    def jvp(ctx: Any, v: Tensor) -> Any:
        return 2 * ctx.saved_tensors[0] * v


def square(x: Tensor) -> Tensor:
    y: Tensor = Square.apply(x)  # type: ignore[no-untyped-call]
    return y


def test_the_fastest_way_that_works_is_chosen() -> None:
    x = torch.tensor([1.0, 2.0], dtype=F64)
    counted = Counted(lambda x: square(x) + x)
    J = Jacobian(counted, x)
    for _ in range(2):
        torch.testing.assert_close(J(x), 2 * x**2 + x)
        torch.testing.assert_close(J.adjoint(x), 2 * x**2 + x)
    assert counted.calls == 3  # the value, and each product in forward mode
    kept = Counted(torch.sin)
    linearised = Linearised(kept)
    for _ in range(2):
        J = Jacobian(linearised, x)
        torch.testing.assert_close(J(x), x.cos() * x)
    assert kept.calls == 1


def test_ways_that_are_named_are_not_replaced() -> None:
    x = torch.tensor([1.0, 2.0], dtype=F64)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        Jacobian(square, x, forward="double-adjoint")(x)
    with pytest.raises(RuntimeError, match="second derivatives or with a forward mode"):
        Jacobian(Cube.apply, x)(x)
    torch.testing.assert_close(Jacobian(Cube.apply, x).adjoint(x), 3 * x**3)
    with pytest.raises(ValueError, match="got 'fast'"):
        Jacobian(torch.sin, x, forward="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [*MODES, None])
def test_works_under_vmap(mode: Forward | None) -> None:
    def f(x: Tensor) -> Tensor:
        return x.sin().cumsum(-1) * x

    x, v = torch.randn(2, 4, 3, dtype=F64)
    M = torch.func.vmap(torch.func.jacrev(f))(x)
    forward = torch.func.vmap(lambda x, v: Jacobian(f, x, forward=mode)(v))
    adjoint = torch.func.vmap(lambda x, v: Jacobian(f, x, forward=mode).adjoint(v))
    torch.testing.assert_close(forward(x, v), (M @ v[..., None])[..., 0])
    torch.testing.assert_close(adjoint(x, v), (M.mT @ v[..., None])[..., 0])
    J = Jacobian(f, x[0], forward=mode)
    torch.testing.assert_close(torch.func.vmap(J.adjoint)(v), v @ M[0])
    torch.testing.assert_close(torch.func.vmap(J)(v), v @ M[0].mT)
    torch.testing.assert_close(
        torch.func.grad(lambda v: J(v).square().sum())(v[0]), 2 * M[0].mT @ M[0] @ v[0]
    )


@pytest.mark.parametrize("mode", MODES)
def test_works_under_no_grad(mode: Forward) -> None:
    f, x = case("convolution")
    M = matrix(f, x)
    with torch.no_grad():
        J = Jacobian(f, x[None], event_ndim=3, forward=mode)
        v = torch.randn(1, *x.shape, dtype=F64)
        y, z = J(v), J.adjoint(J.value)
    torch.testing.assert_close(y.flatten(), M @ v.flatten())
    torch.testing.assert_close(z.flatten(), M.mT @ J.value.flatten())
    assert not J.value.requires_grad and not y.requires_grad and not z.requires_grad


def test_inference_mode_is_refused_with_the_remedy() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch\.no_grad"):
        Jacobian(torch.sin, torch.zeros(3))


@pytest.mark.parametrize("mode", MODES)
def test_products_are_differentiable_in_the_point_and_in_the_field(mode: Forward) -> None:
    x = torch.randn(4, dtype=F64, requires_grad=True)
    v = torch.randn(4, dtype=F64, requires_grad=True)

    def forward(x: Tensor, v: Tensor) -> Tensor:
        return Jacobian(lambda x: x.sin() * x.roll(1), x, forward=mode)(v)

    def adjoint(x: Tensor, v: Tensor) -> Tensor:
        return Jacobian(lambda x: x.sin() * x.roll(1), x, forward=mode).adjoint(v)

    assert torch.autograd.gradcheck(forward, (x, v))
    assert torch.autograd.gradcheck(adjoint, (x, v))


def test_the_point_gets_no_gradient_unless_wanted() -> None:
    x = torch.randn(4, dtype=F64, requires_grad=True)
    wanted = Jacobian(torch.sin, x)
    unwanted = Jacobian(torch.sin, x, create_graph=False)
    v = torch.ones(4, dtype=F64)
    (gradient,) = torch.autograd.grad(wanted(v).sum(), x)
    torch.testing.assert_close(gradient, -x.detach().sin())
    assert not unwanted(v).requires_grad and not unwanted.value.requires_grad
    assert not unwanted.adjoint(v).requires_grad


def test_chains_linearize_by_the_chain_rule_with_one_evaluation() -> None:
    counted = Counted(torch.exp)
    A = Dense(torch.randn(3, 4, dtype=F64))
    f = A @ Nonlinear(counted, 4, 4) @ Mask(torch.tensor([True, True, False, True, True]))
    x = torch.randn(2, 5, dtype=F64)
    value, J = f.linearize(x)
    assert counted.calls == 1
    assert isinstance(J, Composition)
    inner = x[:, [0, 1, 3, 4]].exp()
    torch.testing.assert_close(value, inner @ A.matrix.mT)
    expected = torch.zeros(2, 3, 5, dtype=F64)
    expected[:, :, [0, 1, 3, 4]] = A.matrix * inner[:, None]
    torch.testing.assert_close(J.to_dense(), expected)


@pytest.mark.parametrize("name", ["convolution", "attention"])
def test_batch_entries_are_independent(name: str) -> None:
    f, x = case(name)
    points = torch.stack((x, 2 * x, x.flip(0)))
    batch = Jacobian(f, points, event_ndim=x.ndim)
    v = torch.randn(3, *x.shape, dtype=F64)
    for i in range(3):
        alone = Jacobian(f, points[i : i + 1], event_ndim=x.ndim)
        torch.testing.assert_close(batch(v)[i : i + 1], alone(v[i : i + 1]))
        torch.testing.assert_close(batch.to_dense()[i], matrix(f, points[i]))


def test_fields_with_more_batch_axes_than_the_point() -> None:
    x = torch.randn(1, 2, 3, dtype=F64)
    J = Jacobian(lambda x: x.square().cumsum(-1), x, event_ndim=1)
    v = torch.randn(5, 4, 2, 3, dtype=F64)
    torch.testing.assert_close(J(v), (2 * x * v).cumsum(-1))
    u = torch.randn(4, 1, 3, dtype=F64)
    expected = 2 * x * u.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(J.adjoint(u), expected)


def test_fields_with_a_batch_axis_between_those_of_the_point() -> None:
    x = torch.randn(2, 1, 4, 3, dtype=F64)
    J = Jacobian(lambda x: x.square().cumsum(-1), x, event_ndim=1)
    v = torch.randn(2, 5, 4, 3, dtype=F64)
    torch.testing.assert_close(J(v), (2 * x * v).cumsum(-1))


def test_constant_and_linear_functions() -> None:
    J = Jacobian(lambda x: torch.ones(2, dtype=F64), torch.randn(3, dtype=F64))
    assert torch.equal(J.to_dense(), torch.zeros(2, 3, dtype=F64))
    assert torch.equal(J.adjoint(torch.ones(2, dtype=F64)), torch.zeros(3, dtype=F64))
    shifted = Jacobian(lambda x: 3 * x + 1, torch.randn(3, dtype=F64))
    torch.testing.assert_close(shifted.to_dense(), 3 * torch.eye(3, dtype=F64))


def test_wrong_points_and_functions_are_refused() -> None:
    with pytest.raises(ValueError, match="keeps the batch axes"):
        Jacobian(lambda x: x.sum(0), torch.ones(2, 3), event_ndim=1)
    with pytest.raises(ValueError, match="batch axes come first"):
        Jacobian(torch.sin, torch.ones(2, 3), in_shape=2)
    with pytest.raises(ValueError, match="got both"):
        Jacobian(torch.sin, torch.ones(3), in_shape=3, event_ndim=1)
    with pytest.raises(ValueError, match="correct out_shape"):
        Nonlinear(torch.sin, 3, 4)(torch.ones(3))


@pytest.mark.parametrize("mode", [*MODES, None])
def test_works_under_compile(mode: Forward | None) -> None:
    def f(x: Tensor) -> Tensor:
        return x.sin().cumsum(-1) * x

    x, v = torch.randn(2, 3, dtype=F64)
    M = torch.func.jacrev(f)(x)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def products(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        J = Jacobian(f, x, forward=mode)
        return J(v), J.adjoint(v)

    forward, adjoint = products(x, v)
    torch.testing.assert_close(forward, M @ v)
    torch.testing.assert_close(adjoint, M.mT @ v)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at all of a closure
@pytest.mark.parametrize("mode", MODES)
def test_recorded_products_run_between_compiled_graphs(mode: Forward) -> None:
    x, v = torch.randn(2, 3, dtype=F64)
    J = Jacobian(torch.sin, x, forward=mode)
    product = torch.compile(lambda v: 2 * J.adjoint(J(3 * v)), backend="eager")
    torch.testing.assert_close(product(v), 6 * x.cos().square() * v)
