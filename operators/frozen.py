r"""Functions, recorded so that Jacobians have cheap products in both directions.

The derivative of an adjoint product is a forward product, and torch finds it by differentiating a
backward pass. Where backward passes are functions of the input as well, as that of
:math:`\mathrm{SiLU}`, so are their derivatives, and take several times as long. Here the input is
fixed: the graph holds linear functions only,

.. math:: v \mapsto J v \qquad g \mapsto J^T g

each the backward pass of the other. That is right for products with a Jacobian at one point, and
for no second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from .frozen_convolutions import CONVOLUTIONS
from .frozen_moments import MOMENTS
from .frozen_pointwise import POINTWISE
from .frozen_shuffles import SHUFFLES

__all__ = ["Frozen"]

REPLACED: dict[Callable[..., Any], Callable[..., Any]] = {
    **CONVOLUTIONS,
    **MOMENTS,
    **POINTWISE,
    **SHUFFLES,
}


class Frozen(TorchFunctionMode):
    r"""Records what is dear to differentiate twice as linear functions, leaves of the graph being
    constants.

    Example:
        >>> import torch
        >>> x, weight = torch.randn(1, 1, 5, requires_grad=True), torch.ones(1, 1, 3)
        >>> with Frozen():
        ...     y = torch.nn.functional.conv1d(x, weight, padding="same")
        >>> torch.autograd.grad(y, x, torch.ones(1, 1, 5))[0]
        tensor([[[2., 3., 3., 3., 2.]]])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        replaced = REPLACED.get(func)
        if replaced is None:
            return func(*args, **(kwargs or {}))
        return replaced(func, *args, **(kwargs or {}))
