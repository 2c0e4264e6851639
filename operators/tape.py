r"""What is kept of a function at a point, for products with its Jacobian.

For :math:`y = f(x)` the reverse mode of automatic differentiation gives adjoint products,

.. math:: J^T u = \mathrm{vjp}_x(u)

from a graph recorded once. Forward products are computed in one of three ways:

- *linearised*: the linear part of :math:`f` is traced once for all points of one shape, see
  :mod:`.linearised`;
- by the *double adjoint*: adjoint products are linear in :math:`u`, and differentiating them with
  respect to :math:`u`, again in reverse, gives

  .. math:: J v = \left( \frac{\partial \, J^T u}{\partial u} \right)^T v

  from a second graph recorded once;
- in *forward mode*, which needs no second graph, but evaluates the function again for each
  product.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NoReturn

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .frozen import Frozen
from .linearised import Linearised
from .transforms import transformed

__all__ = ["Forward", "Tape", "record"]

Forward = Literal["linearised", "double-adjoint", "forward-mode"]
Function = Callable[[Tensor], Tensor]


def record(function: Function, x: Tensor, mode: Forward | None, create_graph: bool) -> Tape:
    r"""Evaluates a function once, and keeps what products with its Jacobian need.

    Inside ``torch.func`` transforms and ``torch.compile`` nothing is traced: there the linearised
    way is the double adjoint.

    Arguments:
        function: The function :math:`f`.
        x: The point.
        mode: How forward products are computed; None for the fastest that works.
        create_graph: Whether products are differentiable with respect to :math:`x`.

    Raises:
        ValueError: If there is no such mode.
        RuntimeError: Under ``torch.inference_mode``, which records no graphs.

    Example:
        >>> tape = record(torch.sin, torch.zeros(2), "forward-mode", False)
        >>> tape.pull(torch.ones(2))
        tensor([1., 1.])
    """
    if mode not in (None, "linearised", "double-adjoint", "forward-mode"):
        raise ValueError(
            "expected forward to be 'linearised', 'double-adjoint', 'forward-mode' or None, got "
            f"{mode!r}"
        )
    if transformed():
        return Transformed(function, x, mode == "forward-mode", create_graph)
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "torch.inference_mode records no graph, got a Jacobian to make; use torch.no_grad"
        )
    if mode == "forward-mode":
        return ForwardMode(function, x, create_graph)
    if mode == "linearised" or (mode is None and isinstance(function, Linearised)):
        return Traced(function, x, create_graph)
    return DoubleAdjoint(function, x, create_graph, fallback=mode is None)


class Tape(ABC):
    """Products with the Jacobian of a function at a point."""

    point: Tensor
    value: Tensor

    @abstractmethod
    def pull(self, u: Tensor) -> Tensor:
        r"""Computes :math:`J^T u`, with :math:`u` of the shape of the value."""

    @abstractmethod
    def push(self, v: Tensor) -> Tensor:
        r"""Computes :math:`J v`, with :math:`v` of the shape of the point."""

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "a Jacobian holds a graph and can't be copied or pickled; keep its function and point "
            "instead"
        )


class Recorded(Tape):
    """A tape whose adjoint products come from the graph of one evaluation."""

    def __init__(self, function: Function, x: Tensor, create_graph: bool) -> None:
        self.function, self.create_graph = function, create_graph
        with torch.enable_grad():
            self.point = x.view_as(x) if create_graph else x.detach().requires_grad_()
            self.output = self.evaluate(self.point)
        self.value = self.output if create_graph else self.output.detach()

    def evaluate(self, x: Tensor) -> Tensor:
        """The function, as it is recorded."""
        return self.function(x)

    def pull(self, u: Tensor) -> Tensor:
        if not self.output.requires_grad:
            return torch.zeros_like(self.point)
        return self.gradient(u, self.create_graph or wanted(u))

    def gradient(self, u: Tensor, create_graph: bool) -> Tensor:
        """The adjoint product, from the graph, which stays."""
        return torch.autograd.grad(
            self.output,
            self.point,
            u,
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=True,
        )[0]


class ForwardMode(Recorded):
    """A tape whose forward products evaluate the function again."""

    def push(self, v: Tensor) -> Tensor:
        point = self.point if self.create_graph else self.point.detach()
        return jvp(self.function, point, v)


class Traced(Recorded):
    """A tape whose forward products are evaluations of the linear part of the function."""

    def evaluate(self, x: Tensor) -> Tensor:
        function = self.function
        kept = function if isinstance(function, Linearised) else Linearised(function)
        self.trace = kept.trace(x)
        value, self.residuals = self.trace.value(x)
        return value

    def push(self, v: Tensor) -> Tensor:
        with nullcontext() if self.create_graph or wanted(v) else torch.no_grad():
            return self.trace.product(v, self.residuals)


class DoubleAdjoint(Recorded):
    """A tape whose forward products are derivatives of adjoint products.

    Functions without second derivatives have forward products in forward mode, with a fallback.
    """

    def __init__(
        self, function: Function, x: Tensor, create_graph: bool, fallback: bool = False
    ) -> None:
        super().__init__(function, x, create_graph)
        self.fallback = fallback
        self.seed: Tensor | None = None
        self.sweep: Tensor | None = None
        self.other: ForwardMode | None = None
        self.examined = False

    def evaluate(self, x: Tensor) -> Tensor:
        constant = nullcontext() if self.create_graph else Frozen()
        with mathematical_attention(), constant:
            return self.function(x)

    def pull(self, u: Tensor) -> Tensor:
        plain = not (self.create_graph or wanted(u) or transformed())
        if self.sweep is None and plain and self.output.requires_grad:
            return self._sweep(u).detach()  # the same sweep serves the forward products
        return super().pull(u)

    def push(self, v: Tensor) -> Tensor:
        if not self.output.requires_grad:
            return torch.zeros_like(self.value)
        if self.other is not None:
            return self.other.push(v)
        try:
            return self._differentiated(v)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not self.fallback:
                raise
            return self._instead(v, error)

    def _differentiated(self, v: Tensor) -> Tensor:
        sweep = self._sweep() if self.sweep is None else self.sweep
        if not sweep.requires_grad:
            return torch.zeros_like(self.value)
        if not self.examined:
            refuse_cut_graphs(sweep)
            self.examined = True
        assert self.seed is not None
        return torch.autograd.grad(
            sweep,
            self.seed,
            v,
            retain_graph=True,
            create_graph=self.create_graph or wanted(v),
            materialize_grads=True,
        )[0]

    def _instead(self, v: Tensor, error: RuntimeError) -> Tensor:
        other = ForwardMode.__new__(ForwardMode)
        other.function, other.create_graph = self.function, self.create_graph
        other.point, other.output, other.value = self.point, self.output, self.value
        try:
            result = other.push(v)
        except RuntimeError as second:
            raise RuntimeError(
                "expected a function with second derivatives or with a forward mode, got "
                f"{self.function!r}, of which both fail ({error}; {second})"
            ) from error
        self.other, self.sweep, self.seed = other, None, None
        return result

    def _sweep(self, u: Tensor | None = None) -> Tensor:
        """The adjoint product with u, or with 0, to be differentiated."""
        with torch.enable_grad():
            if u is None:
                self.seed = torch.zeros_like(self.value, requires_grad=True)
            else:
                self.seed = u.detach().requires_grad_()
            self.sweep = self.gradient(self.seed, create_graph=True)
        return self.sweep


class Transformed(Tape):
    """A tape inside ``torch.func`` transforms and ``torch.compile``, where functions stand for
    graphs."""

    def __init__(self, function: Function, x: Tensor, again: bool, create_graph: bool) -> None:
        self.function, self.again = function, again
        self.point = x if create_graph or transformed() else x.detach()
        with mathematical_attention():
            self.value, self.transposed = torch.func.vjp(function, self.point)[:2]

    def pull(self, u: Tensor) -> Tensor:
        result: Tensor = self.transposed(u)[0]
        return result

    def push(self, v: Tensor) -> Tensor:
        if self.again:
            return jvp(self.function, self.point, v)
        product = torch.func.vjp(self.pull, torch.zeros_like(self.value))[1]
        result: Tensor = product(v)[0]
        return result


def refuse_cut_graphs(sweep: Tensor) -> None:
    r"""Looks for functions that can be differentiated only once: their graphs end without a trace,
    as if the derivative were 0.

    Arguments:
        sweep: An adjoint product, recorded.

    Raises:
        RuntimeError: If there is one.
    """
    seen, left = set(), [sweep.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("a function is marked as once_differentiable")
        seen.add(node)
        left.extend(following for following, _ in node.next_functions)


def jvp(function: Function, x: Tensor, v: Tensor) -> Tensor:
    """The product in forward mode."""
    result: Tensor
    if torch.compiler.is_compiling():  # which knows nothing of filters of warnings
        result = torch.func.jvp(function, (x,), (v,))[1]
        return result
    with warnings.catch_warnings():  # torch scripts functions when forward mode is first used
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        result = torch.func.jvp(function, (x,), (v,))[1]
    return result


def wanted(u: Tensor) -> bool:
    """Whether products are to be differentiable with respect to what they are applied to."""
    return u.requires_grad and torch.is_grad_enabled()


def mathematical_attention() -> AbstractContextManager[None]:
    """Attention by its definition: fused kernels have no second derivatives, and no forward mode
    either."""
    return sdpa_kernel(SDPBackend.MATH)
