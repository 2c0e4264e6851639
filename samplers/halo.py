r"""Pieces of long trajectories that several processes hold, and what these send each other.

With :math:`G_r` what takes the states that process :math:`r` needs out of a trajectory, and
:math:`P_r` what takes those that it holds, one exchange is :math:`G_r \sum_q P_q^T x_q`, and its
adjoint is another, in which what lies on states of others goes back to them and is added up:
:meth:`Halo.gather` and :meth:`Halo.scatter` are derivatives of each other, of any order. Only
states that one process needs and another holds are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

__all__ = ["Halo", "summed_over"]


@dataclass(frozen=True)
class Halo:
    r"""Who holds and who needs which states of a trajectory.

    All processes of the group call the methods in the same order.

    Arguments:
        held: The states that each process holds; together, each state once.
        needed: The states that each process needs.
        group: The processes; by default all.

    Example:
        >>> halo = Halo((range(0, 3), range(3, 5)), (range(0, 3), range(1, 5)))
        >>> halo.overlap(0, 1)  # what the first sends to the second
        range(1, 3)
    """

    held: Sequence[range]
    needed: Sequence[range]
    group: dist.ProcessGroup | None = None

    @property
    def rank(self) -> int:
        r"""The number of this process in the group."""
        return dist.get_rank(self.group)

    def overlap(self, holder: int, needer: int) -> range:
        r"""The states that one process holds and another needs."""
        a, b = self.held[holder], self.needed[needer]
        start = max(a.start, b.start)
        return range(start, max(min(a.stop, b.stop), start))

    def gather(self, x: Tensor, axis: int) -> Tensor:
        r"""The states that this process needs, from those that each holds.

        Arguments:
            x: The states that this process holds, along some axis.
            axis: The axis, at least 0.
        """
        return _moved(x, self, axis, gather=True)

    def scatter(self, x: Tensor, axis: int) -> Tensor:
        r"""The adjoint of :meth:`gather`: for each state that this process holds, the sum of what
        all have for it.

        Arguments:
            x: States that this process needs, along some axis.
            axis: The axis, at least 0.
        """
        return _moved(x, self, axis, gather=False)

    def _collect(self, x: Tensor, axis: int) -> Tensor:
        me, x = self.rank, x.movedim(axis, 0)
        mine = self.needed[me]
        out = x.new_empty(len(mine), *x.shape[1:])
        others = [other for other in range(len(self.held)) if other != me]
        sent = {q: x[_part(self.overlap(me, q), self.held[me])].contiguous() for q in others}
        places = {q: _part(self.overlap(q, me), mine) for q in others}
        for q, states in self._exchange(sent, {q: out[at] for q, at in places.items()}).items():
            out[places[q]] = states
        own = self.overlap(me, me)
        out[_part(own, mine)] = x[_part(own, self.held[me])]
        return out.movedim(0, axis)

    def _sum(self, x: Tensor, axis: int) -> Tensor:
        me, x = self.rank, x.movedim(axis, 0)
        mine = self.held[me]
        out = x.new_zeros(len(mine), *x.shape[1:])
        own = self.overlap(me, me)
        out[_part(own, mine)] = x[_part(own, self.needed[me])]
        others = [other for other in range(len(self.held)) if other != me]
        sent = {q: x[_part(self.overlap(q, me), self.needed[me])].contiguous() for q in others}
        places = {q: _part(self.overlap(me, q), mine) for q in others}
        for q, states in self._exchange(sent, {q: out[at] for q, at in places.items()}).items():
            out[places[q]] += states
        return out.movedim(0, axis)

    def _exchange(self, sent: dict[int, Tensor], like: dict[int, Tensor]) -> dict[int, Tensor]:
        """Sends tensors to other processes, and gives what these send, of the shapes of others."""
        received = {q: torch.empty_like(x, memory_format=torch.contiguous_format)
                    for q, x in like.items() if x.numel()}  # fmt: skip
        group = self.group or dist.group.WORLD
        assert group is not None
        peer = partial(dist.get_global_rank, group)
        operations = [
            dist.P2POp(dist.isend, x, peer(q), group) for q, x in sent.items() if x.numel()
        ]
        operations += [dist.P2POp(dist.irecv, x, peer(q), group) for q, x in received.items()]
        if operations:
            for work in dist.batch_isend_irecv(operations):
                work.wait()
        return received


def _part(states: range, within: range) -> slice:
    return slice(states.start - within.start, states.stop - within.start)


class _Move(Function):
    """One of the two exchanges; its derivative is the other one, or itself."""

    @staticmethod
    def forward(x: Tensor, halo: Halo, axis: int, gather: bool) -> Tensor:
        return halo._collect(x, axis) if gather else halo._sum(x, axis)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, *ctx.how = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        halo, axis, gather = ctx.how
        return _moved(gradients[0], halo, axis, not gather), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _moved(tangents[0], *ctx.how)


def _moved(x: Tensor, halo: Halo, axis: int, gather: bool) -> Tensor:
    result: Tensor = _Move.apply(x, halo, axis, gather)  # type: ignore[no-untyped-call]
    return result


def summed_over(group: dist.ProcessGroup | None) -> Callable[[Tensor], Tensor]:
    r"""What adds up numbers over processes. Its adjoint is itself.

    Arguments:
        group: The processes; by default all.
    """
    return partial(_total, group)


def _total(group: dist.ProcessGroup | None, x: Tensor) -> Tensor:
    total: Tensor = _Total.apply(x, group)  # type: ignore[no-untyped-call]
    return total


class _Total(Function):
    @staticmethod
    def forward(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _total(ctx.group, gradients[0]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _total(ctx.group, tangents[0])
