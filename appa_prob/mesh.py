r"""Which rank samples which members, and which states of them.

Ranks are arranged in rows: those of a row share the windows of the same trajectories, and rows
share the members,

.. math:: \text{ranks} = \text{rows} \times \text{windows}

Without `torchrun` there is one rank, which samples all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor

from appa_prob.samplers import window_pieces

from .errors import UserError
from .parallel import rank, ranks

if TYPE_CHECKING:
    from .appa import Appa

__all__ = ["Mesh", "ParallelConfig", "clip"]


class ParallelConfig(BaseModel):
    r"""How ranks share the work of sampling.

    Attributes:
        windows: The number of ranks that share the windows of one trajectory, and so its memory;
            as many times as this goes into the number of ranks, these share the members.
    """

    model_config = ConfigDict(extra="forbid")

    windows: PositiveInt = 1


@dataclass(frozen=True, eq=False)
class Mesh:
    r"""The place of this rank; by default it is the only one.

    Arguments:
        rows: The number of rows, which share the members.
        row: The row of this rank.
        windows: The number of ranks of a row, which share the windows.
        column: The place of this rank in its row.
        group: The ranks of this row, if there are more than one.

    Example:
        >>> mesh = Mesh(rows=4, row=1)
        >>> mesh.members(16)
        range(4, 8)
    """

    rows: int = 1
    row: int = 0
    windows: int = 1
    column: int = 0
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, config: ParallelConfig | None = None) -> Mesh:
        r"""The place of this rank among those that `torchrun` started. All call it together.

        Arguments:
            config: How ranks share the work; by default each samples its part of the members.

        Raises:
            UserError: If the ranks can't be arranged so.
        """
        windows = 1 if config is None else config.windows
        rows, rest = divmod(ranks(), windows)
        if rest or not rows:
            raise UserError(
                f"parallel.windows: expected a divisor of the number of ranks, {ranks()}, got "
                f"{windows}: change it, or start {windows} ranks, or a multiple, by torchrun"
            )
        row, column = divmod(rank(), windows)
        group = None
        if windows > 1:
            parts = [range(r * windows, (r + 1) * windows) for r in range(rows)]
            group = [dist.new_group(list(part)) for part in parts][row]
        return cls(rows, row, windows, column, group)

    def members(self, count: int) -> range:
        r"""The members that this rank samples.

        Arguments:
            count: The number of all members.

        Raises:
            UserError: If there are fewer members than rows.
        """
        if count < self.rows:
            raise UserError(
                f"expected a member for each of {self.rows} ranks or rows of ranks, got {count}: "
                "start fewer ranks, or raise parallel.windows"
            )
        return range(self.row * count // self.rows, (self.row + 1) * count // self.rows)

    def piece(self, appa: Appa, length: int, stride: int | None = None) -> range:
        r"""The states of a trajectory that this rank samples.

        Arguments:
            appa: The model.
            length: The number of all states.
            stride: The number of states between two windows; by default half a window.

        Raises:
            UserError: If there are fewer windows than ranks in a row.
        """
        if self.group is None or length < appa.window:  # the latter is refused elsewhere
            return range(length)
        pieces = [range(0)]
        try:
            pieces = window_pieces(length, appa.window, stride or appa.window // 2, self.windows)
        except ValueError as error:
            raise UserError(f"parallel.windows: {error}") from None
        return pieces[self.column]

    def assemble(self, part: Tensor, shape: Sequence[int], *places: range) -> Tensor:
        r"""A tensor that ranks hold parts of, on all of them.

        Arguments:
            part: What this rank holds.
            shape: The first axes of the whole.
            places: Where along these axes the part lies; no two ranks hold the same.
        """
        if self.rows * self.windows == 1:
            return part
        whole = part.new_zeros(*shape, *part.shape[len(shape) :])
        whole[tuple(slice(p.start, p.stop) for p in places)] = part
        dist.all_reduce(whole)  # the other ranks have zeros there
        return whole

    def last(self, x: Tensor, members: int) -> Tensor:
        r"""What the last ranks of the rows hold of their members, of all members on all ranks.

        Arguments:
            x: What this rank has, with shape :math:`(M, \dots)`.
            members: The number of all members.
        """
        mine = self.members(members)
        if self.column < self.windows - 1:
            x, mine = x[:0], range(0)
        return self.assemble(x, (members,), mine)

    def relay(self, own: Tensor, decay: float, *, backwards: bool = False) -> Tensor:
        r"""What the pieces of a trajectory before this one sum up to,

        .. math:: a_k = b_{k-1} + d_{k-1} \, a_{k-1} \qquad a_0 = 0

        for the terms :math:`b_k` and the decays :math:`d_k` of the ranks of a row.

        Arguments:
            own: The term :math:`b_k` of this rank, of one shape on all.
            decay: The decay :math:`d_k` of this rank.
            backwards: Whether the pieces after this one count instead.
        """
        a, step = torch.zeros_like(own), -1 if backwards else 1
        here = self.row * self.windows
        source, target = self.column - step, self.column + step
        if 0 <= source < self.windows:
            a = a.contiguous()
            dist.recv(a, here + source)
        if 0 <= target < self.windows:
            dist.send((own + decay * a).contiguous(), here + target)
        return a

    def together(self) -> None:
        r"""Waits until all ranks are here."""
        if self.rows * self.windows > 1:
            dist.barrier()

    def together_in_row(self) -> None:
        r"""Waits until all ranks of this row are here."""
        if self.group is not None:
            dist.barrier(self.group)

    def first(self, action: Callable[[], object]) -> None:
        r"""Lets the first rank do something while the others wait.

        Arguments:
            action: What to do.

        Raises:
            UserError: On the others if it fails, so that they end too.
        """
        if self.rows * self.windows == 1:
            action()
            return
        failed: list[str | None] = [None]
        try:
            if rank() == 0:
                action()
        except Exception as error:
            failed = [str(error)]
            raise
        finally:
            dist.broadcast_object_list(failed, 0)
        if failed[0] is not None:
            raise UserError(f"the first rank failed: {failed[0]}")


def clip(piece: range, start: int, stop: int) -> range:
    r"""Those states of a piece that lie from one to before another.

    Example:
        >>> clip(range(4, 8), 6, 12), clip(range(4, 8), 0, 2)
        (range(6, 8), range(4, 4))
    """
    first = min(max(start, piece.start), piece.stop)
    return range(first, max(min(stop, piece.stop), first))
