r"""The Jacobian of any torch function at a point, as a lazy operator.

For :math:`y = f(x)` the reverse mode of automatic differentiation gives adjoint products,

.. math:: J^T u = \mathrm{vjp}_x(u)

which are linear in :math:`u`; differentiating them with respect to :math:`u`, again in reverse,
gives forward products,

.. math:: J v = \left( \frac{\partial \, J^T u}{\partial u} \right)^T v

so that both come from graphs recorded once, and the function itself is evaluated once. Forward
mode is the alternative: it needs no second graph, but evaluates the function again for each
product.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NoReturn

import torch
from torch import Size, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .base import Operator
from .frozen_convolutions import FrozenConvolutions
from .shapes import as_size, broadcast

__all__ = ["Forward", "Jacobian"]

Forward = Literal["double-adjoint", "forward-mode"]


class Jacobian(Operator):
    r"""The Jacobian :math:`J = \partial f / \partial x` at :math:`x`.

    The value :math:`f(x)` is computed once, when the Jacobian is made, under ``torch.no_grad`` or
    not. Products are differentiable with respect to the field that they are applied to, and, where
    gradients are wanted (see ``create_graph``), with respect to :math:`x`.

    Arguments:
        function: The function :math:`f`, taking fields of shape :math:`(*, in)` to fields of shape
            :math:`(*, out)`, each batch entry independently of the others.
        x: The point, with shape :math:`(*, in)`.
        in_shape: The shape of input events; by default that of :math:`x`, without batch.
        event_ndim: The number of event axes of :math:`x`, instead of ``in_shape``.
        forward: How :math:`J v` is computed: by ``"double-adjoint"`` (attention is then evaluated
            by its mathematical definition, as its fused kernels have no second derivatives), or by
            ``"forward-mode"`` (:func:`torch.func.jvp`; fused attention has no forward mode
            either).
        create_graph: Whether the value and the products are differentiable with respect to
            :math:`x`; by default if :math:`x` requires a gradient and gradients are enabled.

    Raises:
        ValueError: If shapes don't fit, or if ``forward`` is unknown.
        RuntimeError: Under ``torch.inference_mode``, which records no graphs.

    References:
        | A trick for computing the action of the Jacobian from the left (Townsend, 2017)
        | https://j-towns.github.io/2017/06/12/A-new-trick.html

    Example:
        >>> J = Jacobian(lambda x: x**2, torch.tensor([1.0, 2.0]))
        >>> J.value, J(torch.ones(2)), J.adjoint(torch.ones(2))
        (tensor([1., 4.]), tensor([2., 4.]), tensor([2., 4.]))
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        in_shape: int | Sequence[int] | None = None,
        *,
        event_ndim: int | None = None,
        forward: Forward = "double-adjoint",
        create_graph: bool | None = None,
    ) -> None:
        if forward not in ("double-adjoint", "forward-mode"):
            raise ValueError(
                f"expected forward to be 'double-adjoint' or 'forward-mode', got {forward!r}"
            )
        batch, event = _split(x, in_shape, event_ndim)
        if create_graph is None:
            create_graph = torch.is_grad_enabled() and x.requires_grad
        self.tape = Tape(function, x, forward, create_graph)
        value = self.tape.value
        if value.shape[: len(batch)] != batch:
            raise ValueError(
                f"expected a function that keeps the batch axes {tuple(batch)}, got a value of "
                f"shape {tuple(value.shape)} from a point of shape {tuple(x.shape)}; give "
                "in_shape or event_ndim if the first axes belong to the event"
            )
        super().__init__(
            event, value.shape[len(batch) :], batch_shape=batch, dtype=value.dtype, device=x.device
        )

    @property
    def value(self) -> Tensor:
        """The value :math:`f(x)`."""
        return self.tape.value

    def forward(self, x: Tensor) -> Tensor:
        if x.shape == self.tape.point.shape:
            return self.tape.push(x)
        return self._each(self.tape.push, x, self.in_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        if y.shape == self.tape.value.shape:
            return self.tape.pull(y)
        self._check(y, self.out_shape)
        return self._each(self.tape.pull, y, self.out_shape)

    def _each(self, product: Callable[[Tensor], Tensor], x: Tensor, event: Size) -> Tensor:
        """Applies a product to fields with more batch axes than the point, part by part."""
        batch = self.batch_shape
        full = broadcast(x.shape[: x.ndim - len(event)], batch)
        extra = len(full) - len(batch)
        axes = [i for i, n in enumerate(full) if i < extra or batch[i - extra] != n]
        kept = [n for i, n in enumerate(full) if i not in axes]
        loop = Size(full[i] for i in axes)
        x = x.expand(*full, *event).movedim(axes, list(range(len(axes))))
        parts = [product(part) for part in x.reshape(loop.numel(), *batch, *event)]
        target = self.in_shape if product == self.tape.pull else self.out_shape
        y = torch.stack(parts) if parts else x.new_zeros(0, *batch, *target)
        return y.reshape((*loop, *kept, *target)).movedim(list(range(len(axes))), axes)

    def _retarget(self, dtype: torch.dtype | None, device: torch.device | None) -> None:
        if dtype not in (None, self._dtype) or device not in (None, self._device):
            raise TypeError(
                f"expected to keep {self._dtype} on {self._device}, got {dtype} on {device}: a "
                "Jacobian lives where its function and point live; move these and linearize again"
            )


class Tape:
    r"""What is recorded of a function at a point.

    Arguments:
        function: The function :math:`f`.
        x: The point.
        mode: How forward products are computed.
        create_graph: Whether products are differentiable with respect to :math:`x`.

    Example:
        >>> tape = Tape(torch.sin, torch.zeros(2), "forward-mode", False)
        >>> tape.pull(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], x: Tensor, mode: Forward, create_graph: bool
    ) -> None:
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "torch.inference_mode records no graph, got a Jacobian to make; use torch.no_grad"
            )
        self.function, self.mode, self.create_graph = function, mode, create_graph
        double = mode == "double-adjoint"
        attention: AbstractContextManager[None] = (
            sdpa_kernel(SDPBackend.MATH) if double else nullcontext()
        )
        convolutions: AbstractContextManager[object] = (
            FrozenConvolutions() if double and not create_graph else nullcontext()
        )
        with torch.enable_grad(), attention, convolutions:
            self.point = x.view_as(x) if create_graph else x.detach().requires_grad_()
            self.output = function(self.point)
        self.value = self.output if create_graph else self.output.detach()
        self.seed: Tensor | None = None
        self.sweep: Tensor | None = None

    def pull(self, u: Tensor) -> Tensor:
        r"""Computes :math:`J^T u`, with :math:`u` of the shape of the value."""
        if not self.output.requires_grad:
            return torch.zeros_like(self.point)
        if self.create_graph or (u.requires_grad and torch.is_grad_enabled()):
            return self._gradient(u, create_graph=True)
        if self.mode == "double-adjoint" and self.sweep is None:
            return self._record(u).detach()  # the same sweep serves the forward products
        return self._gradient(u)

    def push(self, v: Tensor) -> Tensor:
        r"""Computes :math:`J v`, with :math:`v` of the shape of the point."""
        if self.mode == "forward-mode":
            with (
                warnings.catch_warnings()
            ):  # torch scripts functions when forward mode is first used
                warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
                point = self.point if self.create_graph else self.point.detach()
                result: Tensor = torch.func.jvp(self.function, (point,), (v,))[1]
            return result
        if not self.output.requires_grad:
            return torch.zeros_like(self.value)
        sweep = self._record(torch.zeros_like(self.value)) if self.sweep is None else self.sweep
        if not sweep.requires_grad:
            return torch.zeros_like(self.value)
        assert self.seed is not None
        create = self.create_graph or (v.requires_grad and torch.is_grad_enabled())
        return torch.autograd.grad(
            sweep, self.seed, v, retain_graph=True, create_graph=create, materialize_grads=True
        )[0]

    def _record(self, u: Tensor) -> Tensor:
        with torch.enable_grad():
            self.seed = u.detach().requires_grad_()
            self.sweep = self._gradient(self.seed, create_graph=True)
        return self.sweep

    def _gradient(self, u: Tensor, create_graph: bool = False) -> Tensor:
        return torch.autograd.grad(
            self.output,
            self.point,
            u,
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=True,
        )[0]

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "a Jacobian holds a graph and can't be copied or pickled; keep its function and point "
            "instead"
        )


def _split(
    x: Tensor, in_shape: int | Sequence[int] | None, event_ndim: int | None
) -> tuple[Size, Size]:
    if in_shape is not None and event_ndim is not None:
        raise ValueError(f"expected in_shape or event_ndim, got both: {in_shape} and {event_ndim}")
    if in_shape is not None:
        event_ndim = len(as_size(in_shape))
    ndim = x.ndim if event_ndim is None else event_ndim
    batch, event = x.shape[: x.ndim - ndim], x.shape[x.ndim - ndim :]
    if ndim > x.ndim or (in_shape is not None and event != as_size(in_shape)):
        expected = (
            f"(*, {', '.join(map(str, as_size(in_shape)))})"
            if in_shape is not None
            else f"{ndim} event axes"
        )
        raise ValueError(
            f"expected a point with {expected}, got shape {tuple(x.shape)}; batch axes come first"
        )
    return Size(batch), Size(event)
