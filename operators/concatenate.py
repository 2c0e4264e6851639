"""Several operators side by side: each reads its own part of a flat field, and outputs add up."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .arguments import common_dtype
from .base import Operator
from .expressions import mirrored
from .kept import kept
from .registry import register
from .scatter import adjoint_sum
from .shapes import broadcast
from .stack import Stack, cut, join

__all__ = ["Concatenate"]


@register
class Concatenate(Operator):
    r"""Several operators, each applied to its own part of a flat field, their outputs added.

    .. math:: A x = \sum_i A_i x_i \qquad A^T y = (A_1^T y, \dots, A_k^T y)

    It is the adjoint of a :class:`Stack`.

    Arguments:
        blocks: The operators :math:`A_i`, with outputs of one shape.

    Raises:
        ValueError: If there is no operator, or if the output shapes differ.
        TypeError: If operators of two floating types meet.

    Example:
        >>> import torch
        >>> from appa_prob.operators import Identity, Scaling
        >>> A = Concatenate([Identity(2), Scaling(10.0, 2)])
        >>> A(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        tensor([31., 42.])
    """

    def __init__(self, blocks: Sequence[Operator]) -> None:
        self.blocks = tuple(blocks)
        if not self.blocks or any(
            block.out_shape != self.blocks[0].out_shape for block in self.blocks
        ):
            raise ValueError(
                f"expected one or more operators with outputs of one shape, got {list(blocks)}"
            )
        super().__init__(
            sum(block.in_shape.numel() for block in self.blocks),
            self.blocks[0].out_shape,
            batch_shape=broadcast(*(block.batch_shape for block in self.blocks)),
            dtype=common_dtype(self.blocks),
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = cut(x, [block.in_shape for block in self.blocks])
        return adjoint_sum(zip(self._adjoints, parts, strict=True))

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return join(
            [block.adjoint(y) for block in self.blocks], [block.in_shape for block in self.blocks]
        )

    @kept
    def _adjoints(self) -> tuple[Operator, ...]:
        """The adjoints of the operators, since sums of adjoints are made without copies."""
        return tuple(block.T for block in self.blocks)

    def _transposed(self) -> Operator:
        return Stack(self._adjoints)

    def _mirrors(self, other: Operator) -> bool:
        return isinstance(other, Stack) and mirrored(self.blocks, other.blocks)

    def __repr__(self) -> str:
        return f"Concatenate([{', '.join(map(repr, self.blocks))}])"
