r"""The covariance of smooth errors with a memory."""

from __future__ import annotations

import torch
from torch import Tensor

from appa_prob.operators import Operator, SphericalStationary
from appa_prob.samplers.halo import summed_over

from .mesh import Mesh

__all__ = ["RememberedErrors"]

AT_ONCE = 8  # states


class RememberedErrors(Operator):
    r"""The covariance

    .. math:: V_{kl} = \phi^{|k - l|} \, S + \delta_{kl} \, \mathrm{diag}(r)

    over the states of a trajectory, of which each rank may hold a piece. Of the states of the
    others a rank needs no more than two sums,

    .. math:: \sum_{l < a} \phi^{a - 1 - l} \, S x_l \qquad \sum_{l \geq b} \phi^{l - b} \, S x_l

    for its piece :math:`[a, b)`, which go from rank to rank.

    If the smooth part is known at the state before the first, this is what is left:
    :math:`\phi^{|k - l|}` becomes :math:`\phi^{|k - l|} - \phi^{k + l + 2}`.

    Arguments:
        smooth: The covariance :math:`S` of a state.
        white: The variance :math:`r`, with the shape of states.
        memory: The correlation :math:`\phi`.
        length: The number of states, of those that this rank holds.
        mesh: The place of this rank, if several hold pieces; all of its row form a product
            together.
        known: If the smooth part before the first state is known, the number of states of the
            trajectory before the piece of this rank.
    """

    symmetric = True

    def __init__(
        self,
        smooth: SphericalStationary,
        white: Tensor,
        memory: float,
        length: int,
        mesh: Mesh | None = None,
        known: int | None = None,
    ) -> None:
        event = (length, *smooth.in_shape)
        super().__init__(event, event)
        self.smooth, self.white, self.memory = smooth, white, memory
        self.mesh = mesh if mesh is not None and mesh.group is not None else None
        self.total = None if self.mesh is None else summed_over(self.mesh.group)
        place = torch.arange(length, device=white.device)
        self.decay = memory ** (place[:, None] - place).abs().to(white)
        self.after = memory ** place.to(white)  # of the distance to the first state
        # What the known state tells of each.
        self.told = None if known is None else self.after * memory ** (known + 1)
        if self.told is not None and self.mesh is None:
            self.decay = self.decay - self.told[:, None] * self.told

    def forward(self, x: Tensor) -> Tensor:
        # Some states at once, since transforms take several times the memory of what they are of.
        z = torch.cat(
            [
                self.smooth.forward(part) if part.numel() else part
                for part in torch.split(x, AT_ONCE, dim=-4)
            ],
            dim=-4,
        )
        y = torch.addcmul(torch.einsum("kl,...lcij->...kcij", self.decay, z), self.white, x)
        if self.mesh is None or self.total is None:
            return y
        first, last = self.after, self.after.flip(0)
        before, after = (torch.einsum("l,...lcij->...cij", d, z) for d in (last, first))
        whole = self.memory ** self.in_shape[0]
        a = self.mesh.relay(before, whole).unsqueeze(-4)
        b = self.mesh.relay(after, whole, backwards=True).unsqueeze(-4)
        y = y + self.memory * (_column(first) * a + _column(last) * b)
        if self.told is not None:
            told = self.total(torch.einsum("l,...lcij->...cij", self.told, z))
            y = y - _column(self.told) * told.unsqueeze(-4)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y)

    def _diagonal(self) -> Tensor:
        known = torch.zeros_like(self.after) if self.told is None else self.told.square()
        smooth = (1 - known).unsqueeze(-1) * self.smooth.diagonal()
        return (smooth + self.white.flatten()).flatten()


def _column(x: Tensor) -> Tensor:
    """A number for each state."""
    return x[:, None, None, None]
