r"""The covariance of smooth errors with a memory, of trajectories that several ranks hold."""

from __future__ import annotations

import torch
from torch import Tensor

from appa_prob.operators import Operator, SphericalStationary
from appa_prob.samplers.halo import summed_over

from .mesh import Mesh

__all__ = ["SpreadErrors"]


class SpreadErrors(Operator):
    r"""The covariance

    .. math:: V_{kl} = \phi^{|k - l|} \, S + \delta_{kl} \, \mathrm{diag}(r)

    over the states of a trajectory of which each rank holds a piece. Of the states of the others
    a rank needs no more than two sums,

    .. math:: \sum_{l < a} \phi^{a - 1 - l} \, S x_l \qquad \sum_{l \geq b} \phi^{l - b} \, S x_l

    for its piece :math:`[a, b)`, which go from rank to rank.

    Arguments:
        smooth: The covariance :math:`S` of a state.
        white: The variance :math:`r`, with the shape of states.
        memory: The correlation :math:`\phi`.
        length: The number of states of the piece.
        mesh: The place of this rank; all of its row form a product together.
    """

    symmetric = True

    def __init__(
        self, smooth: SphericalStationary, white: Tensor, memory: float, length: int, mesh: Mesh
    ) -> None:
        event = (length, *smooth.in_shape)
        super().__init__(event, event)
        self.smooth, self.white, self.memory, self.mesh = smooth, white, memory, mesh
        self.total = summed_over(mesh.group)
        place = torch.arange(length, device=white.device)
        self.decay = memory ** (place[:, None] - place).abs().to(white)

    def forward(self, x: Tensor) -> Tensor:
        z, length = self.smooth.forward(x), x.shape[-4]
        y = self._over_time("kl,...lcij->...kcij", z)
        # Powers of the distance to the last state, and to the first, are rows of the matrix.
        before = self._over_time("l,...lcij->...cij", z, -1)
        after = self._over_time("l,...lcij->...cij", z, 0)
        whole = self.memory**length
        a = self.mesh.relay(before, whole).unsqueeze(-4)
        b = self.mesh.relay(after, whole, backwards=True).unsqueeze(-4)
        first, last = (self.decay[i, :, None, None, None] for i in (0, -1))
        return y + self.memory * (first * a + last * b) + self.white * x

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, self.out_shape)
        return self.forward(y)

    def _over_time(self, indices: str, z: Tensor, row: int | None = None) -> Tensor:
        return torch.einsum(indices, self.decay if row is None else self.decay[row], z)
