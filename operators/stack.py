r"""Several operators as one: instruments observing one state, independent errors side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor

from .arguments import common_dtype
from .base import Operator
from .dense import draw
from .expressions import mirrored
from .registry import register
from .scatter import adjoint_sum
from .shapes import broadcast, flatten, unflatten

__all__ = ["BlockDiagonal", "Stack"]


@register
class Stack(Operator):
    r"""Several operators applied to one field, their flattened outputs concatenated.

    .. math:: A x = (A_1 x, \dots, A_k x) \qquad A^T y = \sum_i A_i^T y_i

    Arguments:
        blocks: The operators :math:`A_i`, with inputs of one shape.

    Raises:
        ValueError: If there is no operator, or if the input shapes differ.
        TypeError: If operators of two floating types meet.

    Example:
        >>> from appa_prob.operators import Identity, Mask
        >>> A = Stack([Identity(2), Mask(torch.tensor([False, True]))])
        >>> A(torch.tensor([1.0, 2.0]))
        tensor([1., 2., 2.])
    """

    def __init__(self, blocks: Sequence[Operator]) -> None:
        self.blocks = tuple(blocks)
        if not self.blocks or any(
            block.in_shape != self.blocks[0].in_shape for block in self.blocks
        ):
            raise ValueError(
                f"expected one or more operators with inputs of one shape, got {list(blocks)}"
            )
        super().__init__(
            self.blocks[0].in_shape,
            sum(block.out_shape.numel() for block in self.blocks),
            batch_shape=broadcast(*(block.batch_shape for block in self.blocks)),
            dtype=common_dtype(self.blocks),
        )

    def forward(self, x: Tensor) -> Tensor:
        return join(
            [block.forward(x) for block in self.blocks], [block.out_shape for block in self.blocks]
        )

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        parts = cut(y, [block.out_shape for block in self.blocks])
        return adjoint_sum(zip(self.blocks, parts, strict=True))

    def _transposed(self) -> Operator:
        from .concatenate import Concatenate

        return Concatenate([block.T for block in self.blocks])

    def __repr__(self) -> str:
        return f"Stack([{', '.join(map(repr, self.blocks))}])"


@register
class BlockDiagonal(Operator):
    r"""Several operators, each applied to its own part of a flat field.

    .. math:: A x = (A_1 x_1, \dots, A_k x_k)

    With covariances as blocks, the covariance of independent errors.

    Arguments:
        blocks: The operators :math:`A_i`.

    Raises:
        ValueError: If there is no operator.
        TypeError: If operators of two floating types meet.

    Example:
        >>> from appa_prob.operators import Isotropic
        >>> A = BlockDiagonal([Isotropic(4.0, 2), Isotropic(9.0, 1)])
        >>> A(torch.ones(3)), A.solve(torch.ones(3))
        (tensor([4., 4., 9.]), tensor([0.2500, 0.2500, 0.1111]))
    """

    def __init__(self, blocks: Sequence[Operator]) -> None:
        self.blocks = tuple(blocks)
        if not self.blocks:
            raise ValueError("expected one or more operators, got none")
        super().__init__(
            sum(block.in_shape.numel() for block in self.blocks),
            sum(block.out_shape.numel() for block in self.blocks),
            batch_shape=broadcast(*(block.batch_shape for block in self.blocks)),
            symmetric=all(block.symmetric for block in self.blocks),
            dtype=common_dtype(self.blocks),
        )

    def forward(self, x: Tensor) -> Tensor:
        inputs, outputs = self._shapes()
        parts = zip(self.blocks, cut(x, inputs), strict=True)
        return join([block.forward(part) for block, part in parts], outputs)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        inputs, outputs = self._shapes()
        parts = zip(self.blocks, cut(y, outputs), strict=True)
        return join([block.adjoint(part) for block, part in parts], inputs)

    def solve(self, b: Tensor) -> Tensor:
        self._check(b, self.out_shape)
        inputs, outputs = self._shapes()
        parts = zip(self.blocks, cut(b, outputs), strict=True)
        return join([block.solve(part) for block, part in parts], inputs)

    def sample(
        self, shape: Sequence[int] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        parts = [draw(block, self.batch_shape, shape, generator) for block in self.blocks]
        return join(parts, self._shapes()[0])

    def logdet(self) -> Tensor:
        return sum((block.logdet() for block in self.blocks[1:]), self.blocks[0].logdet())

    def _diagonal(self) -> Tensor:
        if any(block.in_shape.numel() != block.out_shape.numel() for block in self.blocks):
            return super()._diagonal()
        return join(
            [block._diagonal() for block in self.blocks],
            [Size((b.shape[-1],)) for b in self.blocks],
        )

    def _shapes(self) -> tuple[list[Size], list[Size]]:
        return [block.in_shape for block in self.blocks], [
            block.out_shape for block in self.blocks
        ]

    def _transposed(self) -> Operator:
        return BlockDiagonal([block.T for block in self.blocks])

    def _mirrors(self, other: Operator) -> bool:
        return isinstance(other, BlockDiagonal) and mirrored(self.blocks, other.blocks)

    def __repr__(self) -> str:
        return f"BlockDiagonal([{', '.join(map(repr, self.blocks))}])"


def join(parts: Sequence[Tensor], events: Sequence[Size]) -> Tensor:
    r"""Concatenates flattened events.

    Arguments:
        parts: Fields, with shapes :math:`(*, event_i)`.
        events: The event shapes.

    Returns:
        A field, with shape :math:`(*, n_1 + n_2 + \dots)`.
    """
    flat = [flatten(part, event) for part, event in zip(parts, events, strict=True)]
    batches = {part.shape[:-1] for part in flat}
    if len(batches) > 1:
        batch = broadcast(*batches)
        flat = [part.expand(*batch, part.shape[-1]) for part in flat]
    return torch.cat(flat, dim=-1)


def cut(x: Tensor, events: Sequence[Size]) -> list[Tensor]:
    r"""Undoes :func:`join`.

    Arguments:
        x: A field, with shape :math:`(*, n_1 + n_2 + \dots)`.
        events: The event shapes.

    Returns:
        Fields, with shapes :math:`(*, event_i)`.
    """
    parts = torch.split(x, [event.numel() for event in events], dim=-1)
    return [unflatten(part, event) for part, event in zip(parts, events, strict=True)]
