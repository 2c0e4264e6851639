r"""The Jacobian of any torch function at a point, as a lazy operator.

Adjoint products are sweeps through the graph of one evaluation. Forward products are computed in
one of three ways, see :mod:`.tape`. What they cost, in evaluations of the convolutional decoder of
``appa-small`` for 24 states, in one thread of a CPU:

================  =======================  ==============  =====  =====================
forward           at the first point       at later ones   J v    J v for the first time
================  =======================  ==============  =====  =====================
linearised        31 (3.9 s, for tracing)  1.4             1.04   1.04
double adjoint    1                        1               1.01   2.2, less a J^T u
forward mode      1                        1               2.2    2.2
================  =======================  ==============  =====  =====================

So tracing pays for functions that the double adjoint does less well with, at many points of one
shape, and never for a single one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor

from .base import Operator
from .shapes import as_size, broadcast
from .tape import Forward, record

__all__ = ["Forward", "Jacobian"]


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
        forward: How :math:`J v` is computed: by ``"double-adjoint"`` or ``"linearised"``
            (attention is then evaluated by its mathematical definition, as its fused kernels have
            neither second derivatives nor a forward mode), or by ``"forward-mode"``
            (:func:`torch.func.jvp`). By default the fastest that works without tracing:
            linearised if the function is a :class:`Linearised`, which keeps its traces; else by
            the double adjoint, or in forward mode if the function has no second derivatives.
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
        forward: Forward | None = None,
        create_graph: bool | None = None,
    ) -> None:
        batch, event = _split(x, in_shape, event_ndim)
        if create_graph is None:
            create_graph = torch.is_grad_enabled() and x.requires_grad
        self.points = batch  # which expanding the operator leaves as it is
        self.tape = record(function, x, forward, create_graph)
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
        batch = self.points
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
