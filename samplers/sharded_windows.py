r"""Long trajectories whose windows several processes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch.distributed as dist
from torch import Tensor

from .denoiser import Denoiser
from .halo import Halo, summed_over
from .windowed import Overlap, WindowedDenoiser, window_starts

__all__ = ["ShardedWindows", "window_pieces"]


class ShardedWindows(Denoiser):
    r"""The denoiser of :class:`WindowedDenoiser`, for the piece of a trajectory that a process
    holds.

    .. math:: d(x, t) = G^T \, \{w_j \, d_j\} \, G \, x

    Each process evaluates some windows that follow each other, and holds the states from the end
    of the windows before to the end of its own. :math:`G` brings what its windows need of the
    states before, and :math:`G^T` brings back what they say of these (:class:`Halo`). An
    evaluation sends :math:`W - s` states over each border for windows of :math:`W` states every
    :math:`s`, and as many back; so does a product with the Jacobian. Nothing else depends on
    the length of the trajectory.

    A state of this denoiser is a piece, all processes of the group evaluate it together, and
    integrators and guidance need not know: a likelihood is that of the observations of the piece,
    and inner products of CG, GMRES and MINRES are added up over the processes (``total``). What
    needs a dense matrix, or weighs trajectories by their densities, as :class:`TDS`, does not
    work on pieces.

    Arguments:
        denoiser: The denoiser of windows, or one for each window of the trajectory, as for
            :class:`WindowedDenoiser`.
        length: The number of states of the whole trajectory.
        stride: The number of states between two windows.
        overlap: How predictions are combined.
        context: What else the denoiser depends on, of the whole trajectory.
        at_once: The number of windows that a process evaluates at once; by default all of its own.
        group: The processes that share the trajectory; by default all.

    Attributes:
        piece: The states of the trajectory that this process holds.

    Raises:
        ValueError: If there are fewer windows than processes, or as for
            :class:`WindowedDenoiser`.

    Example:
        On one process it is a :class:`WindowedDenoiser`; `torchrun` starts several.

        >>> import torch
        >>> from appa_prob.operators import Isotropic
        >>> from appa_prob.samplers import GaussianDenoiser, VESchedule
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> d = GaussianDenoiser(torch.zeros(4, 2), Isotropic(1.0, (4, 2)), VESchedule(0.1, 10.0))
        >>> long = ShardedWindows(d, length=9, stride=2)
        >>> long.piece, long(torch.ones(9, 2), torch.tensor(0.5)).unique()
        (range(0, 9), tensor([0.5000]))
        >>> dist.destroy_process_group()
    """

    def __init__(
        self,
        denoiser: Denoiser | Sequence[Denoiser],
        *,
        length: int,
        stride: int,
        overlap: Overlap = "blend",
        context: Mapping[str, Tensor] | None = None,
        at_once: int | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        whole = WindowedDenoiser(
            denoiser,
            length=length,
            stride=stride,
            overlap=overlap,
            context=context,
            at_once=at_once,
        )
        window = whole.places.shape[1]
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        held = window_pieces(length, window, stride, ranks)
        mine = [_share(len(whole.starts), ranks, r) for r in range(ranks)]
        needed = [range(whole.starts[m[0]], whole.starts[m[-1]] + window) for m in mine]
        super().__init__((len(held[rank]), *whole.event_shape[1:]), whole.schedule)
        self.windows = whole.part(mine[rank])
        self.halo = Halo(held, needed, group)
        self.piece = held[rank]
        self._total = summed_over(group)

    @property
    def total(self) -> Callable[[Tensor], Tensor]:
        r"""What adds up numbers over all processes."""
        return self._total

    def forward(self, x_t: Tensor, t: Tensor, **context: Tensor) -> Tensor:
        self.check(x_t, t)
        axis = x_t.ndim - len(self.event_shape)
        means = self.windows(self.halo.gather(x_t, axis), t, **context)
        return self.halo.scatter(means, axis)


def window_pieces(length: int, window: int, stride: int, ranks: int) -> list[range]:
    r"""The piece of a trajectory that each of some processes holds.

    The first one is a window long at least.

    Arguments:
        length: The number of states of the trajectory.
        window: The number of states of a window.
        stride: The number of states between two windows.
        ranks: The number of processes.

    Raises:
        ValueError: If there are fewer windows than processes.

    Example:
        >>> window_pieces(24, 12, 6, 2)
        [range(0, 12), range(12, 24)]
    """
    starts = window_starts(length, window, stride)
    if len(starts) < ranks:
        raise ValueError(
            f"expected a window for each of {ranks} processes, got {len(starts)} windows of "
            f"{window} states every {stride} in {length} states: take fewer processes, a longer "
            "trajectory or a smaller stride"
        )
    ends = [starts[_share(len(starts), ranks, r)[-1]] + window for r in range(ranks)]
    return [range(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def _share(count: int, ranks: int, rank: int) -> range:
    return range(rank * count // ranks, (rank + 1) * count // ranks)
