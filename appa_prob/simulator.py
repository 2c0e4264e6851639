r"""Simulators: maps from an initial state to its trajectory, differentiable in parameters too.

.. math:: x_{k+1} = F(x_k; \theta) \qquad \text{or} \qquad \frac{dx}{ds} = f(s, x; \theta)

A simulator is a :class:`~appa_prob.operators.Map` of the initial state. Its parameters are numbers
that :meth:`Simulator.given` sets: inside a Pyro model to what ``pyro.sample`` returned, so that
NUTS and SVI differentiate through the simulation; before guidance to what is known.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Size, Tensor, nn
from torch.utils.checkpoint import checkpoint

from appa_prob.operators import Jacobian, Map, Operator
from appa_prob.operators.shapes import as_size, broadcast
from appa_prob.samplers.adaptive_ode import Method, solve
from appa_prob.samplers.denoiser import over

__all__ = ["ODESimulator", "Simulator", "StepSimulator"]


class Simulator(Map):
    r"""A map from the state at the start to the states at `saved` later times.

    Subclasses implement :meth:`run`.

    Arguments:
        function: What is simulated, called with the parameters by keyword.
        shape: The shape of a state.
        saved: The number of states that are saved.
        parameters: The parameters :math:`\theta`, numbers or tensors with the shape of a batch.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        shape: int | Sequence[int],
        saved: int,
        parameters: Mapping[str, Tensor | float] | None = None,
    ) -> None:
        self.function = function
        self.in_shape = as_size(shape)
        self.out_shape = Size((saved, *self.in_shape))
        self.parameters: dict[str, Tensor | float] = dict(parameters or {})

    @abstractmethod
    def run(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        r"""Simulates.

        Arguments:
            x: The initial state, with shape :math:`(*, state)`.
            parameters: The parameters, shaped to multiply states.

        Returns:
            The trajectory, with shape :math:`(*, saved, state)`.
        """

    def given(self, **parameters: Tensor | float) -> Self:
        r"""The simulator with parameters set, others kept.

        Arguments:
            parameters: The parameters, numbers or tensors with the shape of a batch, which
                broadcasts against that of initial states.
        """
        other = copy.copy(self)
        other.parameters = {**self.parameters, **parameters}
        return other

    def forward(self, x: Tensor) -> Tensor:
        parameters: dict[str, Tensor] = {
            name: over(torch.as_tensor(value, dtype=x.dtype, device=x.device), self.in_shape)
            for name, value in self.parameters.items()
        }
        return self.run(self._expanded(x), parameters)

    def linearize(self, x: Tensor) -> tuple[Tensor, Operator]:
        self._check(x, self.in_shape)
        jacobian = Jacobian(self.forward, self._expanded(x), self.in_shape)
        return jacobian.value, jacobian

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves the parameters, and the function if it is a module (in place, as modules move)."""
        if isinstance(self.function, nn.Module):
            self.function.to(*args, **kwargs)
        tensors = {k: v for k, v in self.parameters.items() if isinstance(v, Tensor)}
        return self.given(**{name: value.to(*args, **kwargs) for name, value in tensors.items()})

    def _expanded(self, x: Tensor) -> Tensor:
        """The state, one for each entry of the batch of the parameters."""
        shapes = [v.shape for v in self.parameters.values() if isinstance(v, Tensor)]
        batch = broadcast(x.shape[: x.ndim - len(self.in_shape)], *shapes)
        return x.expand(*batch, *self.in_shape)


class StepSimulator(Simulator):
    r"""A simulator that takes steps, :math:`x_{k+1} = F(x_k; \theta)`.

    With `segment`, the states between segments are kept for the backward pass and those inside are
    computed again: memory falls from :math:`K` steps to :math:`K / S + S`, for one more forward
    pass.

    References:
        | Training Deep Nets with Sublinear Memory Cost (Chen et al., 2016)
        | https://arxiv.org/abs/1604.06174

    Arguments:
        step: The function :math:`F`, called as ``step(x, **parameters)`` on states of shape
            :math:`(*, state)`, with parameters shaped to multiply them.
        shape: The shape of a state.
        steps: The number of steps :math:`K`.
        every: The number of steps between states that are saved; the initial state is not.
        segment: The number of steps :math:`S` of a segment, a divisor of `every`; by default
            everything is kept.
        parameters: The parameters :math:`\theta`, numbers or tensors with the shape of a batch.

    Raises:
        ValueError: If `every` does not divide `steps`, or `segment` does not divide `every`, or if
            a step returns a state of another shape.

    Example:
        >>> decay = StepSimulator(lambda x, rate: x - rate * x, 1, steps=4, every=2)
        >>> decay.given(rate=torch.tensor([0.5, 1.0]))(torch.ones(1))
        tensor([[[0.2500],
                 [0.0625]],
        <BLANKLINE>
                [[0.0000],
                 [0.0000]]])
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        shape: int | Sequence[int],
        steps: int,
        *,
        every: int = 1,
        segment: int | None = None,
        parameters: Mapping[str, Tensor | float] | None = None,
    ) -> None:
        if every < 1 or steps < every or steps % every:
            raise ValueError(
                f"expected a number of steps that {every}, the steps between saved states, "
                f"divides, got {steps}"
            )
        if segment is not None and (segment < 1 or every % segment):
            raise ValueError(
                f"expected a segment that divides {every}, the steps between saved states, got "
                f"{segment}"
            )
        super().__init__(step, shape, steps // every, parameters)
        self.every, self.segment = every, segment

    def run(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        kept = self.segment is None or not torch.is_grad_enabled()
        length = self.every if self.segment is None else self.segment
        states = []
        for _ in range(self.out_shape[0]):
            for _ in range(self.every // length):
                if kept:
                    x = self._advance(x, length, parameters)
                else:
                    x = checkpoint(self._advance, x, length, parameters, use_reentrant=False)
            states.append(x)
        return torch.stack(states, dim=-1 - len(self.in_shape))

    def _advance(self, x: Tensor, steps: int, parameters: dict[str, Tensor]) -> Tensor:
        for _ in range(steps):
            before, x = x.shape, self.function(x, **parameters)
            if x.shape != before:
                raise ValueError(
                    f"expected steps from states of shape {tuple(before)} to states of that "
                    f"shape, got {tuple(x.shape)}"
                )
        return x


class ODESimulator(Simulator):
    r"""A simulator that solves :math:`dx / ds = f(s, x; \theta)` to a given accuracy by
    `torchdiffeq`.

    Steps are as long as the errors allow, the same for all members of a batch.

    References:
        | Neural Ordinary Differential Equations (Chen et al., 2018)
        | https://arxiv.org/abs/1806.07366

    Arguments:
        field: The function :math:`f`, called as ``field(s, x, **parameters)`` on a time and states
            of shape :math:`(*, state)`, with parameters shaped to multiply them.
        shape: The shape of a state.
        times: The times :math:`s`, increasing; that of the initial state, then those that are
            saved.
        rtol: The relative tolerance.
        atol: The absolute tolerance.
        method: The Runge-Kutta pair.
        adjoint: Whether gradients are computed by a second equation solved backwards, in constant
            memory, instead of through all steps.
        parameters: The parameters :math:`\theta`, numbers or tensors with the shape of a batch.

    Raises:
        ValueError: If there are less than two times, or if they do not increase.

    Example:
        >>> decay = ODESimulator(lambda s, x, rate: -rate * x, 1, [0.0, 1.0, 2.0])
        >>> decay.given(rate=torch.tensor(0.5))(torch.ones(1)).round(decimals=3)
        tensor([[0.6070],
                [0.3680]])
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        shape: int | Sequence[int],
        times: Sequence[float],
        *,
        rtol: float = 1e-6,
        atol: float = 1e-6,
        method: Method = "dopri5",
        adjoint: bool = False,
        parameters: Mapping[str, Tensor | float] | None = None,
    ) -> None:
        if len(times) < 2 or any(b <= a for a, b in pairwise(times)):
            raise ValueError(f"expected at least two times that increase, got {list(times)}")
        super().__init__(field, shape, len(times) - 1, parameters)
        self.times = tuple(float(s) for s in times)
        self.rtol, self.atol, self.method, self.adjoint = rtol, atol, method, adjoint

    def run(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        path = solve(
            lambda s, x: self.function(s, x, **parameters),
            x,
            torch.tensor(self.times, dtype=torch.float64),
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            adjoint=self.adjoint,
            parameters=tuple(parameters.values()),
        )
        return path[1:].movedim(0, x.ndim - len(self.in_shape))
