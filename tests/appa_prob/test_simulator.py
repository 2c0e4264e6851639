"""Simulators: values, batches, gradients with and without what is computed again, Pyro."""

import pytest
import torch
from torch import Tensor

from appa_prob.operators import Gather, Nonlinear
from appa_prob.simulator import ODESimulator, Simulator, StepSimulator

F64 = torch.float64
X = torch.tensor([1.0, -0.5], dtype=F64)


def swing(x: Tensor, stiffness: Tensor, damping: Tensor) -> Tensor:
    """A step of a damped pendulum."""
    angle, speed = x[..., :1], x[..., 1:]
    speed = speed - 0.1 * (stiffness * torch.sin(angle) + damping * speed)
    return torch.cat((angle + 0.1 * speed, speed), -1)


def rotation(s: Tensor, x: Tensor, rate: Tensor) -> Tensor:
    return rate * torch.stack((-x[..., 1], x[..., 0]), -1)


def pendulum(segment: int | None = None) -> StepSimulator:
    simulator = StepSimulator(swing, 2, 12, every=4, segment=segment, parameters={"damping": 0.3})
    return simulator.given(stiffness=torch.tensor(2.0, dtype=F64))


def test_saved_states_are_those_of_a_loop() -> None:
    x, states = X, []
    for k in range(12):
        x = swing(x, torch.tensor(2.0, dtype=F64), torch.tensor(0.3, dtype=F64))
        states += [x] * (k % 4 == 3)
    assert torch.equal(pendulum()(X), torch.stack(states))


def test_parameters_and_states_are_batched_against_each_other() -> None:
    stiffness = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    together = pendulum().given(stiffness=stiffness)(X)
    assert together.shape == (3, 3, 2)
    assert torch.equal(together[1], pendulum()(X))
    crossed = pendulum().given(stiffness=stiffness[:, None])(torch.stack((X, 2 * X)))
    assert crossed.shape == (3, 2, 3, 2)
    torch.testing.assert_close(crossed[:, 0], together)
    value, J = pendulum().given(stiffness=stiffness).linearize(X)
    assert value.shape == (3, 3, 2) and J.batch_shape == (3,)


@pytest.mark.parametrize("segment", [1, 2, 4])
def test_gradients_do_not_depend_on_what_is_computed_again(segment: int) -> None:
    def gradients(simulator: Simulator) -> tuple[Tensor, ...]:
        x, k = X.clone().requires_grad_(), torch.tensor(2.0, dtype=F64, requires_grad=True)
        value = simulator.given(stiffness=k)(x).square().sum()
        first = torch.autograd.grad(value, (x, k), create_graph=True)
        return *first, *torch.autograd.grad(first[1], (x, k))

    for a, b in zip(gradients(pendulum()), gradients(pendulum(segment)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_what_is_computed_again_is_not_kept() -> None:
    """Two steps at a time of 64: far fewer tensors are saved for the backward pass."""
    saved: list[int] = []

    def count(x: Tensor) -> Tensor:
        saved[-1] += 1
        return x

    for segment in (None, 8):
        simulator = StepSimulator(swing, 2, 64, every=64, segment=segment)
        saved.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            simulator.given(stiffness=2.0, damping=0.1)(X.clone().requires_grad_())
    assert saved[1] * 8 < saved[0], saved


@pytest.mark.parametrize("segment", [None, 2])
def test_jacobians_are_those_of_autograd(segment: int | None) -> None:
    simulator = pendulum(segment)
    value, J = simulator.linearize(X)
    dense = torch.func.jacrev(pendulum())(X).reshape(6, 2)
    torch.testing.assert_close(value, simulator(X))
    torch.testing.assert_close(J.to_dense(), dense)
    assert J.shape == (6, 2)
    v, u = torch.randn(2, dtype=F64), torch.randn(3, 2, dtype=F64)
    torch.testing.assert_close((J(v) * u).sum(), (v * J.adjoint(u)).sum())


def test_simulators_compose_with_operators_and_maps() -> None:
    observe = Gather(torch.tensor([1, 5]), (3, 2)) @ pendulum() @ Nonlinear(torch.tanh, 2, 2)
    torch.testing.assert_close(observe(X), pendulum()(torch.tanh(X)).flatten()[[1, 5]])
    assert observe.linearize(X)[1].shape == (2, 2)


@pytest.mark.parametrize("adjoint", [False, True])
def test_equations_are_solved_as_accurately_as_asked(adjoint: bool) -> None:
    times = [0.0, 0.5, 2.0]
    simulator = ODESimulator(rotation, 2, times, rtol=1e-9, atol=1e-9, adjoint=adjoint)
    rate = torch.tensor([0.5, 1.5], dtype=F64, requires_grad=True)
    x = torch.tensor([1.0, 0.0], dtype=F64)
    path = simulator.given(rate=rate)(x)
    angle = rate[:, None] * torch.tensor(times[1:], dtype=F64)
    exact = torch.stack((angle.cos(), angle.sin()), -1)
    torch.testing.assert_close(path, exact, rtol=0, atol=1e-7)
    weights = torch.randn(2, 2, 2, dtype=F64)
    (found,) = torch.autograd.grad((weights * path).sum(), rate)
    (expected,) = torch.autograd.grad((weights * exact).sum(), rate)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_parameters_move() -> None:
    moved = pendulum().to(torch.float32)
    assert moved.parameters["stiffness"].dtype == torch.float32  # type: ignore[union-attr]
    assert moved(X.float()).dtype == torch.float32


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="steps that 5, the steps between saved states, divides"):
        StepSimulator(swing, 2, 12, every=5)
    with pytest.raises(ValueError, match=r"segment that divides 4.*got 3"):
        pendulum(3)
    with pytest.raises(ValueError, match=r"states of shape \(2,\) to states of that shape"):
        StepSimulator(lambda x: x[..., :1], 2, 2)(X)
    with pytest.raises(ValueError, match=r"expected a field of shape \(\*, 2\), got \(3,\)"):
        pendulum()(torch.ones(3))
    with pytest.raises(ValueError, match="expected at least two times that increase"):
        ODESimulator(rotation, 2, [1.0, 0.5])
