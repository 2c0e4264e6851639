r"""The covariance of smooth errors with a memory."""

from __future__ import annotations

import torch
from torch import Tensor

from appa_prob.operators import Operator, SphericalStationary
from appa_prob.samplers.halo import summed_over

from .mesh import Mesh

__all__ = ["RememberedErrors"]


class RememberedErrors(Operator):
    r"""The covariance

    .. math:: V_{kl} = \phi^{|k - l|} \, S + \delta_{kl} \, \mathrm{diag}(r)

    over the states of a trajectory, of which each rank may hold a piece. Of the states of the
    others a rank needs no more than two sums,

    .. math:: \sum_{l < a} \phi^{a - 1 - l} \, S x_l \qquad \sum_{l \geq b} \phi^{l - b} \, S x_l

    for its piece :math:`[a, b)`, which go from rank to rank.

    Arguments:
        smooth: The covariance :math:`S` of a state.
        white: The variance :math:`r`, with the shape of states.
        memory: The correlation :math:`\phi`.
        length: The number of states, of those that this rank holds.
        mesh: The place of this rank, if several hold pieces; all of its row form a product
            together.
    """

    symmetric = True

    def __init__(
        self,
        smooth: SphericalStationary,
        white: Tensor,
        memory: float,
        length: int,
        mesh: Mesh | None = None,
    ) -> None:
        event = (length, *smooth.in_shape)
        super().__init__(event, event)
        self.smooth, self.white, self.memory = smooth, white, memory
        self.mesh = mesh if mesh is not None and mesh.group is not None else None
        self.total = None if self.mesh is None else summed_over(self.mesh.group)
        place = torch.arange(length, device=white.device)
        self.decay = memory ** (place[:, None] - place).abs().to(white)

    def forward(self, x: Tensor) -> Tensor:
        z = self.smooth.forward(x)
        y = torch.einsum("kl,...lcij->...kcij", self.decay, z) + self.white * x
        if self.mesh is None:
            return y
        # Powers of the distance to the last state, and to the first, are rows of the matrix.
        before, after = (torch.einsum("l,...lcij->...cij", self.decay[i], z) for i in (-1, 0))
        whole = self.memory ** self.in_shape[0]
        a = self.mesh.relay(before, whole).unsqueeze(-4)
        b = self.mesh.relay(after, whole, backwards=True).unsqueeze(-4)
        first, last = (self.decay[i, :, None, None, None] for i in (0, -1))
        return y + self.memory * (first * a + last * b)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y)

    def _diagonal(self) -> Tensor:
        state = self.smooth.diagonal() + self.white.flatten()
        return state.repeat(self.in_shape[0])
